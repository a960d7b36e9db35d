"""A whole session: gather the sites, agree on a manifest, run the rounds, hand out the result (spec §7.4, §16)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedclient.packets import SiteRefusal
from fedserver.checkpoint import Checkpoint
from fedserver.enrolment import Enrolment
from fedserver.journal import Journal
from fedserver.link import Link
from fedserver.plan import Plan, ServerError
from fedserver.round import Account, drive, size_of
from secagg.chain import Position
from secagg.config import Manifest, RoundContext
from secagg.enrol import AttemptRef, Finish, Ready, RoundStart, require_from
from secagg.errors import Sealed, SecAggError
from secagg.identity import Roster, ServerKeys
from secagg.initial import initial_adapter
from secagg.schemes import scheme_named
from secagg.session import Aggregate, Mean, Packet
from secagg.vector import Layout, Vector

GATHER_POLL_S = 0.2


@dataclass
class Result:
    """What the server holds when a session ends. adapter: None if only sites can read the sum."""

    rounds: int
    layout: Layout
    adapter_config: str
    adapter: Vector | None = field(repr=False)


class Federation:
    """The server's part of one session; `link` reaches the sites, `now` gives seconds since 1970."""

    def __init__(
        self, plan: Plan, roster: Roster, keys: ServerKeys, link: Link, journal: Journal, checkpoint: Checkpoint,
        now: Callable[[], int], sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._plan, self._roster, self._keys, self._link = plan, roster, keys, link
        self._journal, self._checkpoint, self._now, self._sleep = journal, checkpoint, now, sleep
        self._enrolment = Enrolment(plan, roster, keys.public, link, journal, now)
        self._positions: dict[str, Position] = {}  # sites that agreed, and where each stands
        self._adapter: Vector | None = None

    def run(self) -> Result:
        """Runs the session to its last round. Raises ServerError."""
        manifest = self._checkpoint.manifest()
        self._gather(self._least_to_begin(manifest))
        if manifest is None:
            manifest = self._enrolment.propose(self._link.sites())
            self._checkpoint.save_manifest(manifest)
        self._admit(manifest)
        self._recall(manifest)
        for round_ in range(self._checkpoint.rounds() + 1, manifest.rounds + 1):
            self._round(manifest, round_)
        self._finish(manifest)
        card = self._enrolment.card
        if card is None:
            raise ServerError("no site described its adapter", "start the sites, then fedserver --resume")
        return Result(manifest.rounds, card.layout(), card.adapter_config, self._adapter)

    # ------------------------------------------------------------------ sites come and go

    def _least_to_begin(self, manifest: Manifest | None) -> int:
        sites = self._enrolment.current_sites() if manifest is None else manifest.sites
        return self._plan.min_sites or len(sites)

    def _gather(self, least: int) -> None:
        """Waits until enough sites are there. Raises ServerError at the deadline."""
        expected, deadline = set(self._enrolment.current_sites()), time.monotonic() + self._plan.join_timeout
        self._journal.write("waiting", expected=sorted(expected), least=least)
        seen: set[str] = set()
        while len(here := self._link.sites() & expected) < least:
            for site in sorted(here - seen):
                self._journal.write("connected", site=site)
            seen |= here
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(expected - here))
                raise ServerError(
                    f"{len(here)} of {least} sites connected within {self._plan.join_timeout:.0f} s; "
                    f"missing: {missing}", "start fedclient at those sites, or lower --min-sites"
                )  # fmt: skip
            self._sleep(GATHER_POLL_S)
        for site in sorted(here - seen):
            self._journal.write("connected", site=site)

    def _admit(self, manifest: Manifest) -> None:
        """Asks the sites that have not agreed yet, or came back, for their consent and their position."""
        strangers = (self._link.sites() & set(manifest.sites)) - set(self._positions)
        self._positions |= self._enrolment.consent(manifest, strangers)
        if len(self._positions) < manifest.least_survivors:
            raise ServerError(
                f"{len(self._positions)} sites agreed to the session, it needs {manifest.least_survivors}",
                "read each site's own message, and start the session again",
            )

    def _recall(self, manifest: Manifest) -> None:
        """Rebuilds the running adapter from the rounds already finished."""
        self._adapter = initial_adapter(self._enrolment.layout(manifest), manifest.nonce)
        position = Position.start(manifest)
        for round_ in range(1, self._checkpoint.rounds() + 1):
            header = position.header(manifest, self._checkpoint.attempt(round_))
            context = RoundContext(manifest, self._roster, header)
            position = self._apply(context, self._checkpoint.aggregate(round_), position)[1]
        if self._checkpoint.rounds():
            self._journal.write("resumed", rounds=self._checkpoint.rounds())

    def _apply(self, context: RoundContext, aggregate: Packet, position: Position) -> tuple[Mean | None, Position]:
        """Adds an aggregate's mean to the running adapter, if the server may read it."""
        try:
            mean = scheme_named(context.manifest.scheme).open(context, aggregate)
        except Sealed:
            self._adapter = None
            return None, position
        if self._adapter is not None:
            self._adapter = np.add(self._adapter, mean.values, dtype=np.float32)
        digest = self._enrolment.adapter_digest(context.manifest, self._adapter)
        return mean, position.after(mean, digest)

    # ------------------------------------------------------------------ one round

    def _round(self, manifest: Manifest, round_: int) -> None:
        started = time.monotonic()
        why: list[str] = []
        for attempt in range(self._plan.attempts):
            if attempt:
                self._gather(manifest.least_survivors)
            self._journal.write("round", round=round_, rounds=manifest.rounds)
            train_started, account = time.monotonic(), Account()
            try:
                position, cohort = self._start(manifest, round_, account)
                train_s = time.monotonic() - train_started
                context, aggregate = self._attempt(manifest, position, cohort, account)
            except SecAggError as error:
                why.append(self._void(round_, error, account))
                continue
            self._checkpoint.save_round(round_, context.header.attempt, aggregate)
            self._report(context, aggregate, account, train_s, time.monotonic() - started)
            return
        raise ServerError(
            f"round {round_} is void after {len(why)} attempts: {why[-1]}",
            "bring the missing sites back, then go on with fedserver --resume",
        )

    def _start(self, manifest: Manifest, round_: int, account: Account) -> tuple[Position, list[str]]:
        """Has the sites train; gives where they stand and which of them hold an update."""
        self._admit(manifest)
        here = sorted(self._link.sites() & set(self._positions))
        requests = {site: self._start_packets(manifest, round_, self._positions[site]) for site in here}
        self._journal.write("training", round=round_, asked=here)
        account.add("start", down=sum(size_of(each) for packets in requests.values() for each in packets))
        ready = set()
        for site, answer in self._link.ask("start", requests, self._plan.train_timeout):
            if self._is_ready(manifest, round_, site, answer, account):
                ready.add(site)
        return self._agreed(round_, ready)

    def _start_packets(self, manifest: Manifest, round_: int, position: Position) -> Sequence[Packet]:
        attempts, aggregates = self._since(position, round_)
        return [Packet(RoundStart(manifest.digest(), round_, attempts).encode()), *aggregates]

    def _since(self, position: Position, before: int) -> tuple[tuple[int, ...], list[Packet]]:
        """The aggregates a site at `position` lacks, and the attempts in which they were made."""
        missed = range(position.round + 1, before)
        attempts = tuple(self._checkpoint.attempt(each) for each in missed)
        return attempts, [self._checkpoint.aggregate(each) for each in missed]

    def _is_ready(
        self, manifest: Manifest, round_: int, site: str, answer: Packet | SiteRefusal, account: Account
    ) -> bool:
        """Notes a site's answer; whether it holds an update for the round."""
        if isinstance(answer, SiteRefusal):
            account.refused[site] = answer.code
            self._journal.write("refused", round=round_, phase="train", site=site, code=answer.code, blames=answer.site)
            return False
        try:
            ready = require_from(self._roster, site, Ready.decode(answer.head))
        except SecAggError as error:
            self._journal.write("fault", round=round_, phase="train", site=site, code=error.code)
            return False
        if ready.position.session != manifest.digest():
            return False
        self._positions[site] = ready.position
        account.add("start", up=size_of(answer))
        self._journal.write("ready", round=round_, site=site)
        return ready.position.round == round_ - 1

    def _agreed(self, round_: int, ready: set[str]) -> tuple[Position, list[str]]:
        """The position that most ready sites share, and those sites. Raises ServerError if none is ready."""
        at_round = {site: self._positions[site] for site in sorted(ready)}
        if not at_round:
            raise ServerError("no site is ready for the round", "read each site's own message, then --resume")
        position, _ = Counter(at_round.values()).most_common(1)[0]
        for site in sorted(site for site, each in at_round.items() if each != position):
            self._journal.write("fault", round=round_, phase="train", site=site, code="another-adapter")
        return position, sorted(site for site, each in at_round.items() if each == position)

    def _attempt(
        self, manifest: Manifest, position: Position, cohort: list[str], account: Account
    ) -> tuple[RoundContext, Aggregate]:
        attempt = self._checkpoint.begin_attempt(position.round + 1)
        context = RoundContext(manifest, self._roster, position.header(manifest, attempt), tuple(cohort))
        session = scheme_named(manifest.scheme).server(context, self._keys)
        ref = AttemptRef(manifest.digest(), context.header.round, attempt)
        max_words = manifest.size + 64  # no scheme sends more than a word per value
        aggregate = drive(session, self._link, ref, self._plan.phase_timeout, self._journal, account, max_words)
        return replace(context, cohort=()), aggregate

    def _void(self, round_: int, error: SecAggError, account: Account) -> str:
        out = sorted({**account.silent, **account.refused})
        why = f"{error}; " + (f"without an answer: {', '.join(out)}" if out else "no site is to blame")
        self._journal.write("void", round=round_, why=why, code=error.code, refused=account.refused)
        return why

    def _report(
        self, context: RoundContext, aggregate: Aggregate, account: Account, train_s: float, total_s: float
    ) -> None:
        manifest, round_ = context.manifest, context.header.round
        header = context.header
        before = Position(header.session, round_ - 1, header.adapter, header.previous, header.range_q40)
        mean, _ = self._apply(context, aggregate.payload, before)
        dropped = sorted(set(manifest.sites) - set(aggregate.contributors))
        self._journal.write(
            "aggregated", round=round_, attempt=context.header.attempt, contributors=list(aggregate.contributors),
            dropouts=dropped, seconds_train=train_s, seconds_total=total_s, seconds=account.seconds,
            bytes_up=account.bytes_up, bytes_down=account.bytes_down, size=manifest.size,
            totals=None if mean is None else _plain(mean),
        )  # fmt: skip

    # ------------------------------------------------------------------ the end

    def _finish(self, manifest: Manifest) -> None:
        self._admit(manifest)
        requests = {}
        for site in sorted(self._link.sites() & set(self._positions)):
            attempts, aggregates = self._since(self._positions[site], manifest.rounds + 1)
            requests[site] = [Packet(Finish(manifest.digest(), manifest.rounds, attempts).encode()), *aggregates]
        saved = []
        for site, answer in self._link.ask("finish", requests, self._plan.train_timeout):
            if isinstance(answer, SiteRefusal):
                self._journal.write("refused", phase="finish", site=site, code=answer.code, blames=answer.site)
            else:
                saved.append(site)
        self._journal.write("finished", rounds=manifest.rounds, saved_at=sorted(saved))


def _plain(mean: Mean) -> Mapping[str, float | int]:
    totals = mean.totals
    return {
        "sites": totals.sites, "weight": totals.weight, "examples": totals.examples, "clipped": totals.clipped,
        "train_loss": totals.train_loss, "eval_loss": totals.eval_loss, "eval_tokens": totals.eval_tokens,
        "next_range": mean.next_range_q40 / 2.0**40,
    }  # fmt: skip
