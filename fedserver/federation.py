"""A whole session: gather the sites, agree on a manifest, run the rounds, hand out the result (spec §7.4, §16)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np

from fedclient.packets import MAX_PACKETS, SiteRefusal
from fedclient.transcript import Damaged
from fedserver.checkpoint import Checkpoint, disk_bytes
from fedserver.enrolment import Enrolment
from fedserver.journal import Journal
from fedserver.link import Link
from fedserver.plan import Plan, ServerError
from fedserver.round import Account, drive, size_of
from secagg.chain import Position
from secagg.config import Manifest, RoundContext
from secagg.enrol import AttemptRef, Finish, OpeningRequest, Ready, RoundStart, require_from
from secagg.errors import FaultySite, Refused, Sealed, SecAggError, TooFewSites
from secagg.identity import Roster, ServerKeys
from secagg.initial import initial_adapter
from secagg.schemes import cautions, scheme_named
from secagg.session import Aggregate, Mean, Packet, ServerSession
from secagg.vector import Layout, Vector

GATHER_POLL_S: Final = 0.2
CATCH_UP_BYTES: Final = 512 << 20  # of missed aggregates in one message, and in memory at a time
MUCH_DISK: Final = 10**9  # bytes of a session's transcript, from which on its operator is told
ANOTHER_ADAPTER: Final = "another-adapter"  # in the journal only: a site computed another adapter than the rest

Past = Mapping[int, tuple[int, Packet]]  # round -> attempt in which its aggregate was made, the aggregate


@dataclass
class Result:
    """What the server holds when a session ends. adapter: None if only sites can read the sum."""

    rounds: int
    layout: Layout
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
        try:
            return self._run()
        except Damaged as error:  # of a round that a site had missed
            problem = f"{error.path} is damaged or missing"
            raise ServerError(problem, "restore it, then go on with fedserver --resume") from None

    def _run(self) -> Result:
        manifest = self._checkpoint.manifest()
        scheme, options = self._plan.scheme, self._plan.options()
        self._journal.write("protection", scheme=scheme, options=options, cautions=cautions(scheme, options))
        self._gather(*self._expected(manifest))
        if manifest is None:
            manifest = self._enrolment.propose(self._link.sites())
            self._checkpoint.save_session(manifest, self._roster, self._enrolment.layout(manifest))
            self._say_disk(manifest)
        self._admit(manifest)
        position = self._recall(manifest)
        self._end_held(manifest, position)
        for round_ in range(self._checkpoint.rounds() + 1, manifest.rounds + 1):
            self._round(manifest, round_)
        self._finish(manifest)
        card = self._enrolment.card
        if card is None:
            raise ServerError("no site described its adapter", "start the sites, then fedserver --resume")
        return Result(manifest.rounds, card.layout(), self._adapter)

    def _say_disk(self, manifest: Manifest) -> None:
        a_round, session = disk_bytes(manifest, self._plan.keep_vectors)
        if session > MUCH_DISK:
            self._journal.write("transcript", bytes_round=a_round, bytes_session=session)

    # ------------------------------------------------------------------ sites come and go

    def _expected(self, manifest: Manifest | None) -> tuple[int, int]:
        """How many sites to wait for, and how many will do when the time is up."""
        sites = self._enrolment.current_sites() if manifest is None else manifest.sites
        wanted = self._plan.min_sites or len(sites)
        return wanted, wanted if manifest is None else min(wanted, self._least(manifest))

    def _least(self, manifest: Manifest) -> int:
        """The fewest sites to go on with; when all rounds are done, one that wants the result."""
        return 1 if self._checkpoint.rounds() >= manifest.rounds else manifest.least_survivors

    def _gather(self, wanted: int, least: int) -> None:
        """Waits for `wanted` sites; when the time is up, `least` will do. Raises ServerError."""
        expected, deadline = set(self._enrolment.current_sites()), time.monotonic() + self._plan.join_timeout
        self._journal.write("waiting", expected=sorted(expected), least=wanted)
        seen: set[str] = set()
        while len(here := self._link.sites() & expected) < wanted:
            for site in sorted(here - seen):
                self._journal.write("connected", site=site)
            seen |= here
            if time.monotonic() > deadline and len(here) >= least:
                break
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
        """Asks the sites that have not agreed yet, or came back, for their consent and their position.

        One that joins later gets a phase's time: those that wait for it have loaded their model long ago, and
        it will have by the next round.
        """
        strangers = (self._link.sites() & set(manifest.sites)) - set(self._positions)
        timeout_s = self._plan.phase_timeout if self._positions else self._plan.load_timeout
        self._positions |= self._enrolment.consent(manifest, strangers, timeout_s)
        if len(self._positions) < self._least(manifest):
            raise ServerError(
                f"{len(self._positions)} sites agreed to the session, it needs {self._least(manifest)}",
                "read each site's own message, and start the session again",
            )

    def _recall(self, manifest: Manifest) -> Position | None:
        """Rebuilds the running adapter from the rounds already finished, and where that leaves the session.

        None if only sites can read the sums, and so know their adapter.
        """
        self._adapter = initial_adapter(self._enrolment.layout(manifest), manifest.nonce)
        position: Position | None = Position.start(manifest)
        for round_ in range(1, self._checkpoint.rounds() + 1):
            if position is None:
                break
            try:
                header = position.header(manifest, self._checkpoint.attempt(round_))
                context = RoundContext(manifest, self._roster, header)
                position = self._apply(context, self._checkpoint.aggregate(round_), position)[1]
            except (SecAggError, Damaged):
                problem = f"the checkpoint of round {round_} is damaged"
                raise ServerError(problem, "restore it, or begin a new session with another --out") from None
        if self._checkpoint.rounds():
            self._journal.write("resumed", rounds=self._checkpoint.rounds())
        return position

    def _end_held(self, manifest: Manifest, position: Position | None) -> None:
        """Ends the round whose sum was there when the server died: no site has to give anything secret again."""
        done = self._checkpoint.rounds()
        held = self._checkpoint.held(done + 1)
        position = position or self._place_of_most(done)
        if held is None or position is None:
            return
        attempt, blob, archive = held
        account, started = Account(), time.monotonic()
        try:
            context = RoundContext(manifest, self._roster, position.header(manifest, attempt))
            session = scheme_named(manifest.scheme).resume(context, self._keys, archive, blob)
        except (SecAggError, Damaged):
            return  # as if nothing had been held: sites that released shares will refuse another attempt
        self._journal.write("round", round=context.header.round, rounds=manifest.rounds)
        self._commit(context, self._drive(session, context, account), account, 0.0, started)

    def _place_of_most(self, round_: int) -> Position | None:
        """Where most of the sites that have completed `round_` say they stand, if any has."""
        places = Counter(each for _, each in sorted(self._positions.items()) if each.round == round_)
        return places.most_common(1)[0][0] if places else None

    def _apply(
        self, context: RoundContext, aggregate: Packet, position: Position
    ) -> tuple[Mean | None, Position | None]:
        """Adds an aggregate's mean to the running adapter, if the server may read it."""
        try:
            mean = scheme_named(context.manifest.scheme).open(context, aggregate)
        except Sealed:
            self._adapter = None
            return None, None
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
                self._gather(manifest.least_survivors, manifest.least_survivors)
            self._journal.write("round", round=round_, rounds=manifest.rounds)
            train_started, train_cpu, account = time.monotonic(), time.process_time(), Account()
            try:
                position, cohort = self._start(manifest, round_, account)
                train_s = time.monotonic() - train_started
                account.cpu["start"] = time.process_time() - train_cpu
                context, aggregate = self._attempt(manifest, position, cohort, account)
            except SecAggError as error:
                why.append(self._void(round_, error, account))
                self._require_hope(manifest, round_, account)
                continue
            self._commit(context, aggregate, account, train_s, started)
            return
        raise ServerError(
            f"round {round_} is void after {len(why)} attempts: {why[-1]}",
            "bring the missing sites back, then go on with fedserver --resume",
        )

    def _start(self, manifest: Manifest, round_: int, account: Account) -> tuple[Position, list[str]]:
        """Has the sites train; gives where they stand and which of them hold an update."""
        self._admit(manifest)
        here = self._link.sites() & set(self._positions)
        self._journal.write("training", round=round_, asked=sorted(here))
        ready = set()
        for site in self._asked_to_start(manifest, round_, here, account):
            if self._positions[site].round == round_ - 1:
                ready.add(site)
                self._journal.write("ready", round=round_, site=site)
            else:
                account.faulty[site] = "behind"
                self._journal.write("behind", round=round_, site=site)
        for site in set(manifest.sites) - ready - set(account.refused) - set(account.faulty):
            account.silent[site] = "train"
        return self._agreed(manifest, round_, ready, account)

    def _asked_to_start(self, manifest: Manifest, round_: int, sites: Set[str], account: Account) -> Iterator[str]:
        """Sends the start of a round, with the aggregates each site lacks; gives the sites whose position is known."""
        requests = {}
        past = self._past(sites, round_)
        for site in sorted(sites):
            position = self._positions[site]
            nearer = self._in_reach(position.round, round_)
            attempts, aggregates = _since(position, nearer, past)
            requests[site] = [Packet(RoundStart(manifest.digest(), nearer, attempts).encode()), *aggregates]
        account.add("start", down=sum(size_of(each) for packets in requests.values() for each in packets))
        sealed = []
        for site, answer in self._link.ask("start", requests, self._plan.train_timeout):
            if isinstance(answer, SiteRefusal) and answer.code == Sealed.code:
                sealed.append(site)
            elif self._is_placed(manifest, site, answer, "train", round_, account):
                yield site
        again = {site: requests[site] for site in sealed if self._lends(manifest, site, round_, account)}
        for site, answer in self._link.ask("start", again, self._plan.train_timeout) if again else ():
            if self._is_placed(manifest, site, answer, "train", round_, account):
                yield site

    def _lends(self, manifest: Manifest, site: str, before: int, account: Account) -> bool:
        """Has peers seal to a site what opens the aggregates it lacks; true once it has all of them."""
        for missed in range(self._positions[site].round + 1, self._in_reach(self._positions[site].round, before)):
            if not self._lends_one(manifest, site, missed, account):
                account.refused[site] = Sealed.code
                self._journal.write("refused", round=before, phase="train", site=site, code=Sealed.code, blames="")
                return False
        return True

    def _lends_one(self, manifest: Manifest, site: str, missed: int, account: Account) -> bool:
        ask = Packet(OpeningRequest(manifest.digest(), missed, self._checkpoint.attempt(missed)).encode())
        wanted = self._answer_of(site, "want", [ask], account)
        if wanted is None:
            return False
        ahead = [name for name in sorted(self._positions) if self._positions[name].round >= missed and name != site]
        for peer in (name for name in ahead if name in self._link.sites()):
            lent = self._answer_of(peer, "lend", [wanted], account)
            if lent is not None and self._answer_of(site, "borrow", [ask, lent], account) is not None:
                self._journal.write("lent", round=missed, site=site, peer=peer)
                return True
        return False

    def _answer_of(self, site: str, kind: str, packets: list[Packet], account: Account) -> Packet | None:
        """One site's answer to one question, or None if it refuses or is silent."""
        account.add("start", down=sum(size_of(each) for each in packets))
        for _, answer in self._link.ask(kind, {site: packets}, self._plan.phase_timeout):
            if isinstance(answer, Packet):
                account.add("start", up=size_of(answer))
                return answer
        return None

    def _in_reach(self, stood: int, before: int) -> int:
        """The round, `before` at the latest, that one message can bring a site to that has completed `stood`."""
        nearer, left = stood + 1, CATCH_UP_BYTES
        for missed in range(stood + 1, min(before, stood + MAX_PACKETS)):
            left -= self._checkpoint.size_of(missed)
            if left < 0 and missed > stood + 1:
                break
            nearer = missed + 1
        return min(nearer, before)

    def _past(self, sites: Iterable[str], before: int) -> Past:
        """Attempt and aggregate of every finished round that one of these sites lacks, each read once."""
        stood = {self._positions[site].round for site in sites}
        wanted = sorted({each for at in stood for each in range(at + 1, self._in_reach(at, before))})
        return {each: (self._checkpoint.attempt(each), self._checkpoint.aggregate(each)) for each in wanted}

    def _is_placed(
        self, manifest: Manifest, site: str, answer: Packet | SiteRefusal, phase: str, round_: int, account: Account
    ) -> bool:
        """Notes where a site says it stands; false if it refused, or its word is worth nothing."""
        if isinstance(answer, SiteRefusal):
            account.refused[site] = answer.code
            self._journal.write("refused", round=round_, phase=phase, site=site, code=answer.code, blames=answer.site)
            return False
        try:
            ready = require_from(self._roster, site, Ready.decode(answer.head))
            if ready.position.session != manifest.digest():
                raise FaultySite(site, "it stands in another session")
        except SecAggError as error:
            account.faulty[site] = error.code
            self._journal.write("fault", round=round_, phase=phase, site=site, code=error.code)
            return False
        self._positions[site] = ready.position
        account.add("start", up=size_of(answer))
        return True

    def _agreed(self, manifest: Manifest, round_: int, ready: set[str], account: Account) -> tuple[Position, list[str]]:
        """The position that most ready sites share, and those sites. Raises TooFewSites if none is ready."""
        at_round = {site: self._positions[site] for site in sorted(ready)}
        if not at_round:
            raise TooFewSites(0, manifest.least_survivors)
        position, _ = Counter(at_round.values()).most_common(1)[0]
        for site in sorted(site for site, each in at_round.items() if each != position):
            account.faulty[site] = ANOTHER_ADAPTER
            self._journal.write("fault", round=round_, phase="train", site=site, code=ANOTHER_ADAPTER)
        return position, sorted(site for site, each in at_round.items() if each == position)

    def _attempt(
        self, manifest: Manifest, position: Position, cohort: list[str], account: Account
    ) -> tuple[RoundContext, Aggregate]:
        attempt = self._checkpoint.begin_attempt(position.round + 1)
        context = RoundContext(manifest, self._roster, position.header(manifest, attempt), tuple(cohort))
        session = scheme_named(manifest.scheme).server(context, self._keys, self._checkpoint.archive())
        return replace(context, cohort=()), self._drive(session, context, account)

    def _drive(self, session: ServerSession, context: RoundContext, account: Account) -> Aggregate:
        header, max_words = context.header, scheme_named(context.manifest.scheme).most_words(context.manifest)
        ref = AttemptRef(header.session, header.round, header.attempt)
        hold = partial(self._checkpoint.hold, header.round, header.attempt)
        return drive(session, self._link, ref, self._plan.phase_timeout, self._journal, account, max_words, hold)

    def _commit(
        self, context: RoundContext, aggregate: Aggregate, account: Account, train_s: float, started: float
    ) -> None:
        """Opens the sum as a site would, keeps it for good, and says so."""
        commit_started, commit_cpu = time.monotonic(), time.process_time()
        mean = self._open(context, aggregate)
        header = context.header
        self._checkpoint.save_round(header.round, header.attempt, aggregate, self._plan.keep_vectors)
        account.cpu["commit"] = time.process_time() - commit_cpu
        ended = time.monotonic()
        self._report(context, aggregate, mean, account, train_s, ended - commit_started, ended - started)

    def _void(self, round_: int, error: SecAggError, account: Account) -> str:
        why = f"{error}; missing: {account.missing()}"
        self._journal.write("void", round=round_, why=why, code=error.code, refused=account.refused)
        return why

    def _require_hope(self, manifest: Manifest, round_: int, account: Account) -> None:
        """Raises ServerError if so many sites will not change their mind that no attempt can succeed."""
        firm = sorted(site for site, code in account.refused.items() if code == Refused.code)
        if len(manifest.sites) - len(firm) < manifest.least_survivors:
            raise ServerError(
                f"round {round_} cannot be tried again: {', '.join(firm)} refuse it (unmask shares of an earlier "
                "attempt have left them, they are past it, or their policy forbids it)",
                "read those sites' own messages, and begin a new session with another --out",
            )

    def _open(self, context: RoundContext, aggregate: Aggregate) -> Mean | None:
        """What the round added to the running adapter. Raises ServerError for a sum that no site would accept."""
        header = context.header
        before = Position(header.session, header.round - 1, header.adapter, header.previous, header.range_q40)
        try:
            return self._apply(context, aggregate.payload, before)[0]
        except SecAggError as error:
            raise ServerError(
                f"the sum of round {header.round} is no sum of updates ({error}): one of "
                f"{', '.join(aggregate.contributors)} sent something else, and the masks hide which",
                "begin a new session with another --out, with sites that you trust",
            ) from None

    def _report(
        self, context: RoundContext, aggregate: Aggregate, mean: Mean | None, account: Account, train_s: float,
        commit_s: float, total_s: float,
    ) -> None:  # fmt: skip
        manifest, round_ = context.manifest, context.header.round
        dropped = sorted(set(manifest.sites) - set(aggregate.contributors))
        self._journal.write(
            "aggregated", round=round_, attempt=context.header.attempt, contributors=list(aggregate.contributors),
            dropouts=dropped, seconds_train=train_s, seconds_commit=commit_s, seconds_total=total_s,
            seconds=account.seconds, cpu=account.cpu,
            bytes_up=account.bytes_up, bytes_down=account.bytes_down, size=manifest.size,
            totals=None if mean is None else _plain(mean),
        )  # fmt: skip

    # ------------------------------------------------------------------ the end

    def _finish(self, manifest: Manifest) -> None:
        self._admit(manifest)
        here, account, after = self._link.sites() & set(self._positions), Account(), manifest.rounds + 1
        while far := {site for site in here if self._in_reach(self._positions[site].round, after) < after}:
            stood = {site: self._positions[site].round for site in far}
            answered = self._asked_to_start(manifest, manifest.rounds, far, account)
            here = (here - far) | {site for site in answered if self._positions[site].round > stood[site]}
        requests, past = {}, self._past(here, after)
        for site in sorted(here):
            attempts, aggregates = _since(self._positions[site], after, past)
            requests[site] = [Packet(Finish(manifest.digest(), manifest.rounds, attempts).encode()), *aggregates]
        saved = []
        for site, answer in self._asked_to_finish(manifest, requests, account):
            if not self._is_placed(manifest, site, answer, "finish", manifest.rounds, account):
                continue
            if self._has_result(manifest, self._positions[site]):
                saved.append(site)
            else:
                self._journal.write("fault", phase="finish", site=site, code=ANOTHER_ADAPTER)
        self._journal.write("finished", rounds=manifest.rounds, saved_at=sorted(saved))

    def _asked_to_finish(
        self, manifest: Manifest, requests: Mapping[str, list[Packet]], account: Account
    ) -> Iterator[tuple[str, Packet | SiteRefusal]]:
        sealed = []
        for site, answer in self._link.ask("finish", requests, self._plan.train_timeout):
            if isinstance(answer, SiteRefusal) and answer.code == Sealed.code:
                sealed.append(site)
            else:
                yield site, answer
        after = manifest.rounds + 1
        again = {site: requests[site] for site in sealed if self._lends(manifest, site, after, account)}
        if again:
            yield from self._link.ask("finish", again, self._plan.train_timeout)

    def _has_result(self, manifest: Manifest, position: Position) -> bool:
        """Whether a site ended with the server's adapter, as far as the server may know it."""
        own = self._enrolment.adapter_digest(manifest, self._adapter)
        return position.round == manifest.rounds and (self._adapter is None or position.adapter == own)


def _since(position: Position, before: int, past: Past) -> tuple[tuple[int, ...], list[Packet]]:
    """The aggregates a site at `position` lacks, and the attempts in which they were made."""
    missed = [past[each] for each in range(position.round + 1, before)]
    return tuple(attempt for attempt, _ in missed), [aggregate for _, aggregate in missed]


def _plain(mean: Mean) -> Mapping[str, float | int]:
    totals = mean.totals
    return {
        "sites": totals.sites, "weight": totals.weight, "examples": totals.examples, "clipped": totals.clipped,
        "train_loss": totals.train_loss, "eval_loss": totals.eval_loss, "eval_tokens": totals.eval_tokens,
        "next_range": mean.next_range_q40 / 2.0**40,
    }  # fmt: skip
