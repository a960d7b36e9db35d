"""What the report calls things."""

from __future__ import annotations

from typing import Final

from fedserver.overhead.peers import Place
from fedserver.overhead.record import Record
from fedserver.overhead.units import count, ratio, spread

_NAMES: Final = {
    "plain": "plain",
    "flower-fedavg": "Flower FedAvg",
    "flower-secagg+": "Flower SecAgg+",
    "tenseal-4096": "TenSEAL 4096",
    "tenseal-8192-each": "TenSEAL 8192",
    "fedavg": "plaintext mean",
    "aes-ctr": "AES-CTR",
    "memcpy": "memory copy",
    "https": "HTTPS upload",
}
MEANINGS: Final = {
    "plain": "this project's transport and store with nothing protected",
    "flower-fedavg": "Flower's own SuperLink and SuperNodes with their polls and processes, plaintext averages",
    "flower-secagg+": "the functions of Flower's SecAgg+ client and server, as installed",
    "tenseal-4096": "TenSEAL's CKKS, ring of 4096, the update as one vector; every site holds the key",
    "tenseal-8192-each": "TenSEAL's CKKS, ring of 8192, a context with each tensor; every site holds the key",
    "fedavg": "the mean of updates in floating point, nothing protected",
    "aes-ctr": "AES-CTR of the same bytes, through the cryptography package",
    "memcpy": "a copy of the same bytes in memory",
    "https": "the same bytes uploaded over plain HTTPS",
}
ROLES: Final = {
    "site": "a site",
    "server": "the server",
    "open": "opening the sum",
    "whole": "all together",
    "": "the machine",
}


def name(scheme: str | None) -> str:
    """A scheme, package or floor."""
    return _NAMES.get(scheme or "", scheme or "any scheme")


def role(of: str | None) -> str:
    """Whose work it is."""
    return ROLES.get(of or "", of or "")


def setting(values: int | None, sites: int | None, neighbours: int | None = None) -> str:
    """Like '500,000 values, 4 sites'; a part that does not apply is left out."""
    parts = [
        f"{count(values)} values" if values else "",
        f"{count(sites)} sites" if sites else "",
        f"{count(neighbours)} neighbours" if neighbours and neighbours + 1 != sites else "",
    ]
    return ", ".join(part for part in parts if part).replace(" values, ", " values and ", 1)


def place(of: Place) -> str:
    """Role and setting."""
    parts = [role(of.role), setting(of.values, of.sites, of.neighbours)]
    return ": ".join(part for part in parts if part) or "any setting"


def record(of: Record) -> str:
    """Everything that tells a record from the others of its run."""
    parts = [
        of.family, name(of.scheme) if of.scheme else "", of.role or "", of.stage or "",
        setting(of.values, of.sites, of.neighbours), f"{of.bits} bits" if of.bits else "",
        f"weight {count(of.weight)}" if of.weight else "", f"{of.dropped} dropped" if of.dropped else "",
    ]  # fmt: skip
    return ", ".join(part for part in parts if part)


def against(of: Record) -> str:
    """Its ratios to others."""
    return "; ".join(f"{spread(each.ratios, ratio)} of {name(each.scheme)}" for each in of.against)
