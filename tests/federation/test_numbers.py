"""What the server proposes follows from the operator's options, or the operator is told which one to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedclient.settings import LocalError
from fedserver.checkpoint import Checkpoint
from fedserver.enrolment import session_numbers
from fedserver.link import Answer
from fedserver.plan import Plan, ServerError
from fedserver.round import size_of
from secagg.config import Manifest
from secagg.enrol import Consent, ModelCard, Ready, Tensor, signed_by
from secagg.identity import sign_roster
from secagg.schemes import scheme_named
from secagg.session import Packet
from tests.federation.direct import Bench, Where

PLAN = Plan("", "", "", "masked", "toy", 1)


def test_a_number_of_colluders_that_no_threshold_bears_is_the_operators_to_change() -> None:
    assert session_numbers(replace(PLAN, colluders=3), 10)[0].threshold == 7
    with pytest.raises(ServerError) as ended:
        session_numbers(replace(PLAN, colluders=8), 10)
    assert "cannot bear 8 colluders" in ended.value.problem
    assert "--colluders" in ended.value.remedy
    with pytest.raises(ServerError) as ended:
        session_numbers(replace(PLAN, bits=20, weight_cap=1 << 20), 10)
    assert "exceed the widest lane" in ended.value.problem


@pytest.mark.parametrize(("least", "most"), [(7, 10)])
def test_the_fewest_sites_lie_between_those_that_must_survive_and_all(least: int, most: int) -> None:
    for wanted in (0, least, most):
        session_numbers(replace(PLAN, min_sites=wanted), most)
    for wanted in (least - 1, most + 1):
        with pytest.raises(ServerError) as ended:
            session_numbers(replace(PLAN, min_sites=wanted), most)
        assert f"--min-sites {wanted} is not in {least}..{most}" in ended.value.problem


def test_a_model_that_no_site_can_load_ends_the_run_before_a_session_begins(bench: Bench) -> None:
    def fails(settings: dict[str, str], nonce: bytes) -> None:
        raise LocalError("no such model", "name another one")

    for learner in bench.learners.values():
        learner.prepare = fails  # type: ignore[method-assign,assignment]
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "no site could load the model" in ended.value.problem
    assert not (Path(bench.plan.out) / "state" / "manifest.cbor").exists()


def test_a_resumed_server_to_which_no_site_describes_the_sessions_adapter_says_so(bench: Bench) -> None:
    """The session is over, one site is back, and its card tells of another shape than it agrees to."""
    bench.run(rounds=1)

    def reply(where: Where, packet: Packet) -> Packet:
        if where.kind != "propose":
            return packet
        card = replace(ModelCard.decode(packet.head), tensors=(Tensor("another", 2, 2),))
        return Packet(signed_by(bench.consortium.keys[where.site], card).encode())

    bench.link.alter_reply = reply
    bench.link.offline = set(bench.names[1:])
    with pytest.raises(ServerError) as ended:
        bench.run(rounds=1)
    assert "no site described the session's adapter" in ended.value.problem


def test_every_session_has_a_nonce_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the operating system: the nonce is the seed of the initial adapter, and two of one would be one start."""
    monkeypatch.undo()  # the bench's own, which are the same in every run
    nonces = set()
    for number in range(3):
        bench = Bench(tmp_path / str(number))
        bench.run(rounds=1)
        nonces.add(manifest_of(bench).nonce)
    assert len(nonces) == 3


def manifest_of(bench: Bench) -> Manifest:
    return Manifest.decode((Path(bench.plan.out) / "state" / "manifest.cbor").read_bytes())


def test_a_card_or_a_consent_of_another_session_counts_for_nothing(bench: Bench) -> None:
    """As well signed as the true one: a card that a site gave before, and a consent to something else."""
    liar, other = "site-02", "site-04"

    def reply(where: Where, packet: Packet) -> Packet:
        keys = bench.consortium.keys[where.site]
        if (where.kind, where.site) == ("propose", liar):
            return Packet(signed_by(keys, replace(ModelCard.decode(packet.head), nonce=bytes(32))).encode())
        if (where.kind, where.site) == ("consent", other):
            consent = Consent.decode(packet.head)
            moved = replace(consent, position=replace(consent.position, session=bytes(32)))
            return Packet(signed_by(keys, moved).encode())
        return packet

    bench.link.alter_reply = reply
    with pytest.raises(ServerError, match="server"):
        bench.run(rounds=1)
    agreed = {each["site"] for each in bench.events("consented")}
    assert agreed == set(bench.names) - {liar, other}


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("base_model", b"x" * 32, "another base model"),
        ("tokenizer", b"x" * 32, "another tokenizer"),
        ("lora_config", b"x" * 32, "another LoRA configuration"),
        ("initial_adapter", b"x" * 32, "another initial adapter"),
        ("tensors", (Tensor("m.lora_A.weight", 1, 1),), "an adapter of another shape"),
    ],
)
def test_a_site_that_loaded_something_else_is_told_what(bench: Bench, name: str, value: object, what: str) -> None:
    def reply(where: Where, packet: Packet) -> Packet:
        if (where.kind, where.site) != ("propose", "site-03"):
            return packet
        card = replace(ModelCard.decode(packet.head), **{name: value})
        return Packet(signed_by(bench.consortium.keys[where.site], card).encode())

    bench.link.alter_reply = reply
    with pytest.raises(ServerError) as ended:
        bench.run(rounds=1)
    assert ended.value.problem == f"site-03 loaded {what} than the other sites"


def test_a_site_whose_entry_has_expired_is_not_in_the_session(bench: Bench) -> None:
    entries = tuple(
        replace(entry, expires=999 if entry.site == "site-05" else entry.expires)
        for entry in bench.consortium.roster.sites
    )
    bench.consortium.roster = sign_roster(replace(bench.consortium.roster, sites=entries), bench.consortium.root)
    bench.restart(*bench.names)
    bench.run(rounds=1)  # the bench's clocks say 1000
    assert manifest_of(bench).sites == bench.but("site-05")


def test_the_server_takes_no_more_words_than_an_update_can_have(bench: Bench) -> None:
    """It tells Flower's side how long a vector may be, before any of it is read."""
    allowed: dict[str, int] = {}
    ask = bench.link.ask

    def spy(kind: str, requests: Any, timeout_s: float, max_words: int = 0) -> Iterator[tuple[str, Answer]]:
        allowed[kind] = max_words
        return ask(kind, requests, timeout_s, max_words)

    bench.link.ask = spy  # type: ignore[method-assign]
    bench.run(rounds=1)
    manifest = manifest_of(bench)
    assert allowed.pop("answer") == scheme_named(manifest.scheme).most_words(manifest)
    assert set(allowed.values()) == {0}


def test_the_server_waits_no_longer_for_sites_than_it_was_told(bench: Bench) -> None:
    """The bench's time is up at once; a server that went on waiting would look, and sleep, for ever."""
    bench.link.offline = set(bench.names[:2])
    server, slept = bench.server(), [0]

    def sleep(seconds: float) -> None:
        slept[0] += 1
        assert slept[0] < 100, "still waiting"

    server._sleep = sleep
    with pytest.raises(ServerError) as ended:
        server.run()
    assert "missing: site-01, site-02" in ended.value.problem


def test_a_site_that_never_catches_up_is_asked_no_more_often_than_there_are_rounds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says after every message that it stands where it stood; a server that believed it would never end."""
    monkeypatch.setattr("fedserver.federation.MAX_PACKETS", 2)
    asked, position = [0], []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site != "site-04" or where.kind not in ("consent", "start"):
            return packet
        if where.kind == "consent":
            position.append(Consent.decode(packet.head).position)
            return packet
        asked[0] += 1
        assert asked[0] < 50, "still asking"
        return Packet(signed_by(bench.consortium.keys["site-04"], Ready("site-04", position[0], bytes(64))).encode())

    bench.link.alter_reply = reply
    bench.run(rounds=3)
    assert bench.events("finished")[-1]["saved_at"] == list(bench.but("site-04"))


def test_what_a_site_has_missed_comes_in_messages_of_bounded_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two aggregates and a half go into a message; one goes in any case."""
    bench.link.offline = {"site-02"}
    monkeypatch.setattr(bench, "plan", replace(bench.plan, min_sites=4))
    carried: list[list[int]] = []
    size = [0]

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == "site-02" and where.kind in ("start", "finish"):
            carried.append([size_of(each) for each in packets[1:]])
        return packets

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("unmask", 6) and where.site == "site-05":
            size[0] = Checkpoint(Path(bench.plan.out) / "state").size_of(1)
            monkeypatch.setattr("fedserver.federation.CATCH_UP_BYTES", size[0] * 5 // 2)
            bench.link.offline = set()
        return packet

    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.assert_result(bench.run(rounds=8))
    assert max(map(len, carried)) == 2
    assert sum(map(len, carried)) == 8
    monkeypatch.setattr("fedserver.federation.CATCH_UP_BYTES", 1)
    assert bench.server()._in_reach(2, 8) == 4
