"""The roster: only what the root signed counts, revocation is for ever, a site never goes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import DamagedFile, KeyFileError, MissingFile, RefusedRoster, UntrustedRoot
from keys.nodekey import node_public, require_node_key
from keys.public import (
    SitePublic,
    load_roster,
    node_keys,
    openssh_node_key,
    read_public_key,
    read_roster,
    read_site_public,
    render_public_key,
    render_roster,
    render_site_public,
    require_fingerprint,
    sign_site_public,
)
from keys.root import expiry, first_roster, init_root, load_root, renewed, with_sites, without_site
from keys.rosterfile import parse_roster
from secagg.errors import Malformed
from secagg.identity import Roster, SiteKeys, fingerprint, public_bytes, sign_roster
from tests.keys.conftest import LATER, NOW

ROOT = Ed25519PrivateKey.generate()
ROOT_KEY = public_bytes(ROOT)
MakePublic = Callable[[str], SitePublic]


def new_public(name: str) -> SitePublic:
    """A site's public part, whose private part nobody keeps."""
    node = node_public(ec.generate_private_key(ec.SECP384R1()))
    return sign_site_public(SiteKeys(name, Ed25519PrivateKey.generate()), node)


PUBLICS = [new_public(name) for name in ("a", "b", "c")]
ROSTER = first_roster(ROOT, "hospitals", PUBLICS, expires=LATER)


def write(path: Path, roster: Roster) -> Path:
    """The roster's file."""
    path.write_text(render_roster(roster))
    return path


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A roster's file after `change` was made to its JSON."""
    value = json.loads(render_roster(ROSTER))
    change(value)
    path.write_text(json.dumps(value))
    return path


def test_what_is_read_back_is_what_the_root_signed(tmp_path: Path) -> None:
    assert load_roster(write(tmp_path / "r", ROSTER), ROOT_KEY, NOW) == ROSTER
    ROSTER.verify(ROOT_KEY, NOW)
    assert ROSTER.names() == ("a", "b", "c")


def test_the_layout_of_the_text_does_not_matter_its_content_does(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(json.dumps(json.loads(render_roster(ROSTER)), sort_keys=True))
    assert load_roster(tmp_path / "r", ROOT_KEY, NOW).digest() == ROSTER.digest()


ALTERATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "consortium": lambda v: v.update(consortium="banks"),
    "epoch": lambda v: v.update(epoch=2),
    "expiry": lambda v: v.update(expires="2099-01-01T00:00:00Z", expires_s=4_070_908_800),
    "a site's expiry": lambda v: v["sites"][0].update(expires="2099-01-01T00:00:00Z", expires_s=4_070_908_800),
    "a site renamed": lambda v: v["sites"][2].update(site="d"),
    "a site left out": lambda v: v["sites"].pop(),
    "an identity key": lambda v: v["sites"][0].update(identity_key="00" * 32),
    "node keys swapped": lambda v: _swap(v["sites"], "node_key"),
    "a revocation made up": lambda v: v.update(revoked=["00" * 32]),
    "another root named": lambda v: v.update(root_key="00" * 32),
    "signature": lambda v: v.update(signature="00" * 64),
}


def _swap(sites: list[dict[str, str]], name: str) -> None:
    sites[0][name], sites[1][name] = sites[1][name], sites[0][name]


@pytest.mark.parametrize("change", ALTERATIONS.values(), ids=ALTERATIONS)
def test_any_alteration_of_a_signed_roster_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(RefusedRoster, match="altered or never signed"):
        read_roster(altered(tmp_path / "r", change))


NOT_ROSTERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown key": lambda v: v.update(more=1),
    "missing key": lambda v: v.pop("revoked"),
    "unknown key of a site": lambda v: v["sites"][0].update(more=1),
    "missing key of a site": lambda v: v["sites"][0].pop("node_key"),
    "other format": lambda v: v.update(format="secagg-lora/v2 roster"),
    "epoch as text": lambda v: v.update(epoch="1"),
    "epoch as a fraction": lambda v: v.update(epoch=1.0),
    "epoch as a truth value": lambda v: v.update(epoch=True),
    "epoch 0": lambda v: v.update(epoch=0),
    "epoch beyond all": lambda v: v.update(epoch=1 << 60),
    "date and seconds differ": lambda v: v.update(expires_s=LATER + 1),
    "date in other words": lambda v: v.update(expires=v["expires"].replace("Z", "+00:00")),
    "date after 9999": lambda v: v.update(expires_s=253_402_300_800),
    "upper-case key": lambda v: v.update(root_key=v["root_key"].upper()),
    "short key": lambda v: v["sites"][0].update(identity_key="00" * 31),
    "odd hexadecimal": lambda v: v.update(signature="0"),
    "no sites": lambda v: v.update(sites=[]),
    "sites as an object": lambda v: v.update(sites={}),
    "a site as a list": lambda v: v["sites"].append([]),
    "sites unsorted": lambda v: v["sites"].reverse(),
    "a site twice": lambda v: v["sites"].append(v["sites"][2]),
    "a key twice": lambda v: v["sites"][1].update(identity_key=v["sites"][0]["identity_key"]),
    "a node key twice": lambda v: v["sites"][1].update(node_key=v["sites"][0]["node_key"]),
    "a bad name": lambda v: v["sites"][0].update(site="../a"),
    "a node key that is none": lambda v: v["sites"][0].update(node_key="00"),
    "a revoked key listed": lambda v: v.update(revoked=[v["sites"][0]["identity_key"]]),
    "a revoked number": lambda v: v.update(revoked=[1]),
    "101 sites": lambda v: v.update(sites=v["sites"] * 34),
}


@pytest.mark.parametrize("change", NOT_ROSTERS.values(), ids=NOT_ROSTERS)
def test_what_is_not_strictly_a_roster_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(DamagedFile, match="not a roster"):
        read_roster(altered(tmp_path / "r", change))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "NaN", '{"epoch": NaN}', "\ufeff{}", "[" * 50_000, " " * (1 << 20) + "{}"]
)
def test_what_is_not_json_within_the_limit_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(DamagedFile):
        read_roster(tmp_path / "r")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = render_roster(ROSTER).replace('"epoch": 1', '"epoch": 2,\n  "epoch": 1')
    (tmp_path / "r").write_text(text)
    with pytest.raises(DamagedFile, match="twice"):
        read_roster(tmp_path / "r")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1700))
def test_no_bytes_make_the_parser_raise_anything_but_malformed(noise: bytes, at: int) -> None:
    whole = render_roster(ROSTER).encode()
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :]):
        try:
            parse_roster(data)
        except Malformed:
            continue


def test_another_roots_roster_is_refused(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    path = write(tmp_path / "r", first_roster(other, "hospitals", PUBLICS, expires=LATER))
    with pytest.raises(UntrustedRoot):
        load_roster(path, ROOT_KEY, NOW)


def test_an_expired_roster_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r", ROSTER)
    load_roster(path, ROOT_KEY, LATER)
    with pytest.raises(RefusedRoster, match="expired"):
        load_roster(path, ROOT_KEY, LATER + 1)


def test_a_missing_roster_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        read_roster(tmp_path / "r")


def test_two_sites_cannot_share_a_name_or_a_key() -> None:
    with pytest.raises(RefusedRoster, match="called a"):
        first_roster(ROOT, "x", [*PUBLICS, new_public("a")], expires=LATER)
    with pytest.raises(RefusedRoster, match="a and z share a key"):
        first_roster(ROOT, "x", [*PUBLICS, replace(PUBLICS[0], site="z")], expires=LATER)
    with pytest.raises(RefusedRoster, match="a and z share a key"):
        first_roster(ROOT, "x", [*PUBLICS, replace(new_public("z"), node_key=PUBLICS[0].node_key)], expires=LATER)


def test_a_roster_holds_one_hundred_sites_and_no_more(tmp_path: Path) -> None:
    many = [new_public(f"s{i}") for i in range(101)]
    roster = first_roster(ROOT, "x", many[:100], expires=LATER)
    assert read_roster(write(tmp_path / "r", roster)) == roster
    for sites in (many, []):
        with pytest.raises(RefusedRoster, match="cannot list"):
            first_roster(ROOT, "x", sites, expires=LATER)
    with pytest.raises(RefusedRoster, match="cannot list"):
        with_sites(roster, ROOT, many[100:], NOW)


def test_adding_a_site_makes_the_next_epoch_and_keeps_the_rest() -> None:
    added = with_sites(ROSTER, ROOT, [new_public("bb")], NOW)
    assert (added.epoch, added.names()) == (2, ("a", "b", "bb", "c"))
    assert [added.entry(name) for name in "abc"] == list(ROSTER.sites)
    added.verify(ROOT_KEY, NOW)


def test_adding_keeps_a_sites_own_earlier_expiry() -> None:
    early = sign_roster(replace(ROSTER, sites=(replace(ROSTER.sites[0], expires=NOW + 1), *ROSTER.sites[1:])), ROOT)
    assert with_sites(early, ROOT, [new_public("d")], NOW).entry("a").expires == NOW + 1


def test_a_revoked_key_never_returns_by_any_later_roster() -> None:
    without = without_site(ROSTER, ROOT, "b", NOW)
    assert (without.epoch, without.names()) == (2, ("a", "c"))
    assert without.revoked == (PUBLICS[1].identity_key,)
    for later in (
        without,
        renewed(without, ROOT, LATER + 1),
        with_sites(without, ROOT, [new_public("d")], NOW),
    ):
        with pytest.raises(RefusedRoster, match="never returns"):
            with_sites(later, ROOT, [PUBLICS[1]], NOW)


def test_a_revoked_site_may_return_with_new_keys() -> None:
    back = with_sites(without_site(ROSTER, ROOT, "b", NOW), ROOT, [new_public("b")], NOW)
    assert back.names() == ("a", "b", "c")


def test_a_stranger_and_the_last_site_cannot_be_revoked() -> None:
    with pytest.raises(RefusedRoster, match="not on the roster"):
        without_site(ROSTER, ROOT, "z", NOW)
    alone = first_roster(ROOT, "x", PUBLICS[:1], expires=LATER)
    with pytest.raises(RefusedRoster, match="only site"):
        without_site(alone, ROOT, "a", NOW)


def test_only_the_root_that_signed_a_roster_can_succeed_it() -> None:
    other = Ed25519PrivateKey.generate()
    for change in (
        lambda root: with_sites(ROSTER, root, [new_public("d")], NOW),
        lambda root: without_site(ROSTER, root, "a", NOW),
        lambda root: renewed(ROSTER, root, LATER + 1),
    ):
        with pytest.raises(UntrustedRoot):
            change(other)


def test_an_altered_roster_is_not_succeeded() -> None:
    forged = replace(ROSTER, consortium="banks")
    with pytest.raises(RefusedRoster, match="altered"):
        renewed(forged, ROOT, LATER + 1)


def test_an_expired_roster_can_be_renewed_and_nothing_else() -> None:
    late = LATER + 1
    with pytest.raises(RefusedRoster, match="expired") as caught:
        with_sites(ROSTER, ROOT, [new_public("d")], late)
    assert "renew" in caught.value.remedy
    fresh = renewed(ROSTER, ROOT, expiry(late, 30))
    fresh.verify(ROOT_KEY, late)
    assert {entry.expires for entry in fresh.sites} == {late + 30 * 86_400}


@pytest.mark.parametrize("days", [0, -1, 3_651, 10**9])
def test_a_roster_lasts_a_day_to_ten_years(days: int) -> None:
    with pytest.raises(KeyFileError, match="cannot last"):
        expiry(NOW, days)


@pytest.mark.parametrize("epoch", [0, -1, 1 << 60])
def test_a_bad_epoch_or_consortium_is_not_signed(epoch: int) -> None:
    with pytest.raises(KeyFileError):
        first_roster(ROOT, "x", PUBLICS, expires=LATER, epoch=epoch)
    with pytest.raises(KeyFileError):
        first_roster(ROOT, "Not A Name", PUBLICS, expires=LATER)


def test_a_sites_public_file_shows_that_it_holds_the_identity_key(tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    path.write_text(render_site_public(PUBLICS[0]))
    assert read_site_public(path) == PUBLICS[0]
    stolen = {
        "site": "z",
        "node_key": PUBLICS[1].node_key.hex(),
        "identity_key": PUBLICS[1].identity_key.hex(),
    }
    for name, value in stolen.items():
        path.write_text(json.dumps({**json.loads(render_site_public(PUBLICS[0])), name: value}))
        with pytest.raises(DamagedFile, match="not signed"):
            read_site_public(path)


def compressed(der: bytes) -> bytes:
    """The same P-384 key with its point compressed: X.509 allows it, one encoding does not."""
    point = require_node_key(der).public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return b"\x30\x46" + der[2:20] + b"\x03\x32\x00" + point


def test_a_node_key_is_p384_in_its_one_encoding(tmp_path: Path) -> None:
    keys = SiteKeys("a", Ed25519PrivateKey.generate())
    wrong = [
        node_public(ec.generate_private_key(ec.SECP256R1())),
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        PUBLICS[0].node_key + b"\0",
        compressed(PUBLICS[0].node_key),
    ]
    for der in wrong:
        (tmp_path / "a.pub").write_text(render_site_public(sign_site_public(keys, der)))
        with pytest.raises(DamagedFile, match="node key"):
            read_site_public(tmp_path / "a.pub")


def test_flower_reads_the_node_keys_line() -> None:
    keys = node_keys(ROSTER)
    line = openssh_node_key(keys["a"], "a")
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" a\n")
    read = load_ssh_public_key(line.encode())
    assert read.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == keys["a"]


def test_a_public_key_of_another_role_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pub"
    path.write_text(render_public_key("server", ROOT_KEY))
    assert read_public_key(path, "server") == ROOT_KEY
    with pytest.raises(DamagedFile):
        read_public_key(path, "root")


def test_only_the_whole_fingerprint_counts() -> None:
    whole = fingerprint(ROOT_KEY)
    for same in (whole, whole.upper(), whole.replace(" ", ""), f" {whole}\n"):
        require_fingerprint(ROOT_KEY, same)
    for other in ("", whole[:9], whole[:-1], whole + "0", fingerprint(bytes(32)), "é"):
        with pytest.raises(UntrustedRoot):
            require_fingerprint(ROOT_KEY, other)


def test_the_root_key_signs_after_it_was_stored(tmp_path: Path) -> None:
    public = init_root(tmp_path / "root.key")
    roster = first_roster(load_root(tmp_path / "root.key"), "x", PUBLICS, expires=LATER)
    roster.verify(public, NOW)


def test_a_roster_that_can_revoke_no_more_keys_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two instead of a thousand, which is the encoding's own limit."""
    monkeypatch.setattr("keys.root.MOST_REVOKED", 2)
    roster = first_roster(ROOT, "hospitals", [new_public(name) for name in "abcd"], expires=LATER)
    for name in "ab":
        roster = without_site(roster, ROOT, name, NOW)
    with pytest.raises(RefusedRoster, match="2 revoked keys already"):
        without_site(roster, ROOT, "c", NOW)
