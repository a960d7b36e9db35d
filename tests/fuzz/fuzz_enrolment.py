"""The server's loop, told anything by one site before, between and after the rounds: noted, or a typed error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from fedclient.packets import SiteRefusal
from fedserver import enrolment
from fedserver.checkpoint import Checkpoint
from fedserver.federation import Federation
from fedserver.link import Answer
from fedserver.round import Account
from secagg.config import Manifest
from secagg.enrol import Consent, ModelCard, Ready
from secagg.errors import Malformed
from secagg.session import Packet
from secagg.wire import tag_of
from tests.federation.direct import Bench, Where
from tests.fuzz.target import ALLOWED, Cut, folder, resigned
from tests.sim import Dice

LIAR = "site-03"
ASKED = ("propose", "consent", "start", "finish")
RESIGN, REFUSAL = 1, 2  # bits of the second byte
CODES = ("error", "gone", "malformed", "refused", "storage")
_KINDS = {kind.TAG: kind for kind in (ModelCard, Consent, Ready)}


class Silent:
    """A journal that keeps nothing."""

    def write(self, event: str, **facts: Any) -> None:
        """Forgets it."""


@dataclass
class Scripted:
    """A link whose sites say what they said before, but for one."""

    answers: Mapping[str, Mapping[str, Answer]]  # kind of request -> site -> answer

    def sites(self) -> frozenset[str]:
        """All of them."""
        return frozenset(bench().names)

    def ask(
        self, kind: str, requests: Mapping[str, Sequence[Packet]], timeout_s: float, max_words: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """Each site's answer, in order of name."""
        yield from ((site, self.answers[kind][site]) for site in sorted(requests))


@cache
def bench() -> Bench:
    """Five sites in one process."""
    return Bench(folder() / "server")


@cache
def said() -> dict[str, dict[str, Answer]]:
    """What every site said in a session of two rounds; of the second round's start, where it said it twice."""
    found: dict[str, dict[str, Answer]] = {kind: {} for kind in ASKED}

    def note(where: Where, reply: Packet) -> Packet:
        if where.kind in found:
            found[where.kind][where.site] = reply
        return reply

    bench().link.alter_reply = note
    with patch.object(enrolment, "os", SimpleNamespace(urandom=Dice("nonces"))):
        bench().run()
    return found


@cache
def _manifest() -> Manifest:
    said()
    manifest = _checkpoint().manifest()
    assert manifest is not None
    return manifest


def _checkpoint() -> Checkpoint:
    return Checkpoint(folder() / "server" / "out" / "state")


def one(data: bytes) -> None:
    """First byte: which answer is the liar's. Second: whether it is signed anew, or a refusal. Then the head."""
    cut, manifest = Cut(data), _manifest()
    kind, flags = ASKED[cut.number() % len(ASKED)], cut.number()
    head = cut.rest()
    lie: Answer = SiteRefusal(CODES[len(head) % len(CODES)]) if flags & REFUSAL else Packet(_signed(head, flags))
    answers = {name: dict(each) for name, each in said().items()}
    answers[kind][LIAR] = lie
    consortium = bench().consortium
    server = Federation(
        bench().plan, consortium.roster, consortium.server_keys, Scripted(answers), Silent(),  # type: ignore[arg-type]
        _checkpoint(), lambda: 1000, sleep=lambda _: None,
    )  # fmt: skip
    steps = {
        "propose": lambda: server._enrolment.propose(bench().names),
        "consent": lambda: server._admit(manifest),
        "start": lambda: _start(server, manifest),
        "finish": lambda: _finish(server, manifest),
    }
    try:
        with patch.object(enrolment, "os", SimpleNamespace(urandom=Dice("nonces"))):
            steps[kind]()
    except ALLOWED:
        return


def _start(server: Federation, manifest: Manifest) -> None:
    server._admit(manifest)
    position, ready = server._start(manifest, manifest.rounds, Account())
    assert position.round == manifest.rounds - 1 and ready


def _finish(server: Federation, manifest: Manifest) -> None:
    server._admit(manifest)
    server._recall(manifest)
    server._finish(manifest)


def _signed(head: bytes, flags: int) -> bytes:
    if not flags & RESIGN:
        return head
    try:
        message = _KINDS[tag_of(head)].decode(head)
    except (Malformed, KeyError):
        return head
    return resigned(message, bench().consortium, b"").encode()


def seeds() -> Iterator[bytes]:
    """What the liar would have said, with its own signature and a new one, and a refusal."""
    for index, kind in enumerate(ASKED):
        honest = said()[kind][LIAR]
        assert isinstance(honest, Packet)
        yield from (bytes([index, flags]) + honest.head for flags in (0, RESIGN))
        yield bytes([index, REFUSAL])
