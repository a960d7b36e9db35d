"""What checking the sum costs at d = 4e6 and 20 sites: at a site, at whoever opens, at the server, on the wire.

Each part is timed in turn with the work it is added to, on the CPU clock, so that its share travels to other machines.
"""

from __future__ import annotations

import time
from functools import cache
from unittest.mock import patch

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.consortium import SessionRound, masking_stage, update_of
from benchmarks.figures import Pair, in_turn, record_of, tell
from fedserver.round import size_of
from secagg.masked import opening
from secagg.masked.audit import audit_aggregate
from secagg.masked.messages import MaskedAggregate
from secagg.masked.server import MaskedServer
from secagg.session import ClientSession, Packet

SITES, SIZE, ROUNDS = 20, 4_000_000, 5

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.timeout(900)]


@cache
def before_the_check() -> tuple[SessionRound, dict[str, Packet], bytes]:
    """A round whose sum is unmasked, the record as each site gets it, and what the server keeps of itself."""
    masked = SessionRound(SITES, SIZE).until("mask")
    for number, name in enumerate(masked.names):
        masked.clients[name] = masked.give(name, update_of(SIZE, seed=number))
    masked.until("check")
    return masked, dict(masked.server.requests()), masked.server.to_bytes()


@cache
def checked() -> tuple[dict[str, Packet], Packet]:
    """Every site's projections, and the aggregate they make."""
    masked, requests, blob = before_the_check()
    replies = {name: spent(name).handle(request) for name, request in requests.items()}
    server = MaskedServer.resumed(masked.site_context, masked.consortium.server_keys, masked.archive, blob)
    server.receive(replies.items())
    return replies, server.result().payload


def spent(name: str) -> ClientSession:
    """A site's session that has given its shares and still holds its words."""
    masked, _, _ = before_the_check()
    return masked.give(name, None, sent=masked.archive.get(name))


def tell_share(benchmark: BenchmarkFixture, what: str, pair: Pair, of: str, role: str | None = None) -> None:
    """A part beside the work it is compared with. role: whose check it is, if the part is nothing but the check."""
    least, middle, most = (f"{1 / each:.2f}" for each in (pair.ratio.most, pair.ratio.middle, pair.ratio.least))
    line = f"{what}, d = {SIZE:,}, {SITES} sites: {pair.ours.show('ms', 1e3)}, {middle} ({least} to {most}) of {of}, "
    record = record_of(
        pair.taken[0], family="stage", scheme="masked", role=role, stage="check", values=SIZE, sites=SITES,
        neighbours=SITES - 1, bits=8, note=what,
    )  # fmt: skip
    records = [record] if role else []
    tell(
        benchmark,
        f"{line}{pair.theirs.show('ms', 1e3)}",
        *records,
        ours_s=pair.ours.middle,
        theirs_s=pair.theirs.middle,
    )


def test_a_sites_answer_beside_its_masking_stage(benchmark: BenchmarkFixture) -> None:
    """Ours: the record verified, the words hashed and projected, the reply signed. Theirs: bench_masking's stage."""
    stage, site, bundle = masking_stage(SITES, SIZE)
    masked, requests, _ = before_the_check()
    update = update_of(SIZE)
    pair = in_turn(
        benchmark,
        lambda client: client.handle(requests[masked.middle]),
        lambda: stage.give(site, update).handle(bundle),
        prepare=lambda: (spent(masked.middle),),
        rounds=ROUNDS,
    )
    tell_share(benchmark, "a site's answer to the check", pair, "its masking stage", "site")


def test_opening_with_the_check_beside_opening_without(benchmark: BenchmarkFixture) -> None:
    """Without: neither the projections' signatures nor the projection of the sum and its masks."""
    masked, _, _ = before_the_check()
    _, aggregate = checked()
    total = opening.total_of(MaskedAggregate.decode(aggregate.head).projections)

    def without() -> None:
        with patch.object(opening, "project_rest", lambda *_: total), patch.object(opening, "require_projections"):
            opening.open_aggregate(masked.site_context, aggregate)

    pair = in_turn(benchmark, lambda: opening.open_aggregate(masked.site_context, aggregate), without, rounds=ROUNDS)
    tell_share(benchmark, "opening with the check", pair, "opening without")


def test_the_servers_check_phase_beside_its_unmasking(benchmark: BenchmarkFixture) -> None:
    """Ours: 20 projections verified, the masked sum projected once. Theirs: 20 masks taken off the sum, its digest."""
    masked, _, blob = before_the_check()
    replies, _ = checked()

    def resumed() -> tuple[object, ...]:
        context = masked.site_context
        return (MaskedServer.resumed(context, masked.consortium.server_keys, masked.archive, blob),)

    def check(server: MaskedServer) -> None:
        server.requests()
        server.receive(replies.items())

    server = masked.server
    assert isinstance(server, MaskedServer)
    record = server._settled_record()
    pair = in_turn(benchmark, check, lambda: server._unmasked(record), prepare=resumed, rounds=ROUNDS)
    tell_share(benchmark, "the server's check phase", pair, "unmasking the sum", "server")


def test_an_audit_beside_opening(benchmark: BenchmarkFixture) -> None:
    """Ours: 20 vectors hashed, projected and added up."""
    masked, _, _ = before_the_check()
    _, aggregate = checked()
    pair = in_turn(
        benchmark,
        lambda: audit_aggregate(masked.site_context, aggregate, masked.archive),
        lambda: opening.open_aggregate(masked.site_context, aggregate),
        rounds=3,
    )
    tell_share(benchmark, "an audit with all vectors", pair, "opening with the check")


def test_bytes_of_the_check(benchmark: BenchmarkFixture) -> None:
    replies, aggregate = benchmark.pedantic(checked, rounds=1)
    up = max(map(size_of, replies.values()))
    head = MaskedAggregate.decode(aggregate.head)
    record, whole = len(head.record.encode()), len(aggregate.head)
    words = 0 if aggregate.words is None else aggregate.words.nbytes
    line = f"bytes of the check, {SITES} sites: projections of a site {up:,}, the record to a site {record:,}, "
    line += f"head of the aggregate {whole:,} beside {words:,} of the sum"
    tell(benchmark, line, projections=up, record=record, head=whole, words=words)
