"""One real round of masked mode, stopped at every phase: what the fuzz targets start from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from secagg.masked.server import PHASES, MaskedServer
from secagg.session import Aggregate, Packet
from secagg.wire import Struct
from tests.sim import Round, federation

VICTIM = "site-01"
GONE = "site-06"  # falls silent before it sends its vector, so that its mask key has to be revealed


@dataclass
class Stage:
    """The beginning of one phase. replies: what each site that still answers says."""

    phase: str
    saved: bytes  # the victim's session
    request: Packet  # to the victim
    server: MaskedServer
    replies: dict[str, Packet]

    def fresh_server(self) -> MaskedServer:
        """A copy whose changes the next input does not see."""
        return copy.deepcopy(self.server, {id(each): each for each in _kept(self.server)})


def _kept(server: MaskedServer) -> Iterator[object]:
    """What never changes, and need not be copied: context, keys, and every message in the server's tables."""
    yield from (server._context, server._keys)
    for held in vars(server).values():
        if isinstance(held, dict):
            yield from (each for each in held.values() if isinstance(each, Struct))


@dataclass
class Played:
    """The round as it went."""

    round: Round
    stages: list[Stage]
    aggregate: Aggregate


@cache
def played() -> Played:
    """Six sites, of which four must survive and one does not."""
    round_ = federation(6, size=24, drop={"mask": [GONE]})
    stages = []
    for phase in PHASES:
        saved = {site: client.to_bytes() for site, client in round_.clients.items()}
        before = copy.deepcopy(round_.server, {id(each): each for each in _kept(round_.server)})
        requests, replies = round_.server.requests(), {}

        def note(_phase: str, site: str, reply: Packet, into: dict[str, Packet] = replies) -> Packet:
            into[site] = reply
            return reply

        round_.alter_reply = note
        round_.step()
        stages.append(Stage(phase, saved[VICTIM], requests[VICTIM], before, replies))
    return Played(round_, stages, round_.server.result())


def everything_sent() -> list[bytes]:
    """The head of every packet of the round, and what the victim kept."""
    game = played()
    sent = [each.request.head for each in game.stages]
    sent += [each.replies[VICTIM].head for each in game.stages]
    kept = [each.saved[32:] for each in game.stages]
    context = game.round.context
    return [*sent, *kept, game.aggregate.payload.head, context.manifest.encode(), context.header.encode()]


def words_of_size(count: int, seed: int) -> np.ndarray:
    """A vector that depends on the seed alone."""
    return np.arange(count, dtype=np.uint64) * np.uint64(seed | 1) + np.uint64(seed)
