"""Sessions whose sum only sites can open: the server ends them without ever holding an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedserver.federation import Result
from fedserver.plan import ServerError
from secagg.session import Packet
from tests.federation.direct import Bench, Killed, Where

LATE = "site-03"


@pytest.fixture
def blind(tmp_path: Path) -> Bench:
    """Five sites and a server that reads no sum."""
    return Bench(tmp_path, options={"scheme": "ckks"})


def assert_right(bench: Bench, result: Result, *contributors: Sequence[str], saved_at: Sequence[str] = ()) -> None:
    """Every site has the same bits, which are start plus plain means to the quantiser's step; the server has none."""
    assert result.adapter is None
    assert bench.contributors() == [tuple(each) for each in contributors]
    saved = {name: bench.learners[name].saved for name in saved_at or bench.names}
    (bits,) = {None if each is None else each.tobytes() for each in saved.values()}
    assert bits is not None
    error = np.frombuffer(bits, "<f4").astype(np.float64) - bench.expected(result)
    # one step of a range of at most 1 a round; the rotation is orthonormal
    assert np.sqrt(np.mean(error**2)) < len(contributors) * 2 / ((1 << bench.plan.bits) - 1)


def test_sites_end_with_the_mean_and_the_server_with_nothing(blind: Bench) -> None:
    assert_right(blind, blind.run(), blind.names, blind.names)
    assert all(event["totals"] is None for event in blind.events("aggregated"))


def test_a_dropout_costs_its_own_update(blind: Bench) -> None:
    blind.link.alter_reply = lambda where, packet: None if where.site == LATE and where.asks("mask") else packet
    assert_right(blind, blind.run(), blind.but(LATE), blind.names)


@pytest.mark.parametrize("back", ["start", "finish"])
def test_a_site_that_was_away_borrows_what_opens_the_rounds_from_a_peer(blind: Bench, back: str) -> None:
    blind.link.offline.add(LATE)
    rounds = 3

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("check", 2 if back == "start" else 3) and where.site == "site-05":
            blind.link.offline.clear()
        return packet

    blind.link.alter_reply = reply
    without = blind.but(LATE)
    last = blind.names if back == "start" else without
    result = blind.run(rounds=rounds, min_sites=4)
    assert_right(blind, result, without, without, last)
    lent = [(each["round"], each["site"]) for each in blind.events("lent")]
    assert lent == [(round_, LATE) for round_ in ((1, 2) if back == "start" else (1, 2, 3))]


def test_a_peer_that_lends_something_else_is_found_out_by_the_aggregate_itself(blind: Bench) -> None:
    """The site refuses the round, keeps its place, and can ask again."""
    blind.link.offline.add(LATE)

    def reply(where: Where, packet: Packet) -> Packet | None:
        if where.asks("check", 1) and where.site == "site-05":
            blind.link.offline.clear()
        if where.kind == "lend":
            return None
        return packet

    blind.link.alter_reply = reply
    result = blind.run(rounds=2, min_sites=4)
    without = blind.but(LATE)
    assert_right(blind, result, without, without, saved_at=without)
    assert (LATE, "sealed") in {(each["site"], each["code"]) for each in blind.events("refused")}


def test_a_server_that_dies_goes_on_though_it_knows_no_adapter(blind: Bench) -> None:
    died: list[Where] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if len(died) < 2 and where.site == LATE and where.asks(("share", "check")[len(died)], 2, len(died) + 1):
            died.append(where)
            raise Killed
        return packet

    blind.link.alter_reply = reply
    for _ in range(2):
        with pytest.raises(Killed):
            blind.run()
    blind.restart("site-01")
    assert_right(blind, blind.run(), blind.names, blind.names)
    assert [each["attempt"] for each in blind.events("aggregated")] == [1, 2]


def test_nothing_at_the_server_holds_the_adapter_or_the_mean(blind: Bench) -> None:
    blind.run()
    adapter = blind.learners["site-01"].saved
    assert adapter is not None
    held = b"".join(path.read_bytes() for path in Path(blind.plan.out).rglob("*") if path.is_file())
    for start in range(0, adapter.size - 4, 4):
        assert adapter[start : start + 4].astype("<f4").tobytes() not in held


# ------------------------------------------------------------------ the option server-reads-sum


@pytest.fixture
def readable(tmp_path: Path) -> Bench:
    """Five sites whose policies let the server read the sum, and a server that asks to."""
    bench = Bench(tmp_path, options={"scheme": "ckks", "server_reads_sum": True})
    for name in bench.names:
        bench.policies[name] = replace(bench.policies[name], server_reads_sum=True)
    bench.restart(*bench.names)
    return bench


def test_a_server_that_may_read_the_sum_ends_with_the_sites_adapter(readable: Bench) -> None:
    readable.link.alter_reply = lambda where, packet: None if where.site == LATE and where.asks("mask") else packet
    readable.assert_right(readable.run(), readable.but(LATE), readable.names)
    (event,) = readable.events("protection")
    assert (event["scheme"], event["options"]) == ("ckks", {"server-reads-sum": "yes"})
    assert "reads the sum" in event["cautions"][0]


def test_a_server_that_reads_the_sum_goes_on_from_its_checkpoint(readable: Bench) -> None:
    died: list[Where] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if not died and where.site == LATE and where.asks("check", 2):
            died.append(where)
            raise Killed
        return packet

    readable.link.alter_reply = reply
    with pytest.raises(Killed):
        readable.run()
    readable.assert_right(readable.run(), readable.names, readable.names)


def test_a_site_whose_policy_does_not_say_so_lets_no_server_read_the_sum(readable: Bench) -> None:
    readable.policies = {name: replace(readable.policies[name], server_reads_sum=False) for name in readable.names}
    readable.restart(*readable.names)
    with pytest.raises(ServerError) as caught:
        readable.run()
    assert caught.value.problem == "0 sites agreed to the session, it needs 4"
    assert {str(error) for _, error in readable.link.refusals} == {
        "this site's policy: the server would read each round's sum"
    }
