"""What no site can see during the round: a colluder that shifts the sum after it has seen it. The audit names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedserver.checkpoint import Checkpoint
from secagg.config import RoundContext
from secagg.errors import FaultySite
from secagg.labels import SIGN_PROJECTIONS
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import MaskedAggregate, Projections, RoundRecord, sum_words_digest
from secagg.masked.server import MaskedServer
from secagg.projection import project
from secagg.session import InMemory, Packet, Words
from tests.audit.conftest import WORDS, Command, Kept, keep, with_roster_file
from tests.federation.direct import Bench, Where
from tests.masked.stage import aggregate, projections, swapped
from tests.sim import Round, federation

LIAR, SHIFT = "site-04", 3


class Plot:
    """A server that adds to the sum of round 2, and a site whose projections make up for it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._record: RoundRecord | None = None

    def request(self, where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        """Listens for the record."""
        if where.asks("check", 2):
            self._record = RoundRecord.decode(packets[1].head)
        return packets

    def reply(self, where: Where, packet: Packet) -> Packet:
        """The liar signs for the vector that would make the sum right."""
        if where != Where("answer", LIAR, "check", 2, 1):
            return packet
        assert self._record is not None
        checkpoint, consortium = Checkpoint(Path(self._bench.plan.out) / "state"), self._bench.consortium
        manifest = checkpoint.manifest()
        assert manifest is not None
        context = RoundContext(manifest, consortium.roster, self._record.header)
        words = np.fromfile(Path(self._bench.plan.out) / f"state/rounds/.next/vectors/{LIAR}.u64", "<u8")
        words[0] += np.uint64(SHIFT)
        values = project(challenge_seed(context, self._record.transcript()), words).astype("<u8").tobytes()
        draft = replace(Projections.decode(packet.head), values=values)
        signature = consortium.keys[LIAR].sign(SIGN_PROJECTIONS, context.digest, draft.unsigned())
        return Packet(replace(draft, signature=signature).encode())


def lying_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds to round 2's sum before it names it, and throws no projections out."""
    honest = MaskedServer._unmasked

    def shifted(self: MaskedServer, record: RoundRecord) -> bytes:
        digest = honest(self, record)
        if record.header.round != 2:
            return digest
        self._sum[0] += np.uint64(SHIFT)
        return sum_words_digest(self._context.digest, self._sum)

    monkeypatch.setattr(MaskedServer, "_unmasked", shifted)
    monkeypatch.setattr(MaskedServer, "_is_proved", lambda self: True)


@pytest.fixture
def plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    bench = with_roster_file(Bench(tmp_path / "plot", options={"rounds": 3}))
    plot = Plot(bench)
    lying_server(monkeypatch)
    bench.link.alter_request, bench.link.alter_reply = plot.request, plot.reply
    kept = keep(bench)
    assert not bench.link.refusals  # every site believed every sum
    return kept


def test_a_colluder_that_shifts_the_sum_with_the_server_deceives_every_site_and_is_named_by_the_audit(
    plotted: Kept, fedserver: Command, fedclient: Command
) -> None:
    assert fedclient("verify-round", plotted.home("site-01"), "all").status == 0
    at_site = fedclient("verify-round", plotted.home("site-01"), 2, "--vectors", plotted.state / "rounds")
    for said in (at_site, fedserver("verify-round", plotted.out, "all")):
        problem, remedy = said.two_lines()
        assert problem == (
            f"round 2: the projections of {LIAR} are not of the words it signed; the sum differs from the vectors' in "
            f"1 of {WORDS} words, and is the one its record names"
        )
        assert remedy == f"{LIAR} lied in the check of the sum: do not use the adapter; have its key revoked"
    assert fedserver("verify-round", plotted.out, 3).status == 0  # whose own sum is right: ask for `all`


# ------------------------------------------------------------------ what Scheme.audit says of one round


def audited(round_: Round, packet: Packet, archive: InMemory | None = None) -> object:
    return round_.scheme.audit(round_.site_context, packet, archive or round_.archive)


def finished() -> tuple[Round, MaskedAggregate, Words]:
    round_ = federation(7, 8, drop={"mask": ["site-07"]})
    packet = round_.run().payload
    assert packet.words is not None
    return round_, MaskedAggregate.decode(packet.head), packet.words


def test_false_projections_beside_a_right_sum_are_told_from_a_false_sum() -> None:
    round_, head, words = finished()
    false = projections(round_, head.record, "site-01", round_.archive.get("site-02"))
    audit = audited(
        round_, Packet(replace(head, projections=swapped(head.projections, "site-01", false)).encode(), words)
    )
    assert (audit.false, audit.wrong_words, audit.is_named) == (("site-01",), 0, True)


def test_a_sum_that_every_survivor_signed_and_that_is_not_theirs_is_counted_word_by_word() -> None:
    round_, head, words = finished()
    altered = words.copy()
    altered[[0, 3]] += np.uint64(1 << 63)
    packet = aggregate(
        round_, replace(head.record, sum_words=sum_words_digest(round_.context.digest, altered)), altered
    )
    audit = audited(round_, packet)
    assert (audit.false, audit.wrong_words, audit.is_named) == ((), 2, True)
    named = audited(round_, Packet(head.encode(), altered))
    assert (named.false, named.wrong_words, named.is_named) == ((), 2, False)


def test_without_all_vectors_nothing_is_said_of_the_sum() -> None:
    round_, head, words = finished()
    some = InMemory()
    for site in ("site-01", "site-02"):
        some.put(site, round_.archive.get(site))
    some.put("site-03", round_.archive.get("site-04"))
    audit = audited(round_, Packet(head.encode(), words), some)
    assert audit.wrong_words is None
    assert audit.missing == ("site-04", "site-05", "site-06")
    assert audit.altered == ("site-03",)


def test_projections_that_nobody_signed_accuse_nobody() -> None:
    round_, head, words = finished()
    other = projections(round_, head.record, "site-01", round_.archive.get("site-02"))
    forged = replace(other, signature=bytes(64))
    packet = Packet(replace(head, projections=swapped(head.projections, "site-01", forged)).encode(), words)
    with pytest.raises(Exception, match="site-01: its Projections is not signed") as caught:
        audited(round_, packet)
    assert not isinstance(caught.value, FaultySite)


def test_a_record_that_no_quorum_signed_is_refused_although_every_survivor_gives_projections_for_it() -> None:
    round_, head, words = finished()
    first, *others = head.record.signatures
    forged = replace(head.record, signatures=(replace(first, signature=bytes(64)), *others))
    with pytest.raises(Exception, match=f"{first.site}: its SurvivorSignature is not signed"):
        audited(round_, aggregate(round_, forged, words))
    audited(round_, aggregate(round_, head.record, words))
