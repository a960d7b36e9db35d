"""What leaves a site through Flower is an answer or a code: no exception, no text of one, and nothing that is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedclient.agent import FleetAgent
from fedclient.app import MAX_WORDS, make_app
from fedclient.connection import Connection
from fedclient.fleet import Delivery, Fleet
from fedclient.packets import SiteRefusal, decode_answer, decode_packets, encode_packets
from fedclient.settings import LocalError
from secagg.errors import FaultySite, Refused
from secagg.session import Packet

SECRET = "patient 17 has flu"
ERRORS = {
    "refused": (Refused(SECRET), SiteRefusal("refused")),
    "blames a site": (FaultySite("site-b", SECRET), SiteRefusal("faulty-site", "site-b")),
    "a local error": (LocalError(SECRET, SECRET), SiteRefusal("local-error")),
    "a bug": (ValueError(SECRET), SiteRefusal("error")),
    "a missing file": (FileNotFoundError(2, SECRET, SECRET), SiteRefusal("error")),
}


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


class Member:
    """A site that answers as it is told."""

    def __init__(self, answer: Callable[[Sequence[Packet]], Packet]) -> None:
        self.answer = answer

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        return self.answer(packets)


def asked(content: RecordDict) -> Message:
    return Message(content, 7, "query.hello", ttl=60)


HELLO = encode_packets([Packet(b"head")])


def context() -> Context:
    return Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


def raising(error: Exception) -> Callable[..., Any]:
    def answer(*_: object, **__: object) -> Any:
        raise error

    return answer


@pytest.mark.parametrize("what", ERRORS)
def test_whatever_goes_wrong_at_a_site_only_a_code_leaves_it(what: str) -> None:
    error, refusal = ERRORS[what]
    told: list[Exception] = []
    app = make_app(lambda _: Member(raising(error)), lambda kind, why: told.append(why))
    reply = app(asked(HELLO), context())
    assert told == [error]  # the site's own terminal has the text
    assert not reply.has_error()
    assert decode_answer(reply.content, max_words=0) == refusal
    assert SECRET not in repr(reply.content)


def test_a_request_is_decoded_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def spy(content: RecordDict, *, max_words: int) -> list[Packet]:
        limits.append(max_words)
        return decode_packets(content, max_words=max_words)

    monkeypatch.setattr("fedclient.app.decode_packets", spy)
    app = make_app(lambda _: Member(lambda packets: Packet(b"answer", np.ones(2, np.uint64))))
    assert decode_answer(app(asked(HELLO), context()).content, max_words=2).head == b"answer"  # type: ignore[union-attr]
    assert limits == [MAX_WORDS] == [1 << 28]
    reply = app(asked(RecordDict({"secagg.0": ConfigRecord({})})), context())
    assert decode_answer(reply.content, max_words=0) == SiteRefusal("malformed")


# ---------------------------------------------------------------------- the agent around the app


def agent(app: Callable[[Message, Context], Message | None], message: Message, tmp_path: Path) -> FleetAgent:
    """An agent whose server hands it this message."""
    fleet = SimpleNamespace(pull=lambda node, delivery: message)
    connection = Connection("fed.example.org:1", tmp_path / "ca.pem", cast(Any, None), {}, tmp_path / "node.id")
    return FleetAgent(
        cast(Any, lambda **asked: app(asked["message"], asked["context"])), connection, cast(Fleet, fleet),
        stop=threading.Event(), retry_for_s=1.0, on_event=lambda _: None,
    )  # fmt: skip


def delivery(message: Message) -> Delivery:
    return cast(Delivery, SimpleNamespace(announced=message))


@pytest.mark.parametrize("what", [what for what in ERRORS if what not in ("blames a site", "a local error")])
def test_the_agent_lets_no_text_of_an_error_leave(what: str, tmp_path: Path) -> None:
    error, refusal = ERRORS[what]
    message = asked(HELLO)
    raised = agent(raising(error), message, tmp_path)._reply(7, delivery(message))
    assert raised is not None and decode_answer(raised.content, max_words=0) == refusal
    ended = agent(lambda asked, _: Message(Error(2, SECRET), reply_to=asked), message, tmp_path)
    reply = ended._reply(7, delivery(message))
    assert reply is not None and reply.has_error() and not reply.error.reason


def test_the_agent_keeps_nothing_from_message_to_message(tmp_path: Path) -> None:
    seen: list[int] = []

    def app(message: Message, context: Context) -> Message:
        seen.append(len(context.state))
        context.state[f"kept-{len(seen)}"] = ConfigRecord({"secret": b"1"})
        return Message(message.content, reply_to=message)

    message = asked(HELLO)
    one = agent(app, message, tmp_path)
    for _ in range(2):
        one._reply(7, delivery(message))
    assert seen == [0, 0]
