"""What a manifest, a header and a context may not be, and that each digest binds every field."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import cbor2
import pytest

from secagg.config import Manifest, Policy, RoundContext, RoundHeader, Setting
from secagg.errors import Malformed, Misuse, Refused
from secagg.quantize import QuantizerParams
from tests.sim import Consortium

CONSORTIUM = Consortium(7)
MANIFEST = CONSORTIUM.manifest(10, settings=(Setting("rate", "0.1"),))
HEADER = CONSORTIUM.context(MANIFEST).header


def other(value: object) -> object:
    """A valid value of the same kind that is not this one."""
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, str):
        return "other"
    if isinstance(value, QuantizerParams):
        return replace(value, rotate=1 - value.rotate)
    if value == MANIFEST.sites:
        return ("other", *MANIFEST.sites[1:])
    if isinstance(value, tuple):
        return (Setting("rate", "0.2"),)
    assert isinstance(value, int)
    return value + 1


CONSTANT = {"version", "suite", "graph", "rule"}  # one value so far
TIED = {"colluders", "threshold", "quorum", "least_survivors"}  # n = 7 leaves them no freedom but d


@pytest.mark.parametrize("name", [f.name for f in fields(MANIFEST) if f.name not in CONSTANT | TIED])
def test_the_session_id_binds_every_field_of_the_manifest(name: str) -> None:
    value = MANIFEST.dropouts - 1 if name == "dropouts" else other(getattr(MANIFEST, name))
    assert replace(MANIFEST, **{name: value}).digest() != MANIFEST.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [f.name for f in fields(HEADER) if f.name != "suite"])
def test_the_headers_digest_binds_every_field(name: str) -> None:
    assert replace(HEADER, **{name: other(getattr(HEADER, name))}).digest() != HEADER.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(CONSTANT))
@pytest.mark.parametrize("value", [0, 2])
def test_an_unknown_version_suite_graph_or_rule_is_malformed(name: str, value: int) -> None:
    with pytest.raises(Malformed):
        replace(MANIFEST, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"threshold": 4}, {"threshold": 6}, {"quorum": 4}, {"quorum": 6}, {"least_survivors": 4}, {"least_survivors": 6},
     {"colluders": 3}, {"dropouts": 3}, {"sites": MANIFEST.sites[:-1]}, {"sites": (*MANIFEST.sites, "site-08")}],
    ids=str,
)  # fmt: skip
def test_a_manifest_with_thresholds_that_do_not_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Misuse):
        replace(MANIFEST, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("lane_bits", [8, 10, 16, 21, 32])
def test_a_manifest_whose_lanes_are_not_what_the_headroom_asks_for_is_refused(lane_bits: int) -> None:
    """Too narrow and lanes run into each other; too wide and a server could have upload wasted at will."""
    assert MANIFEST.quantizer.lane_bits == 12
    with pytest.raises(Misuse, match="headroom asks for 12"):
        replace(MANIFEST, quantizer=replace(MANIFEST.quantizer, lane_bits=lane_bits))


def test_a_lane_that_is_no_lane_width_is_malformed() -> None:
    with pytest.raises(Malformed, match="lane_bits"):
        replace(MANIFEST.quantizer, lane_bits=11)


def context(manifest: Manifest = MANIFEST, header: RoundHeader = HEADER, **changes: object) -> RoundContext:
    return RoundContext(manifest, changes.pop("roster", CONSORTIUM.roster), header, **changes)  # type: ignore[arg-type]


def test_manifest_roster_and_header_must_belong_together() -> None:
    context()
    with pytest.raises(Malformed, match="another session"):
        context(replace(MANIFEST, rounds=11))
    with pytest.raises(Malformed, match="another session"):
        context(header=replace(HEADER, scheme="other"))
    with pytest.raises(Malformed, match="another roster"):
        context(header=replace(HEADER, roster=bytes(32)))
    with pytest.raises(Malformed, match="another roster"):
        context(roster=Consortium(7, seed=1).roster)
    with pytest.raises(Malformed, match="another graph"):
        context(header=replace(HEADER, graph=bytes(32)))
    with pytest.raises(Malformed, match="not on the roster"):
        context(cohort=(*CONSORTIUM.names, "site-08"))


def test_a_manifest_with_a_site_outside_the_roster_is_refused() -> None:
    manifest = replace(MANIFEST, sites=(*MANIFEST.sites[:-1], "site-99"))
    header = replace(HEADER, session=manifest.digest(), graph=manifest.graph_digest())
    with pytest.raises(Malformed, match="not on the roster"):
        context(manifest, header)


def test_the_context_knows_points_and_keys_of_the_sessions_sites_only() -> None:
    smaller = Consortium(7).manifest(10)
    known = CONSORTIUM.context(smaller)
    assert known.points == {f"site-{i:02d}": i for i in range(1, 8)}
    assert known.identity_key("site-03") == CONSORTIUM.keys["site-03"].public
    with pytest.raises(Refused, match="not part of this session"):
        known.identity_key("site-08")


def test_a_setting_is_found_by_name_or_missing() -> None:
    assert MANIFEST.setting("rate") == "0.1"
    with pytest.raises(Malformed, match="lacks the setting steps"):
        MANIFEST.setting("steps")


def test_an_option_is_found_by_name_and_must_be_one_that_the_scheme_knows() -> None:
    manifest = CONSORTIUM.manifest(10, options=(Setting("colour", "red"), Setting("server-reads-sum", "yes")))
    assert (manifest.option("colour"), manifest.option("shape")) == ("red", "")
    manifest.require_options({"colour", "server-reads-sum", "shape"})
    with pytest.raises(Refused, match="scheme masked has no option server-reads-sum"):
        manifest.require_options({"colour"})


def test_a_site_agrees_by_name_to_a_server_that_reads_the_sum() -> None:
    manifest = CONSORTIUM.manifest(10, options=(Setting("server-reads-sum", "yes"),))
    with pytest.raises(Refused, match="policy: the server would read each round's sum"):
        Policy().check(manifest)
    Policy(server_reads_sum=True).check(manifest)
    Policy().check(CONSORTIUM.manifest(10))


def test_a_sites_point_is_its_place_on_the_roster() -> None:
    consortium = Consortium(4)
    points = consortium.context(consortium.manifest(8)).points
    assert points == {name: place for place, name in enumerate(consortium.roster.names(), 1)}
    assert sorted(points.values()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("rule", "bound", "beyond"),
    [("least_survivors", 5, 6), ("least_threshold", 5, 6), ("least_colluders", 2, 3), ("largest_weight", 4, 3),
     ("largest_rounds", 10, 9)],
)  # fmt: skip
def test_a_policy_holds_to_the_last_unit(rule: str, bound: int, beyond: int) -> None:
    manifest = CONSORTIUM.manifest(10, weight_cap=4)
    lax = Policy(largest_weight=4)
    replace(lax, **{rule: bound}).check(manifest)
    with pytest.raises(Refused, match="policy"):
        replace(lax, **{rule: beyond}).check(manifest)


def test_what_a_session_fixes_is_hashed_behind_a_label_of_its_own() -> None:
    """Written out from spec §8.3, so that no digest of one kind can be that of another."""
    manifest, header, roster = MANIFEST, HEADER, CONSORTIUM.roster

    def hashed(label: bytes, content: object) -> bytes:
        return hashlib.sha256(b"secagg-lora/v1 " + label + b"\x00" + cbor2.dumps(content)).digest()

    assert manifest.digest() == hashed(b"manifest", [2, *manifest.plain()])
    assert header.digest() == hashed(b"round header", [3, *header.plain()])
    assert manifest.graph_digest() == hashed(b"graph", [1, list(manifest.sites)])
    assert roster.digest() == hashed(b"roster", [1, *roster.plain()[:-1]])
