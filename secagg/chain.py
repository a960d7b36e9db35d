"""Where a site stands in a session, and which answers it has already given (spec §16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

from secagg.config import MAX_RANGE_Q40, MAX_ROUNDS, SUITE, Manifest, RoundHeader
from secagg.errors import FaultyServer, Refused
from secagg.session import Mean
from secagg.wire import Digest, Range, Struct

STAGES: Final = ("advertised", "shared", "masked", "signed", "spent", "checked")  # in the order of answering
RELEASED: Final = STAGES.index("spent") + 1  # from this stage on, unmask shares have left


@dataclass(frozen=True, slots=True)
class Position(Struct):
    """What a site knows to be the result of the rounds so far; the next header must continue it."""

    TAG = 4

    session: Digest
    round: Annotated[int, Range(0, MAX_ROUNDS)]  # rounds completed
    adapter: Digest
    transcript: Digest
    range_q40: Annotated[int, Range(1, MAX_RANGE_Q40)]

    @classmethod
    def start(cls, manifest: Manifest) -> Self:
        """Before round 1."""
        session = manifest.digest()
        return cls(session, 0, manifest.initial_adapter, session, manifest.first_range_q40)

    def header(self, manifest: Manifest, attempt: int) -> RoundHeader:
        """The only header that this site accepts for its next round."""
        return RoundHeader(
            SUITE, self.session, self.round + 1, attempt, manifest.scheme, manifest.roster,
            self.adapter, self.transcript, manifest.graph_digest(), self.range_q40,
        )  # fmt: skip

    def after(self, mean: Mean, adapter: bytes) -> Self:
        """The position once the round's mean has made `adapter` (a digest)."""
        return type(self)(self.session, self.round + 1, adapter, mean.transcript, mean.next_range_q40)


@dataclass(frozen=True, slots=True)
class Answer(Struct):
    """One line of the durable log, written and flushed before the reply it stands for leaves the site."""

    TAG = 5

    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempt: Annotated[int, Range(1, 1000)]
    stage: Annotated[int, Range(1, len(STAGES))]  # 1 = advertised
    evidence: Digest  # the header's digest, from "signed" on h3, at "checked" the record's digest


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rules of the log of one session: every answer is later than the one before."""

    session: bytes
    last: Answer | None = None

    def admit(self, position: Position, header: RoundHeader, manifest: Manifest) -> None:
        """Checks that a new attempt may begin. Raises Refused or FaultyServer."""
        if header != position.header(manifest, header.attempt):
            raise FaultyServer("the round header does not continue this site's chain of rounds")
        if self.last is None or self.last.round < header.round:
            return
        if self.released(header.round):
            raise Refused("unmask shares already left for this round; its update is not masked again")
        if self.last.round > header.round or self.last.attempt >= header.attempt:
            raise Refused("this attempt is not after the last one")

    def released(self, round_: int) -> bool:
        """Whether an unmask share of this round has left the site."""
        return self.last is not None and self.last.round == round_ and self.last.stage >= RELEASED

    def answer(self, header: RoundHeader, stage: str, evidence: bytes) -> tuple[Ledger, Answer]:
        """The log with one more line, and the line. Raises Refused for an answer already given."""
        line = Answer(self.session, header.round, header.attempt, STAGES.index(stage) + 1, evidence)
        if self.last is not None and _order(line) <= _order(self.last):
            raise Refused("this phase was answered before")
        if self.last is not None and self.released(header.round) and line.attempt != self.last.attempt:
            raise Refused("unmask shares already left for this round")
        return replace(self, last=line), line


def _order(line: Answer) -> tuple[int, int, int]:
    return line.round, line.attempt, line.stage
