"""An in-memory federation: real sessions, no sockets, a network that drops and alters what the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.chain import Position
from secagg.ckks_shared.keys import new_shared_key
from secagg.config import SERVER_READS_SUM, Manifest, Policy, RoundContext, Setting
from secagg.errors import SecAggError
from secagg.identity import Roster, RosterEntry, ServerKeys, SharedKey, SiteKeys, public_bytes, sign_roster
from secagg.lanes import headroom
from secagg.primitives.prg import Stream
from secagg.quantize import QuantizerParams
from secagg.schemes import SCHEMES, scheme_named
from secagg.session import (
    SHARED_KEY,
    Aggregate,
    ClientSession,
    InMemory,
    Mean,
    Metrics,
    Packet,
    ServerSession,
    Update,
    Words,
)
from secagg.thresholds import plan
from secagg.vector import Layout, adapter_digest

READABLE = f"ckks {SERVER_READS_SUM}"  # a scheme, and the options that are "yes"
VARIANTS = (*sorted(SCHEMES), READABLE)  # what the suites that run over every scheme run over
Alter = Callable[[str, str, Packet], Packet | None]  # (phase, site, packet) -> what arrives; None = nothing


class Dice:
    """Deterministic bytes for tests, from a seed."""

    def __init__(self, seed: object) -> None:
        self._stream = Stream(hashlib.sha384(repr(seed).encode()).digest())

    def __call__(self, count: int) -> bytes:
        return self._stream.read(count)


def site_name(index: int) -> str:
    """'site-01', ..."""
    return f"site-{index:02d}"


@cache
def some_shared_key() -> SharedKey:
    """A key for every consortium of this process whose scheme needs one: TenSEAL's, hence another one every time."""
    return new_shared_key()


@dataclass
class Consortium:
    """n sites with keys and a signed roster."""

    n: int
    seed: object = 0
    names: tuple[str, ...] = field(init=False)
    keys: dict[str, SiteKeys] = field(init=False)
    server_keys: ServerKeys = field(init=False)
    root: Ed25519PrivateKey = field(init=False)
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        dice = Dice(("consortium", self.seed))
        self.names = tuple(sorted(site_name(i) for i in range(1, self.n + 1)))
        self.keys = {name: SiteKeys(name, Ed25519PrivateKey.from_private_bytes(dice(32))) for name in self.names}
        self.server_keys = ServerKeys(Ed25519PrivateKey.from_private_bytes(dice(32)))
        self.root = Ed25519PrivateKey.from_private_bytes(dice(32))
        entries = tuple(RosterEntry(name, self.keys[name].public, dice(120), 2**40) for name in self.names)
        draft = Roster("test", 1, 2**40, public_bytes(self.root), entries, (), bytes(64))
        self.roster = sign_roster(draft, self.root)

    def manifest(self, size: int, **changes: Any) -> Manifest:
        """A session over all sites; keywords replace fields, `bits`, `weight_cap`, `rotate`, `dropouts`.

        scheme: its name, or one of VARIANTS. If its scheme needs a shared key, the sites have one from then on.
        """
        dice = Dice(("manifest", self.seed))
        scheme, *chosen = changes.pop("scheme", "masked").split()
        bits, cap = changes.pop("bits", 8), changes.pop("weight_cap", 1)
        numbers = plan(self.n, changes.pop("colluders", None), changes.pop("dropouts", None))
        quantizer = QuantizerParams(bits, headroom(bits, self.n, cap), cap, changes.pop("rotate", 1), 0)
        layout = Layout((("vector", (size,)),))
        fields = {
            "version": 1, "suite": 1, "scheme": scheme, "nonce": dice(32), "roster": self.roster.digest(),
            "sites": self.names, "colluders": numbers.colluders, "dropouts": numbers.dropouts,
            "threshold": numbers.threshold, "quorum": numbers.quorum,
            "least_survivors": numbers.least_survivors, "graph": 1, "quantizer": quantizer,
            "first_range_q40": 1 << 40, "size": size, "layout": layout.digest(), "base_model": dice(32),
            "tokenizer": dice(32), "lora_config": dice(32),
            "initial_adapter": adapter_digest(layout, np.zeros(size, np.float32)), "rule": 1, "rounds": 10,
            "server_key": self.server_keys.public, "settings": (),
            "options": tuple(Setting(name, "yes") for name in chosen),
        }  # fmt: skip
        return Manifest(**{**fields, **self._with_shared_key(scheme), **changes})

    def _with_shared_key(self, scheme: str) -> dict[str, Any]:
        if scheme not in SCHEMES or SHARED_KEY not in SCHEMES[scheme].needs:
            return {}
        key = some_shared_key()
        self.keys = {name: replace(keys, shared=(key,)) for name, keys in self.keys.items()}
        return {"options": (Setting("shared-key", key.name.hex()),)}

    def context(
        self,
        manifest: Manifest,
        attempt: int = 1,
        position: Position | None = None,
        cohort: Sequence[str] | None = None,
    ) -> RoundContext:
        """One attempt at the round after `position`."""
        header = (position or Position.start(manifest)).header(manifest, attempt)
        return RoundContext(manifest, self.roster, header, tuple(cohort or self.names))


def random_update(seed: object, size: int, weight: int = 1, scale: float = 0.3) -> Update:
    """A finite update whose values mostly lie within the range 1."""
    words = np.frombuffer(Dice(("update", seed))(4 * size), "<u4").astype(np.float64)
    values = ((words / 2.0**32 - 0.5) * 2 * scale).astype(np.float32)
    return Update(values, weight, Metrics(examples=10, train_loss=2.5, eval_loss=3.0, eval_tokens=100))


def _as_it_is(_phase: str, _site: str, packet: Packet) -> Packet | None:
    return packet


@dataclass
class Round:
    """One attempt with real sessions.

    drop[phase]: sites that fall silent there, before they see the request. lose[phase]: sites that answer,
    but the answer never arrives. alter_*: see every packet on its way. restart: every site is killed after
    every answer and goes on from what it had saved; with the words it had sent, if it keeps_words.
    """

    consortium: Consortium
    context: RoundContext
    updates: Mapping[str, Update]
    policy: Policy = field(
        default_factory=lambda: Policy(tuple(SCHEMES), largest_weight=1 << 20, least_colluders=0, server_reads_sum=True)
    )
    drop: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lose: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alter_request: Alter = _as_it_is
    alter_reply: Alter = _as_it_is
    restart: bool = False
    keeps_words: bool = True
    seed: object = 0
    clients: dict[str, ClientSession] = field(default_factory=dict)
    refusals: dict[str, SecAggError] = field(default_factory=dict)
    sent: dict[str, Words] = field(default_factory=dict)
    server: ServerSession = field(init=False)

    def __post_init__(self) -> None:
        self.scheme = scheme_named(self.context.manifest.scheme)
        self.archive = InMemory()
        self.server = self.scheme.server(self.context, self.consortium.server_keys, self.archive)
        self._silent: set[str] = set()
        self._dice = {site: Dice((self.seed, site, self.context.header.attempt)) for site in self.context.cohort}
        for site in self.context.cohort:
            keys, update = self.consortium.keys[site], self.updates[site]
            self.clients[site] = self.scheme.client(self.site_context, keys, self.policy, update, self._dice[site])

    @property
    def site_context(self) -> RoundContext:
        """The context as sites know it: the cohort is the server's word, not theirs."""
        return replace(self.context, cohort=())

    def run(self) -> Aggregate:
        """Drives the round to its aggregate. Raises what the server session raises."""
        while not self.server.done:
            self.step()
        return self.server.result()

    def until(self, phase: str) -> Round:
        """Drives the round to the beginning of a phase."""
        while self.server.phase != phase:
            self.step()
        return self

    def step(self) -> None:
        """Drives one phase."""
        phase = self.server.phase
        self._silent |= set(self.drop.get(phase, ()))
        self.server.receive(self._exchange(phase, set(self.lose.get(phase, ()))))

    def _exchange(self, phase: str, lost: set[str]) -> Iterator[tuple[str, Packet]]:
        for site, request in self.server.requests().items():
            arrived = self.alter_request(phase, site, request)
            if site in self._silent or arrived is None:
                continue
            try:
                reply = self.clients[site].handle(arrived)
            except SecAggError as error:
                self.refusals[site] = error
                continue
            if reply.words is not None:
                self.sent[site] = reply.words
            if self.restart:
                self._restart(site)
            altered = self.alter_reply(phase, site, reply)
            if altered is not None and site not in lost:
                yield site, altered

    def _restart(self, site: str) -> None:
        saved, update = self.clients[site].to_bytes(), self.updates[site]
        keys, dice = self.consortium.keys[site], self._dice[site]
        sent = self.sent.get(site) if self.keeps_words else None
        parts = self.site_context, keys, self.policy, saved, update, dice
        self.clients[site] = self.scheme.restore(*parts, sent)

    def released(self) -> set[str]:
        """The sites whose unmask shares were made."""
        return {site for site, client in self.clients.items() if client.released}

    def mean(self, aggregate: Aggregate, site: str = "") -> Mean:
        """What a site opens: the first survivor, if no other is named."""
        state = self.clients[site or aggregate.contributors[-1]].to_bytes()
        return self.scheme.open(self.site_context, aggregate.payload, self.opening(state, site))

    def opening(self, state: bytes, site: str = "") -> bytes:
        """What opens the aggregate, from a site's state."""
        return self.scheme.opening(self.site_context, self.consortium.keys[site or self.consortium.names[0]], state)


def federation(n: int, size: int = 40, **options: Any) -> Round:
    """A round of n sites with random updates. Options of Round, or of the manifest under `manifest`."""
    consortium = options.pop("consortium", None) or Consortium(n)
    manifest = consortium.manifest(size, **options.pop("manifest", {}))
    context = options.pop("context", None) or consortium.context(manifest)
    updates = options.pop("updates", None) or {name: random_update(name, size) for name in consortium.names}
    return Round(consortium, context, updates, **options)


def plain_mean(updates: Mapping[str, Update], survivors: Sequence[str]) -> np.ndarray:
    """The weighted float64 mean over the survivors."""
    total = sum(updates[site].weight for site in survivors)
    weighted = (updates[site].weight * updates[site].values.astype(np.float64) for site in survivors)
    return np.asarray(sum(weighted) / total)
