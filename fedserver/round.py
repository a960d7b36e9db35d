"""One attempt of one round: moves packets between a scheme's server session and the sites, whatever the scheme."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fedclient.packets import SiteRefusal
from fedserver.journal import Journal
from fedserver.link import Link
from secagg.enrol import AttemptRef
from secagg.session import Aggregate, Packet, ServerSession


@dataclass
class Account:
    """What an attempt cost and who stood out in it; everything here is public."""

    seconds: dict[str, float] = field(default_factory=dict)  # by phase
    cpu: dict[str, float] = field(default_factory=dict)  # seconds of this process, all threads, by phase
    bytes_up: dict[str, int] = field(default_factory=dict)  # encoded heads and words, all sites
    bytes_down: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # site -> code
    silent: dict[str, str] = field(default_factory=dict)  # site -> phase in which it fell silent
    faulty: dict[str, str] = field(default_factory=dict)  # site -> code of what was wrong with its answer

    def missing(self) -> str:
        """Who did not take part, and why, for people."""
        why = {site: f"no answer in {phase}" for site, phase in self.silent.items()}
        why |= {site: f"a faulty answer, {code}" for site, code in self.faulty.items()}
        why |= {site: f"refused, {code}" for site, code in self.refused.items()}
        return ", ".join(f"{site} ({why[site]})" for site in sorted(why)) or "nobody"

    def add(self, phase: str, up: int = 0, down: int = 0) -> None:
        """Counts traffic."""
        self.bytes_up[phase] = self.bytes_up.get(phase, 0) + up
        self.bytes_down[phase] = self.bytes_down.get(phase, 0) + down


def size_of(packet: Packet) -> int:
    """Bytes of the encoded packet: its head, and 8 for each word."""
    return len(packet.head) + (0 if packet.words is None else packet.words.nbytes)


def drive(
    session: ServerSession, link: Link, ref: AttemptRef, phase_timeout_s: float, journal: Journal,
    account: Account, max_words: int, hold: Callable[[bytes], None],
) -> Aggregate:  # fmt: skip
    """The aggregate of this attempt. Raises what the session raises: the attempt is void then.

    hold: keeps what a session that can do without the sites' secrets needs to end the round.
    """
    try:
        _run_phases(session, link, ref, phase_timeout_s, journal, account, max_words, hold)
    finally:
        for site, fault in session.faults.items():
            account.faulty[site] = fault.code
            journal.write("fault", round=ref.round, attempt=ref.attempt, site=site, code=fault.code)
    return session.result()


def _run_phases(
    session: ServerSession, link: Link, ref: AttemptRef, phase_timeout_s: float, journal: Journal,
    account: Account, max_words: int, hold: Callable[[bytes], None],
) -> None:  # fmt: skip
    while not session.done:
        started, started_cpu = time.monotonic(), time.process_time()
        phase, requests = session.phase, session.requests()
        journal.write("phase", round=ref.round, attempt=ref.attempt, phase=phase, asked=sorted(requests))
        account.add(phase, down=sum(size_of(packet) for packet in requests.values()))
        exchange = _Exchange(link, ref, phase, requests, phase_timeout_s, journal, account, max_words)
        try:
            session.receive(exchange.replies())
        finally:
            account.seconds[phase] = time.monotonic() - started
            account.cpu[phase] = time.process_time() - started_cpu
            for site in sorted(set(requests) - exchange.answered - set(account.refused)):
                account.silent[site] = phase
                journal.write("silent", round=ref.round, attempt=ref.attempt, phase=phase, site=site)
        blob = session.to_bytes()
        if blob and not session.done:
            hold(blob)


@dataclass
class _Exchange:
    link: Link
    ref: AttemptRef
    phase: str
    requests: Mapping[str, Packet]
    timeout_s: float
    journal: Journal
    account: Account
    max_words: int
    answered: set[str] = field(default_factory=set)

    def replies(self) -> Iterator[tuple[str, Packet]]:
        """The packets that arrive; refusals go into the account."""
        head = Packet(self.ref.encode())
        requests = {site: (head, packet) for site, packet in self.requests.items()}
        for site, answer in self.link.ask("answer", requests, self.timeout_s, self.max_words):
            facts = {"round": self.ref.round, "attempt": self.ref.attempt, "phase": self.phase, "site": site}
            if isinstance(answer, SiteRefusal):
                self.account.refused[site] = answer.code
                self.journal.write("refused", **facts, code=answer.code, blames=answer.site)
                continue
            self.answered.add(site)
            self.account.add(self.phase, up=size_of(answer))
            self.journal.write("answered", **facts, bytes=size_of(answer))
            yield site, answer
