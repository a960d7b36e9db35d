"""A round in memory, stopped where a benchmark wants to measure: real sessions, real keys, no sockets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from secagg.config import Policy, RoundContext
from secagg.schemes import SCHEMES, scheme_named
from secagg.session import Archive, ClientSession, InMemory, Metrics, Packet, Scheme, Update, Words
from tests.sim import Consortium, Dice

POLICY = Policy(tuple(SCHEMES), largest_weight=1 << 20, least_colluders=0)
RANGE_Q40 = round(0.06 * 2**40)  # six standard deviations of `update_of`


def update_of(size: int, seed: int = 0, weight: int = 1) -> Update:
    """An update of normal values with deviation 0.01; makes nothing as large beside it."""
    values = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    np.multiply(values, np.float32(0.01), out=values)
    return Update(values, weight, Metrics(examples=100, train_loss=2.5, eval_loss=3.0, eval_tokens=1000))


class SessionRound:
    """One attempt of n sites; the same arguments give the same keys and messages."""

    def __init__(
        self,
        n: int,
        size: int,
        bits: int = 8,
        weight_cap: int = 1,
        archive: Archive | None = None,
        scheme: str = "masked",
        updates: Sequence[Update] | None = None,
    ) -> None:
        """archive: where the server keeps the sites' vectors; in memory if it is not given.

        updates: of the sites, in order of their names; without them `give` has to bring each site its own in time.
        """
        self.archive = archive or InMemory()
        self.consortium = _consortium(n)
        self.scheme: Scheme = scheme_named(scheme)
        options = {"bits": bits, "weight_cap": weight_cap, "first_range_q40": RANGE_Q40}
        manifest = self.consortium.manifest(size, scheme=scheme, **options)
        self.context: RoundContext = self.consortium.context(manifest)
        self.site_context = replace(self.context, cohort=())  # the cohort is the server's word
        self.server = self.scheme.server(self.context, self.consortium.server_keys, self.archive)
        self.clients: dict[str, ClientSession] = {}
        self.replies: dict[str, list[Packet]] = {name: [] for name in self.names}
        given: Sequence[Update | None] = updates or [None] * n
        for name, update in zip(self.names, given, strict=True):
            keys, dice = self.consortium.keys[name], Dice((name, "round"))
            self.clients[name] = self.scheme.client(self.site_context, keys, POLICY, update, dice)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """The sites, ascending."""
        return self.consortium.names

    @property
    def middle(self) -> str:
        """The site that adds as many pair masks as it subtracts."""
        return self.names[len(self.names) // 2]

    def until(self, phase: str) -> SessionRound:
        """Drives the round to the beginning of a phase; every site answers."""
        while self.server.phase != phase:
            self.server.receive((site, self.answer(site, request)) for site, request in self.server.requests().items())
        return self

    def answer(self, site: str, request: Packet) -> Packet:
        """The site's reply; `replies` keeps its head."""
        reply = self.clients[site].handle(request)
        self.replies[site].append(Packet(reply.head))
        return reply

    def give(
        self, site: str, update: Update | None, state: bytes | None = None, sent: Words | None = None
    ) -> ClientSession:
        """The site's session with this update, restored from `state` or from where it stands.

        sent: the words it sent; the check of the sum asks for them.
        """
        blob = self.clients[site].to_bytes() if state is None else state
        keys = self.consortium.keys[site]
        return self.scheme.restore(self.site_context, keys, POLICY, blob, update, os.urandom, sent)

    def opening(self, site: str, state: bytes | None = None) -> bytes:
        """What opens the aggregate, from a site's state: its session's, if it is not given."""
        saved = self.clients[site].to_bytes() if state is None else state
        return self.scheme.opening(self.site_context, self.consortium.keys[site], saved)


@cache
def _consortium(n: int) -> Consortium:
    return Consortium(n)


@cache
def masking_stage(n: int, size: int) -> tuple[SessionRound, str, Packet]:
    """A round whose sites have dealt their shares, its middle site, and the bundle that makes that site mask."""
    stage = SessionRound(n, size).until("mask")
    return stage, stage.middle, stage.server.requests()[stage.middle]
