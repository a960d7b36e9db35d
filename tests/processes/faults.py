"""Where and how a toy site hurts itself: exact points of one request, so that no test has to race.

A fault is written KIND:PHASE:ROUND[:SECONDS], e.g. kill-in:share:2. PHASE is a phase of the round, `train`, `finish`,
or `any`; a fault strikes once, and a site that is started again is started without it.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedclient.fleet import Fleet
from fedclient.site import Site
from secagg.enrol import AttemptRef, Finish, RoundStart
from secagg.session import Packet
from secagg.wire import tag_of
from tests.federation.direct import PHASES, REQUESTS

# kind -> when it strikes: the request has arrived; the log line is durable; the reply has left
WHEN = {
    "kill-before": "before",
    "kill-in": "in",
    "kill-after": "after",
    "hold": "before",  # waits for `let_go`
    "hold-in": "in",
    "slow": "before",
    "full": "before",  # no file of this process grows any more
    "twice": "after",  # the same reply is pushed again
    "again": "in",  # the same request is handled again; what the site says to that is on its terminal
}


@dataclass(frozen=True)
class Asked:
    """Which request a site has before it."""

    phase: str
    round: int = 0

    @classmethod
    def of(cls, kind: str, packets: Sequence[Packet]) -> Asked:
        """What these packets ask for."""
        if kind == "answer":
            return cls(REQUESTS[tag_of(packets[1].head)], AttemptRef.decode(packets[0].head).round)
        if kind == "start":
            return cls("train", RoundStart.decode(packets[0].head).round)
        if kind == "finish":
            return cls("finish", Finish.decode(packets[0].head).rounds)
        return cls(kind)


@dataclass(frozen=True)
class Fault:
    """One injury."""

    kind: str
    phase: str
    round: int
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """KIND:PHASE:ROUND[:SECONDS]."""
        kind, phase, round_, *seconds = text.split(":")
        assert kind in WHEN, kind
        assert phase in (*PHASES, "train", "finish", "any"), phase
        return cls(kind, phase, int(round_), float(seconds[0]) if seconds else 0.0)

    def fits(self, when: str, asked: Asked) -> bool:
        """Whether this is the moment."""
        return WHEN[self.kind] == when and self.round == asked.round and self.phase in ("any", asked.phase)


@dataclass
class Injuries:
    """The faults that are still to come at one site. sign: the file by which it tells where it is, see `reached`."""

    faults: list[Fault]
    sign: Path
    asked: Asked = field(default_factory=lambda: Asked(""))
    push_again: Callable[[], object] = lambda: None
    handle_again: Callable[[], object] = lambda: None

    def strike(self, when: str) -> None:
        """Does what is due now."""
        for fault in [each for each in self.faults if each.fits(when, self.asked)]:
            self.faults.remove(fault)
            self._tell(f"{fault.kind}:{fault.phase}:{fault.round}")
            self._do(fault)

    def _do(self, fault: Fault) -> None:
        match fault.kind:
            case "kill-before" | "kill-in" | "kill-after":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hold" | "hold-in":
                gate_of(self.sign).open("rb").close()  # a pipe: opens when somebody opens its other end
            case "slow":
                time.sleep(fault.seconds)
            case "full":
                most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
            case "twice":
                with suppress(Exception):  # the server may well refuse it
                    self.push_again()
            case "again":
                try:
                    self.handle_again()
                except Exception as error:
                    self._tell(f"again: {type(error).__name__}: {error}")
                else:
                    self._tell("again: ANSWERED TWICE")

    def _tell(self, words: str) -> None:
        with self.sign.open("a") as file:
            file.write(words + "\n")


def gate_of(sign: Path) -> Path:
    """The named pipe at which a held site waits."""
    return sign.with_suffix(".gate")


class InjuredSite(Site):
    """A site whose process is hurt before or after it handles a request."""

    injuries: Injuries

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        """As in Site."""
        self.injuries.asked = Asked.of(kind, packets)
        self.injuries.handle_again = lambda: Site.handle(self, kind, packets)
        self.injuries.strike("before")
        reply = super().handle(kind, packets)
        self.injuries.strike("in")
        return reply


def injure_pushes(injuries: Injuries) -> None:
    """Has what is due after a reply happen when it has left, whole."""
    push = Fleet.push

    def pushing(fleet: Fleet, node_id: int, reply, seconds: float) -> int:  # type: ignore[no-untyped-def]
        size = push(fleet, node_id, reply, seconds)
        injuries.push_again = lambda: push(fleet, node_id, reply, seconds)
        injuries.strike("after")
        return size

    Fleet.push = pushing  # type: ignore[method-assign]
