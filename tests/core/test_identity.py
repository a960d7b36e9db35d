"""A roster counts only as its root signed it, and a site's keys only while the roster says so."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.errors import Malformed, Refused
from secagg.identity import (
    Roster,
    RosterEntry,
    ServerKeys,
    SharedKey,
    SiteKeys,
    fingerprint,
    public_bytes,
    sign_roster,
)
from tests.sim import Consortium, Dice

CONSORTIUM = Consortium(4)
ROSTER = CONSORTIUM.roster
NOW = 1_700_000_000
ENTRY = ROSTER.sites[0]
CHANGES = {
    "consortium": "other", "epoch": 2, "expires": 5, "sites": ROSTER.sites[:-1], "revoked": (bytes(32),),
}  # fmt: skip


def test_a_roster_signed_by_its_root_is_accepted_until_it_expires() -> None:
    ROSTER.verify(public_bytes(CONSORTIUM.root), NOW)
    ROSTER.verify(public_bytes(CONSORTIUM.root), ROSTER.expires)
    with pytest.raises(Refused, match="roster has expired"):
        ROSTER.verify(public_bytes(CONSORTIUM.root), ROSTER.expires + 1)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_roster_altered_in_any_field_is_not_signed(name: str) -> None:
    altered = replace(ROSTER, **{name: CHANGES[name]})  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="not signed"):
        altered.verify(public_bytes(CONSORTIUM.root), NOW)
    assert altered.digest() != ROSTER.digest()


def test_every_field_of_a_roster_is_tried() -> None:
    assert {field.name for field in fields(Roster)} == {*CHANGES, "root_key", "signature"}


@pytest.mark.parametrize("name", [field.name for field in fields(RosterEntry)])
def test_an_entry_altered_in_any_field_is_not_signed(name: str) -> None:
    value = getattr(ENTRY, name)
    other = "aaa" if isinstance(value, str) else value - 1 if isinstance(value, int) else value[:-1] + b"\x01"
    altered = replace(ROSTER, sites=(replace(ENTRY, **{name: other}), *ROSTER.sites[1:]))
    with pytest.raises(Malformed, match="not signed"):
        altered.verify(public_bytes(CONSORTIUM.root), NOW)


def test_another_root_cannot_take_the_consortium_over() -> None:
    other = Ed25519PrivateKey.from_private_bytes(Dice("other root")(32))
    taken = sign_roster(replace(ROSTER, root_key=public_bytes(other)), other)
    taken.verify(public_bytes(other), NOW)
    with pytest.raises(Malformed, match="not signed"):
        taken.verify(public_bytes(CONSORTIUM.root), NOW)


def test_the_root_that_a_roster_names_is_the_root_that_signed_it() -> None:
    """Whoever pins a root from a roster's text must pin the one that signs the next."""
    misnamed = sign_roster(replace(ROSTER, root_key=bytes(32)), CONSORTIUM.root)
    with pytest.raises(Malformed, match="not signed"):
        misnamed.verify(public_bytes(CONSORTIUM.root), NOW)


def test_the_digest_names_the_content_and_not_the_signature() -> None:
    assert replace(ROSTER, signature=bytes(64)).digest() == ROSTER.digest()


def test_two_sites_cannot_share_a_key_and_a_revoked_key_cannot_return() -> None:
    second = ROSTER.sites[1]
    for shared in ({"identity_key": ENTRY.identity_key}, {"node_key": ENTRY.node_key}):
        with pytest.raises(Malformed, match="share a key"):
            replace(ROSTER, sites=(ENTRY, replace(second, **shared), *ROSTER.sites[2:]))  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="revoked key"):
        replace(ROSTER, revoked=(ENTRY.identity_key,))
    with pytest.raises(Malformed, match="ascending"):
        replace(ROSTER, sites=(ENTRY, ENTRY))


def test_a_shared_key_is_found_by_name_and_is_not_printed() -> None:
    first, second = SharedKey(Dice("first")(32), b"one secret"), SharedKey(Dice("second")(32), b"another secret")
    keys = SiteKeys(ENTRY.site, CONSORTIUM.root, (first, second))
    assert keys.shared_key(second.name) is second
    with pytest.raises(Refused, match="does not hold the shared key 0000"):
        keys.shared_key(bytes(32))
    assert "secret" not in f"{keys!r} {first!r}"


def test_a_site_is_what_its_entry_says() -> None:
    keys = CONSORTIUM.keys[ENTRY.site]
    ROSTER.verify_site(keys, NOW)
    with pytest.raises(Refused, match="has expired"):
        ROSTER.verify_site(keys, ENTRY.expires + 1)
    with pytest.raises(Refused, match="another one"):
        ROSTER.verify_site(SiteKeys(ENTRY.site, CONSORTIUM.root), NOW)
    with pytest.raises(Refused, match="not on the roster"):
        ROSTER.verify_site(SiteKeys("stranger", keys.identity), NOW)
    later = replace(ROSTER, sites=ROSTER.sites[1:], revoked=(ENTRY.identity_key,))
    with pytest.raises(Refused, match="not on the roster"):
        later.verify_site(keys, NOW)
    renewed = Ed25519PrivateKey.from_private_bytes(Dice("renewed")(32))
    entry = replace(ENTRY, identity_key=public_bytes(renewed))
    rekeyed = replace(ROSTER, sites=(entry, *ROSTER.sites[1:]), revoked=(ENTRY.identity_key,))
    with pytest.raises(Refused, match="is revoked"):
        rekeyed.verify_site(keys, NOW)


def test_keys_print_name_and_fingerprint_only() -> None:
    keys = CONSORTIUM.keys["site-01"]
    assert repr(keys) == str(keys) == f"SiteKeys(site='site-01', fingerprint='{fingerprint(keys.public)[:9]}'...)"
    assert repr(ServerKeys(keys.identity)) == "ServerKeys()"


def test_a_fingerprint_is_sixteen_groups_that_differ_between_keys() -> None:
    prints = {fingerprint(keys.public) for keys in CONSORTIUM.keys.values()}
    assert len(prints) == 4
    assert all([len(group) for group in each.split(" ")] == [4] * 16 for each in prints)
