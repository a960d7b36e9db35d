"""One exchange: answers arrive as they come, and no site can hold up another's, speak for it, or break it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedclient.packets import SiteRefusal, decode_packet, encode_packet
from fedserver.exchange import exchange
from fedserver.mailbox import PolledMailbox
from secagg.session import Packet

NODES = {"a": 1, "b": 2, "c": 3}
REQUESTS = [(site, Packet(site.encode())) for site in NODES]


class FakeGrid:
    """A Grid whose sites answer as `answer` says: a message, None for silence, or by raising or blocking."""

    def __init__(self, answer: Callable[[Message], Message | None], lost: frozenset[int] = frozenset()) -> None:
        self.answer, self.lost = answer, lost
        self.sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{message.metadata.dst_node_id}"
            self.sent[message.metadata.message_id] = message
        ids = [message.metadata.message_id for message in messages]
        return [None if self.sent[name].metadata.dst_node_id in self.lost else name for name in ids]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        [name] = message_ids
        reply = self.answer(self.sent[name])
        return [] if reply is None else [reply]


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def mailbox(grid: FakeGrid) -> PolledMailbox:
    return PolledMailbox(cast(Grid, grid))


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def ask(
    answer: Callable[[Message], Message | None], timeout_s: float = 0.5, lost: frozenset[int] = frozenset()
) -> dict[str, object]:
    return dict(exchange(mailbox(FakeGrid(answer, lost)), NODES, REQUESTS, "query.x", timeout_s, max_words=10))


def test_every_site_gets_its_own_request_and_gives_its_own_answer() -> None:
    assert ask(echo) == {site: Packet(site.encode()) for site in NODES}


def test_a_silent_site_is_missing_at_the_deadline() -> None:
    started = time.monotonic()
    assert ask(lambda message: None if message.metadata.dst_node_id == 2 else echo(message)).keys() == {
        "a",
        "c",
    }
    assert time.monotonic() - started < 2.0


def test_a_site_that_stalls_its_upload_holds_up_nobody_else() -> None:
    release = threading.Event()

    def stall(message: Message) -> Message | None:
        if message.metadata.dst_node_id == 1:
            release.wait()
        return echo(message)

    try:
        assert ask(stall).keys() == {"b", "c"}
    finally:
        release.set()


def test_a_reply_from_another_node_is_not_taken_for_the_sites() -> None:
    def forge(message: Message) -> Message:
        reply = echo(message)
        if message.metadata.dst_node_id == 1:
            reply.metadata.__dict__["_src_node_id"] = 2
        return reply

    assert ask(forge).keys() == {"b", "c"}


@pytest.mark.parametrize(("code", "refusal"), [(2, "error"), (3, "gone"), (4, "gone"), (5, "gone"), (99, "error")])
def test_an_error_of_flower_becomes_a_code_without_its_text(code: int, refusal: str) -> None:
    answers = ask(lambda message: Message(Error(code, "SECRET"), reply_to=message))
    assert answers == dict.fromkeys(NODES, SiteRefusal(refusal))


def test_a_site_that_flower_cannot_send_to_is_gone() -> None:
    assert ask(echo, lost=frozenset({3}))["c"] == SiteRefusal("gone")


def test_a_reply_that_is_no_packet_is_malformed() -> None:
    junk = RecordDict({"junk": ConfigRecord({"a": 1})})
    assert set(ask(lambda message: Message(junk, reply_to=message)).values()) == {SiteRefusal("malformed")}


def test_words_above_the_callers_limit_are_malformed() -> None:
    long = encode_packet(Packet(b"", np.zeros(11, np.uint64)))
    assert set(ask(lambda message: Message(long, reply_to=message)).values()) == {SiteRefusal("malformed")}


def test_a_failing_grid_raises_in_the_callers_thread() -> None:
    def fail(message: Message) -> Message:
        raise RuntimeError("the superlink is gone")

    with pytest.raises(RuntimeError, match="superlink is gone"):
        ask(fail)


def test_answers_are_given_out_before_the_last_has_come() -> None:
    last = threading.Event()

    def wait_for_last(message: Message) -> Message | None:
        return echo(message) if message.metadata.dst_node_id != 3 or last.is_set() else None

    answers = exchange(mailbox(FakeGrid(wait_for_last)), NODES, REQUESTS, "query.x", 5.0, max_words=0)
    assert {next(answers)[0], next(answers)[0]} == {"a", "b"}
    last.set()
    assert [site for site, _ in answers] == ["c"]


def test_one_vector_for_all_sites_is_encoded_once() -> None:
    words = np.arange(10, dtype=np.uint64)
    grid = FakeGrid(echo)
    requests = [(site, Packet(site.encode(), words)) for site in NODES]
    answers = dict(exchange(mailbox(grid), NODES, requests, "query.x", 1.0, max_words=10))
    assert all(np.array_equal(answer.words, words) for answer in answers.values())
    assert len({id(message.content["words"]) for message in grid.sent.values()}) == 1
    assert decode_packet(grid.sent["message-1"].content, max_words=10).head == b"a"


def test_two_replies_to_one_request_are_none() -> None:
    """Nobody could say which of them the site meant."""

    class Twice(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            replies = super().pull_messages(message_ids)
            return replies * 2 if replies and replies[0].metadata.src_node_id == 2 else replies

    assert dict(exchange(mailbox(Twice(echo)), NODES, REQUESTS, "query.x", 0.5, max_words=10)).keys() == {"a", "c"}


def test_an_exchange_ends_at_its_deadline_although_nobody_answers() -> None:
    """In a thread of its own, so that a failure is seen and not waited for."""
    answers: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(lambda _: None)), daemon=True)
    asking.start()
    asking.join(20)
    assert answers == [{}]
