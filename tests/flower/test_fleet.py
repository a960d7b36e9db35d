"""A site's calls to Flower's own app, in bundles where they are known and one by one where they are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.proto import fleet_pb2, message_pb2
from google.protobuf.message import Message as Proto

from fedclient import fleet
from fedclient.bundle import PULL, PUSH, ROOM_BYTES, Bundle
from fedclient.connection import Connection
from fedclient.fleet import MAX_ANSWER_BYTES, Delivery, Fleet, Unreadable
from fedclient.packets import decode_packet, encode_packet
from fedserver.mailbox import BundledMailbox, Mailbox, PolledMailbox, mailbox_of
from secagg.session import Packet
from tests.flower import pki
from tests.flower.fake_server import Answer, answering
from tests.flower.in_memory import Link, SomeNode, serving
from tests.flower.test_agent import ANNOUNCED

LARGE = np.random.default_rng(1).integers(0, 1 << 64, 5 * ROOM_BYTES // 16, dtype=np.uint64)  # of several pieces


class Counting:
    """An app that notes which calls came."""

    def __init__(self, app: Any) -> None:
        self.app, self.calls = app, list[str]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["path"].rpartition("/")[2])
        await self.app(scope, receive, send)


class Site:
    """A node's calls."""

    def __init__(self, address: str, issued: pki.Pki, node: SomeNode, folder: Path) -> None:
        connection = Connection(address, issued.ca, node.key, {"site": "a"}, folder / "node.id")
        self.fleet, self.node_id = Fleet(connection, threading.Event()), node.node_id

    def next(self) -> Delivery:
        while (delivery := self.fleet.poll(self.node_id)) is None:
            pass
        return delivery

    def echo(self) -> None:
        """Answers what comes next with the same content."""
        message = self.fleet.pull(self.node_id, self.next())
        packet = decode_packet(message.content, max_words=LARGE.size)
        with_node = Message(encode_packet(packet), reply_to=message)
        with_node.metadata.__dict__["_src_node_id"] = self.node_id
        self.fleet.push(self.node_id, with_node, 0.0)


def asked(box: Mailbox, node: SomeNode, words: np.ndarray | None) -> str:
    """The id of a request to the node, sent."""
    message = Message(encode_packet(Packet(b"head", words)), node.node_id, "query.x", ttl=60.0)
    assert len(box.send([message])) == 1
    return message.metadata.message_id


@pytest.mark.parametrize("words", [None, LARGE[:1000], LARGE])
@pytest.mark.parametrize("knows_bundles", [True, False])
def test_a_request_is_pulled_and_answered_whole(
    link: Link, issued: pki.Pki, tmp_path: Path, knows_bundles: bool, words: np.ndarray | None
) -> None:
    node, app = link.node(), Counting(link.bundles if knows_bundles else link.app)
    with serving(app, issued) as address:
        box = mailbox_of(link.grid(address, issued))
        assert isinstance(box, BundledMailbox if knows_bundles else PolledMailbox)
        name = asked(box, node, words)
        site = Site(address, issued, node, tmp_path)
        app.calls.clear()
        site.echo()
        calls = list(app.calls)
        [(_, [reply])] = box.replies({"a": name}, time.monotonic() + 30.0, LARGE.nbytes)
        site.fleet.confirm()
        if knows_bundles:
            site.fleet.poll(node.node_id)
        site.fleet.close()
    packet = decode_packet(reply.content, max_words=LARGE.size)
    assert packet.head == b"head"
    assert packet.words is None if words is None else np.array_equal(packet.words, words)
    assert len(link.state.object_store) == 0
    if knows_bundles:
        assert {PULL, PUSH} <= set(calls) and not {"pull-messages", "push-messages"} & set(calls)
        assert ("push-object" in calls) == (words is LARGE)
    else:
        assert calls.count(PULL) == 1 and PUSH not in calls and "push-object" in calls


# ------------------------------------------------------------------ a server that lies


class Lies:
    """What a test has the server say to a poll."""

    def __init__(self) -> None:
        self.body: bytes | Iterator[bytes] = b""
        self.status = 200
        self.polls = list[Bundle]()

    def __call__(self, path: str, content: bytes) -> Answer:
        if path.endswith(PULL):
            self.polls.append(Bundle.decode(content))
            return Answer(self.status, self.body)
        return Answer(404)


@pytest.fixture
def lies() -> Lies:
    return Lies()


@pytest.fixture
def site(lies: Lies, issued: pki.Pki, tmp_path: Path) -> Iterator[Site]:
    with answering(issued, lies) as address:
        site = Site(address, issued, SomeNode(pki.node_key(), 7), tmp_path)
        yield site
        site.fleet.close()


def delivered(tree: Proto, *parts: bytes) -> bytes:
    pulled = fleet_pb2.PullMessagesResponse(messages_list=[ANNOUNCED], message_object_trees=[tree])
    return Bundle(pulled.SerializeToString(), list(parts)).encode()


@pytest.mark.parametrize("body", [b"", b"\0", b"\xff" * 8, Bundle(b"\xff").encode(), Bundle(b"").encode() + b"\0"])
def test_an_answer_that_is_no_bundle_is_senseless(site: Site, lies: Lies, body: bytes) -> None:
    lies.body = body
    with pytest.raises(ValueError):
        site.fleet.poll(7)


def test_an_answer_is_not_read_beyond_its_limit(site: Site, lies: Lies) -> None:
    sent = list[int]()

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            sent.append(1 << 20)
            yield bytes(1 << 20)

    lies.body = endless()
    with pytest.raises(ValueError):
        site.fleet.poll(7)
    assert sum(sent) <= MAX_ANSWER_BYTES + (16 << 20)  # the sockets between take some


def test_a_delivery_without_a_tree_is_unreadable(site: Site, lies: Lies) -> None:
    pulled = fleet_pb2.PullMessagesResponse(messages_list=[ANNOUNCED])
    lies.body = Bundle(pulled.SerializeToString()).encode()
    with pytest.raises(Unreadable):
        site.fleet.poll(7)


def test_parts_that_no_name_stands_for_are_left(site: Site, lies: Lies) -> None:
    lies.body = delivered(message_pb2.ObjectTree(object_id="m"), b"one", b"two", b"three")
    delivery = site.fleet.poll(7)
    assert delivery is not None and delivery.contents == {"m": b"one"}


def test_what_came_along_is_checked_by_its_name(site: Site, lies: Lies) -> None:
    lies.body = delivered(message_pb2.ObjectTree(object_id="m"), b"one")
    delivery = site.fleet.poll(7)
    assert delivery is not None
    with pytest.raises(Exception, match="not what its name says"):
        site.fleet.pull(7, delivery)


def test_a_confirmation_that_a_failing_server_did_not_take_is_sent_again(site: Site, lies: Lies) -> None:
    lies.body = delivered(message_pb2.ObjectTree(object_id="m"), b"one")
    delivery = site.fleet.poll(7)
    assert delivery is not None
    with pytest.raises(Exception, match="not what its name says"):
        site.fleet.pull(7, delivery)
    lies.status, lies.body = 503, b""
    with pytest.raises(Exception, match="503"):
        site.fleet.poll(7)
    lies.status, lies.body = 200, Bundle(b"").encode()
    assert [site.fleet.poll(7), site.fleet.poll(7)] == [None, None]
    assert [len(poll.parts) for poll in lies.polls] == [0, 1, 1, 0]


def test_a_server_that_once_knew_no_bundles_is_asked_for_them_again_when_the_site_connects_anew(
    site: Site, lies: Lies, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies.status = 404
    with pytest.raises(Exception, match="404"):  # of Flower's own call, which this server does not know either
        site.fleet.poll(7)
    with pytest.raises(Exception, match="404"):
        site.fleet.poll(7)
    assert len(lies.polls) == 1
    monkeypatch.setattr(site.fleet._client, "ActivateNode", lambda _: fleet_pb2.ActivateNodeResponse(node_id=7))
    lies.status, lies.body = 200, Bundle(b"").encode()
    site.fleet.activate()
    assert site.fleet.poll(7) is None
    assert len(lies.polls) == 2


@pytest.mark.parametrize(
    ("later_s", "is_kept"), [(0.0, True), (9.0, True), (11.0, False), (400.0, False), (-1.0, False)]
)
def test_a_signed_time_is_used_for_seconds_of_the_clock_that_it_tells(
    later_s: float, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept, or whose clock was set, signs anew."""
    clock = SimpleNamespace(time=lambda: 1000.0)
    monkeypatch.setattr(fleet, "time", clock)
    signed = fleet._Signed(pki.node_key())
    first = dict(signed.headers())
    clock.time = lambda: 1000.0 + later_s
    assert (signed.headers() == first) == is_kept
