"""A whole round of real sessions with a stopwatch: what each stage took at sites, server and opening, and its bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from benchmarks.consortium import SessionRound, update_of
from benchmarks.stages import WORKERS, base, parts_of
from benchmarks.stopwatch import Part, Seconds, Stopwatch, follow
from fedclient.packets import decode_packet, encode_packet
from fedserver.round import size_of
from secagg.primitives import known
from secagg.session import Mean, Packet, Update

MOST_WORDS = 1 << 32
SERVER, OPEN = "server", "open"
_NOBODY = Part("others", "", "")


@dataclass(frozen=True, slots=True)
class Played:
    """sites: stages of each watched site. up, down: bytes of the middle one's replies; of its requests and the sum."""

    sites: tuple[dict[str, Seconds], ...]
    server: dict[str, Seconds]
    open: dict[str, Seconds]
    up: int
    down: int
    mean: Mean

    def of(self, role: str) -> tuple[dict[str, Seconds], ...]:
        """The stages, once for each party of the role."""
        return {"site": self.sites, "server": (self.server,), "open": (self.open,)}[role]


@cache
def _follow_workers(scheme: str) -> None:
    """From now on the scheme's worker processes count as the process that starts them."""
    if scheme in WORKERS:
        module, _, name = WORKERS[scheme].partition(":")
        worker = getattr(import_module(module), name)
        begin = worker.__init__

        def followed(self: Any, *arguments: Any) -> None:
            begin(self, *arguments)
            follow(self.process.pid)

        worker.__init__ = followed


@cache
def _updates(size: int) -> tuple[Update, ...]:
    """Three, which sites take in turn: time does not depend on the values."""
    return tuple(update_of(size, seed) for seed in range(3))


def play(scheme: str, n: int, size: int, bits: int = 12, updates: Sequence[Update] | None = None) -> Played:
    """A round in which every site answers. updates: by site, in order of names; some of this size if not given."""
    _follow_workers(scheme)
    given = updates or [_updates(size)[number % 3] for number in range(n)]
    round_ = SessionRound(n, size, bits, scheme=scheme, updates=given)
    watched = _watched_sites(round_.names)
    run = _Run(round_, Stopwatch(), watched)
    with run.watch.watching(parts_of(scheme)):
        while not round_.server.done:
            run.phase()
        aggregate = round_.server.result().payload
        opening = round_.opening(round_.middle)
        known.RIGHT = run.known[round_.middle]
        with run.watch.at(Part(OPEN, OPEN, "open")):
            mean = round_.scheme.open(round_.site_context, aggregate, opening)
    return Played(
        tuple(run.watch.of(site) for site in watched), run.watch.of(SERVER), run.watch.of(OPEN),
        run.up, run.down + size_of(aggregate), mean,
    )  # fmt: skip


def _watched_sites(names: Sequence[str]) -> tuple[str, ...]:
    """Up to three, never the first: it makes the tables that all of this process share."""
    return tuple(sorted({names[1], names[len(names) // 2], names[-1]}))


class _Run:
    def __init__(self, round_: SessionRound, watch: Stopwatch, watched: Sequence[str]) -> None:
        self.round, self.watch, self.watched = round_, watch, watched
        self.up = self.down = 0
        self.known: dict[str, known.Known] = defaultdict(known.Known)  # what each party's process would remember

    def phase(self) -> None:
        """The server's own work is what is left when the sites' is taken away."""
        server, phase = self.round.server, self.round.server.phase
        known.RIGHT = self.known[SERVER]
        with self.watch.at(Part(SERVER, SERVER, base("asks", phase))):
            requests = server.requests()
        with self.watch.at(Part(SERVER, SERVER, base("server", phase))):
            server.receive(self._replies(requests, phase))

    def _replies(self, requests: Mapping[str, Packet], phase: str) -> Iterator[tuple[str, Packet]]:
        for site, request in requests.items():
            sent = encode_packet(request)
            whose = Part(site, "site", base("site", phase)) if site in self.watched else _NOBODY
            known.RIGHT = self.known[site]
            with self.watch.at(whose):
                reply = self.round.clients[site].handle(decode_packet(sent, max_words=0))
                content = encode_packet(reply)
            known.RIGHT = self.known[SERVER]
            if site == self.round.middle:
                self.up += size_of(reply)
                self.down += size_of(request)
            yield site, decode_packet(content, max_words=MOST_WORDS)
