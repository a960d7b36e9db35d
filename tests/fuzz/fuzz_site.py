"""A site in the middle of a session, sent any request of any kind: an answer, or a typed error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from fedclient.packets import MAX_PACKETS
from fedclient.site import HANDLERS, Site
from fedclient.store import LOG_FILE
from fedserver import enrolment
from secagg.errors import Malformed
from secagg.masked.messages import REQUESTS, RoundOpen
from secagg.session import Packet
from secagg.wire import tag_of
from tests.federation.direct import Bench, ToyLearner, Where
from tests.fuzz.target import ALLOWED, Cut, folder, piece, resigned
from tests.sim import Dice

VICTIM = "site-01"
RESIGN, WORDS = 1, 1  # bits of the third byte, and of the byte before each packet
KINDS = tuple(sorted(HANDLERS))
_REQUESTS = {kind.TAG: kind for kind in REQUESTS}


@dataclass
class Moment:
    """What the victim had on disk when a request came, and the request. digest: of the attempt's header."""

    kind: str
    files: dict[str, bytes]
    packets: Sequence[Packet]
    digest: bytes


@cache
def bench() -> Bench:
    """Five sites in one process."""
    return Bench(folder() / "played", options={"min_sites": 0})


@cache
def moments() -> list[Moment]:
    """A session of two rounds as the victim saw it, which is restarted once and so has an aggregate to catch up on."""
    found: list[Moment] = []

    def note(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM:
            digest = found[-1].digest if found else bytes(32)
            if where.phase == "advertise":
                digest = RoundOpen.decode(packets[1].head).header.digest()
            found.append(Moment(where.kind, bench().state(VICTIM), packets, digest))
        return packets

    bench().link.alter_request = note
    with patch.object(enrolment, "os", SimpleNamespace(urandom=Dice("nonces"))):
        bench().run()
    return found


def _site(moment: Moment) -> Site:
    """The victim's process, started again over the files of that moment."""
    home = folder() / "victim"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for name, content in moment.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if path.name == LOG_FILE:
            path.write_bytes(rebound(path, content))
    return Site(
        home, bench().consortium.keys[VICTIM], bench().state_key(VICTIM), bench().consortium.roster,
        bench().policies[VICTIM], ToyLearner(VICTIM), Dice("fuzz"), lambda: 1000,
    )  # fmt: skip


def rebound(path: Path, content: bytes) -> bytes:
    """A log of answers that was begun in this very file."""
    birth, _, rest = content.partition(b"\n")
    return b"%s %x\n%s" % (birth.split(b" ")[0], path.stat().st_ino, rest)


def one(data: bytes) -> None:
    """First byte: the moment. Second: the kind of request. Third: whether to sign anew. Then the packets."""
    cut = Cut(data)
    moment, kind = moments()[cut.number() % len(moments())], KINDS[cut.number() % len(KINDS)]
    flags, packets = cut.number(), list(islice(_packets(cut, moment), MAX_PACKETS))
    if flags & RESIGN:
        packets = [Packet(_resigned(each.head, moment.digest), each.words) for each in packets]
    site = _site(moment)
    try:
        reply = site.handle(kind, packets)
    except ALLOWED:
        return
    assert tag_of(reply.head)


def _packets(cut: Cut, moment: Moment) -> Iterator[Packet]:
    while not cut.is_empty:
        with_words = cut.number() & WORDS
        yield Packet(cut.piece(), _sum_words(moment) if with_words else None)


def _sum_words(moment: Moment) -> np.ndarray:
    """The vector that came with the request, or the first there was."""
    known = [each for other in (moment, *moments()) for each in other.packets if each.words is not None]
    words = known[0].words
    assert words is not None
    return words


def _resigned(head: bytes, digest: bytes) -> bytes:
    try:
        message = _REQUESTS[tag_of(head)].decode(head)
    except (Malformed, KeyError):
        return head
    return resigned(message, bench().consortium, digest).encode()


def seeds() -> Iterator[bytes]:
    """Every request the site got, at its own moment."""
    for index, moment in enumerate(moments()):
        packets = [bytes([each.words is not None]) + piece(each.head) for each in moment.packets]
        yield bytes([index, KINDS.index(moment.kind), 0]) + b"".join(packets)
