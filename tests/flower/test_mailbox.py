"""The ServerApp's mailboxes at a SuperLink: the same answers by both, and what one site sends costs nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedclient import bundle
from fedclient.packets import WORDS, SiteRefusal, decode_packet, encode_packet, encode_refusal
from fedserver import mailbox
from fedserver.bundles import HOLD_S
from fedserver.exchange import Answer, exchange
from fedserver.mailbox import BundledMailbox, Mailbox, PolledMailbox, mailbox_of
from secagg.session import Packet
from tests.flower import pki
from tests.flower.in_memory import Link, Parcel, SomeNode, serving
from tests.flower.test_repeated_chunks import repeat
from tests.fuzz.test_flower_content import hostile

MAX_WORDS = 1 << 22
Act = Callable[["Sites", Message], None]


@pytest.fixture
def grid(link: Link, issued: pki.Pki) -> Iterator[Any]:
    with serving(link.bundles, issued) as address:
        running = link.grid(address, issued)
        yield running
        running.close()  # else the threads that wait for a stalled reply try again for ever, and the process stays


@dataclass
class Sites:
    """Nodes that answer as told, at the SuperLink's state, in a thread."""

    link: Link
    acts: dict[str, Act]

    def __enter__(self) -> Sites:
        self.nodes: dict[str, SomeNode] = {name: self.link.node() for name in self.acts}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _answer(self) -> None:
        while not self._over.wait(0.005):
            self.answer_once(self.acts)

    def answer_once(self, acts: dict[str, Act]) -> None:
        """Acts on what has come for each, if anything has."""
        for name, act in acts.items():
            for request in self.link.state.get_message_ins(self.nodes[name].node_id, 1):
                act(self, request)

    def content(self, request: Message) -> RecordDict:
        """What it asks, once it has come whole."""
        store, name = self.link.state.object_store, request.metadata.message_id
        names = {part.object_id for part in iterate_object_tree(store.get_object_tree(name))}
        while not all(store.get(each) for each in names):
            time.sleep(0.005)
        message = inflate_object_from_contents(name, {each: store.get(each) for each in names})
        return cast(Message, message).content

    def send(self, request: Message, content: RecordDict | Error) -> None:
        self.upload(self.reply(request, content))

    @staticmethod
    def reply(request: Message, content: RecordDict | Error) -> Parcel:
        reply = Message(content, reply_to=request)
        reply.metadata.__dict__["_src_node_id"] = request.metadata.dst_node_id
        return Parcel(reply)

    def upload(self, reply: Parcel) -> None:
        state, run = self.link.state, self.link.run
        session = state.start_session(run)
        _, missing = state.store_message_and_object_tree(reply.message, reply.tree, session)
        for name in missing:
            state.store_object(run, session, name, reply.objects[name])


def ask(
    box: Mailbox, sites: Sites, *, words: np.ndarray | None = None, timeout_s: float = 20.0, max_words: int = MAX_WORDS
) -> dict[str, Answer]:
    nodes = {name: node.node_id for name, node in sites.nodes.items()}
    requests = [(name, Packet(name.encode(), words)) for name in nodes]
    return dict(exchange(box, nodes, requests, "query.x", timeout_s, max_words=max_words))


def is_packet(answer: object, head: bytes, words: np.ndarray | None = None) -> bool:
    if not isinstance(answer, Packet) or answer.head != head:
        return False
    return answer.words is None if words is None else np.array_equal(cast(Any, answer.words), words)


# ------------------------------------------------------------------ how a site answers


def echo(sites: Sites, request: Message) -> None:
    packet = decode_packet(sites.content(request), max_words=MAX_WORDS)
    sites.send(request, encode_packet(packet))


def silent(sites: Sites, request: Message) -> None:
    """Answers nothing."""


def stalls(sites: Sites, request: Message) -> None:
    """Announces its reply, and uploads half of it."""
    reply = sites.reply(request, encode_packet(Packet(b"half", np.arange(50, dtype=np.uint64))))
    state, run = sites.link.state, sites.link.run
    session = state.start_session(run)
    _, missing = state.store_message_and_object_tree(reply.message, reply.tree, session)
    for name in missing[: len(missing) // 2]:
        assert state.store_object(run, session, name, reply.objects[name])


def refuses(sites: Sites, request: Message) -> None:
    sites.send(request, encode_refusal(SiteRefusal("faulty-site", "a")))


def fails(sites: Sites, request: Message) -> None:
    sites.send(request, Error(2, "SECRET"))


def junk(sites: Sites, request: Message) -> None:
    sites.send(request, RecordDict({"junk": ConfigRecord({"a": 1})}))


def too_long(sites: Sites, request: Message) -> None:
    sites.send(request, encode_packet(Packet(b"", np.zeros(MAX_WORDS + 1, np.uint64))))


def claims_too_much(sites: Sites, request: Message) -> None:
    """One chunk of a MiB in many places."""
    content = encode_packet(Packet(b"", np.arange(1 << 17, dtype=np.uint64)))
    repeat(content[WORDS][WORDS], 64)
    sites.send(request, content)


def root_is_no_message(sites: Sites, request: Message) -> None:
    reply = sites.reply(request, encode_packet(Packet(b"")))
    reply.tree = reply.tree.children[0]
    reply.message.metadata.__dict__["_message_id"] = reply.tree.object_id
    sites.upload(reply)


def goes_away(sites: Sites, request: Message) -> None:
    assert sites.link.state.deactivate_node(request.metadata.dst_node_id)


def in_pieces(sites: Sites, request: Message) -> None:
    """More than one bundle takes, of which each piece is another."""
    words = np.random.default_rng(3).integers(0, 1 << 64, 3_000_000, dtype=np.uint64)
    sites.send(request, encode_packet(Packet(b"pieces", words)))


ACTS: dict[str, Act] = {
    "a": echo, "b": echo, "refuses": refuses, "fails": fails, "junk": junk, "too long": too_long,
    "claims": claims_too_much, "root": root_is_no_message, "pieces": in_pieces, "silent": silent, "stalls": stalls,
}  # fmt: skip


@pytest.mark.parametrize("with_words", [False, True])
def test_the_same_exchange_through_both_mailboxes_has_the_same_answers(link: Link, grid: Any, with_words: bool) -> None:
    words = np.arange(100, dtype=np.uint64) if with_words else None
    found = []
    for box in (BundledMailbox(grid), PolledMailbox(grid)):
        with Sites(link, ACTS) as sites:
            found.append(ask(box, sites, words=words, timeout_s=6.0))
    for answers in found:
        assert answers.keys() == ACTS.keys() - {"silent", "stalls"}
        assert is_packet(answers["a"], b"a", words) and is_packet(answers["b"], b"b", words)
        pieces = answers["pieces"]
        assert isinstance(pieces, Packet) and pieces.words is not None and pieces.words.size == 3_000_000
        assert answers["refuses"] == SiteRefusal("faulty-site", "a")
        assert answers["fails"] == SiteRefusal("error")
        for name in ("junk", "too long", "claims", "root"):
            assert answers[name] == SiteRefusal("malformed"), name
    [bundled, polled] = found
    assert np.array_equal(cast(Any, bundled["pieces"]).words, cast(Any, polled["pieces"]).words)


def test_mailbox_of_takes_bundles_where_they_are_served(link: Link, issued: pki.Pki) -> None:
    with ExitStack() as servers:
        ours = servers.enter_context(serving(link.bundles, issued))
        stock = servers.enter_context(serving(link.app, issued))
        assert isinstance(mailbox_of(link.grid(ours, issued)), BundledMailbox)
        assert isinstance(mailbox_of(link.grid(stock, issued)), PolledMailbox)
    assert isinstance(mailbox_of(cast(Grid, object())), PolledMailbox)


def test_the_exchange_runs_at_a_superlink_that_knows_no_bundles(link: Link, issued: pki.Pki) -> None:
    with serving(link.app, issued) as address, Sites(link, {"a": echo, "junk": junk}) as sites:
        answers = ask(mailbox_of(link.grid(address, issued)), sites)
    assert is_packet(answers["a"], b"a") and answers["junk"] == SiteRefusal("malformed")


def test_a_request_and_replies_larger_than_a_bundle_come_whole_and_leave_the_store(link: Link, grid: Any) -> None:
    words = np.random.default_rng(2).integers(0, 1 << 64, 2_500_000, dtype=np.uint64)
    assert words.nbytes > 2 * bundle.ROOM_BYTES
    with Sites(link, {"a": echo, "b": echo}) as sites:
        answers = ask(BundledMailbox(grid), sites, words=words)
        requests = link.state.object_store
        assert is_packet(answers["a"], b"a", words) and is_packet(answers["b"], b"b", words)
    kinds = {entry.content.split(b" ")[0] for entry in requests.store.values()}
    roots = [entry for entry in requests.store.values() if entry.ref_count == 0]
    assert len(roots) == 2 and b"Message" in kinds  # the requests', which the sites here never confirm


def test_a_site_that_is_not_connected_is_gone_and_the_others_answer(link: Link, grid: Any) -> None:
    with Sites(link, {"a": echo, "lost": silent, "away": goes_away}) as sites:
        sites.nodes["lost"] = SomeNode(sites.nodes["lost"].key, 12345)
        answers = ask(BundledMailbox(grid), sites)
    assert is_packet(answers.pop("a"), b"a")
    assert answers == dict.fromkeys(("lost", "away"), SiteRefusal("gone"))


def test_an_exchange_with_nobody_is_over_at_once(grid: Any) -> None:
    box = BundledMailbox(grid)
    assert dict(exchange(box, {}, [], "query.x", 60.0, max_words=0)) == {}


def test_answers_are_given_out_before_the_last_has_come(link: Link, grid: Any) -> None:
    last = threading.Event()

    def waits(sites: Sites, request: Message) -> None:
        threading.Thread(target=lambda: last.wait() and echo(sites, request), daemon=True).start()

    with Sites(link, {"a": echo, "b": echo, "c": waits}) as sites:
        nodes = {name: node.node_id for name, node in sites.nodes.items()}
        requests = [(name, Packet(b"")) for name in nodes]
        answers = exchange(BundledMailbox(grid), nodes, requests, "query.x", 20.0, max_words=0)
        assert {next(answers)[0], next(answers)[0]} == {"a", "b"}
        last.set()
        assert [site for site, _ in answers] == ["c"]


@pytest.mark.parametrize("act", [silent, stalls])
def test_the_deadline_ends_the_wait(link: Link, grid: Any, act: Act) -> None:
    with Sites(link, {"a": echo, "b": act}) as sites:
        started = time.monotonic()
        answers = ask(BundledMailbox(grid), sites, timeout_s=0.5)
        assert 0.5 <= time.monotonic() - started < 0.5 + 5 * HOLD_S
    assert answers.keys() == {"a"}


# ------------------------------------------------------------------ replies that cost their site its answer alone


@pytest.fixture
def nothing_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object is pulled by itself."""
    monkeypatch.setattr(bundle, "ROOM_BYTES", 0)


@pytest.mark.parametrize("spare", [0, -1])
@pytest.mark.usefixtures("nothing_comes_along")
def test_a_reply_is_not_pulled_beyond_what_was_asked_for(
    link: Link, grid: Any, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = np.arange(1000, dtype=np.uint64)
    made = list[Parcel]()

    def keeps(sites: Sites, request: Message) -> None:
        made.append(sites.reply(request, encode_packet(Packet(b"mine", words))))
        monkeypatch.setattr(mailbox, "MAX_HEADS_BYTES", sum(map(len, made[0].contents)) - words.nbytes + spare)
        sites.upload(made[0])

    with Sites(link, {"a": keeps}) as sites:
        answers = ask(BundledMailbox(grid), sites, max_words=words.size)
    if spare < 0:
        assert answers == {"a": SiteRefusal("malformed")}
    else:
        assert is_packet(answers["a"], b"mine", words)
    assert not link.stored(made[0])  # and neither stays at the SuperLink


def test_a_reply_of_too_many_objects_is_not_pulled(link: Link, grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(sites: Sites, request: Message) -> None:
        sites.send(request, RecordDict({f"{number}": ConfigRecord({"a": number}) for number in range(30)}))

    monkeypatch.setattr(mailbox, "MAX_OBJECTS", 30)
    with Sites(link, {"a": echo, "many": many}) as sites:
        answers = ask(BundledMailbox(grid), sites)
    assert is_packet(answers["a"], b"a") and answers["many"] == SiteRefusal("malformed")


def test_a_reply_of_which_an_object_is_gone_is_malformed(
    link: Link, grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = set[str]()
    stored = link.state.get_object
    monkeypatch.setattr(link.state, "get_object", lambda run, name: None if name in lost else stored(run, name))

    def loses(sites: Sites, request: Message) -> None:
        reply = sites.reply(request, encode_packet(Packet(b"lost", np.arange(9, dtype=np.uint64))))
        lost.add(list(reply.objects)[1])
        sites.upload(reply)

    with Sites(link, {"a": echo, "loses": loses}) as sites:
        answers = ask(BundledMailbox(grid), sites)
    assert is_packet(answers["a"], b"a") and answers["loses"] == SiteRefusal("malformed")


def tree_of(root: str, objects: dict[str, bytes]) -> ObjectTree:
    """The tree that the objects' own heads give."""
    try:
        children = get_object_children_ids_from_object_content(objects[root])
    except (KeyError, ValueError, IndexError):
        children = []
    named = [child for child in children if child in objects]
    return ObjectTree(object_id=root, children=[tree_of(child, objects) for child in dict.fromkeys(named)])


@pytest.mark.usefixtures("nothing_comes_along")
@settings(
    max_examples=3, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.data())
def test_whatever_a_site_uploads_costs_it_its_own_answer_and_no_other(
    link: Link, grid: Any, data: st.DataObject
) -> None:
    told = list[str]()

    def lies(sites: Sites, request: Message) -> None:
        reply = sites.reply(request, encode_packet(Packet(b"head", np.arange(4, dtype=np.uint64))))
        root, reply.objects = data.draw(hostile(reply.name, reply.objects))
        reply.tree = tree_of(root, reply.objects)
        reply.message.metadata.__dict__["_message_id"] = root
        sites.upload(reply)
        told.append(root)

    liars: dict[str, Act] = {f"liar {number}": lies for number in range(20)}
    with Sites(link, {"a": echo, "z": echo}) as sites, ThreadPoolExecutor() as threads:
        sites.nodes |= {name: link.node() for name in liars}
        asking = threads.submit(ask, BundledMailbox(grid), sites, timeout_s=2.0)
        while len(told) < len(liars) and not asking.done():
            sites.answer_once(liars)
        answers = asking.result()
    assert is_packet(answers["a"], b"a") and is_packet(answers["z"], b"z")
    for site, answer in answers.items():
        assert isinstance(answer, Packet) or answer.code in ("malformed", "error", "gone"), site


# ------------------------------------------------------------------ failures that are no site's


def test_a_server_that_fails_raises_in_the_callers_thread(link: Link, issued: pki.Pki) -> None:
    with serving(link.bundles, issued) as address:
        box = mailbox_of(link.grid(address, issued))
        assert isinstance(box, BundledMailbox)
    with Sites(link, {"a": echo}) as sites, pytest.raises(httpx.TransportError):
        ask(box, sites)


def test_a_run_that_is_over_raises_in_the_callers_thread(link: Link, grid: Any) -> None:
    box = BundledMailbox(grid)
    with Sites(link, {"a": lambda sites, _: sites.link.stop()}) as sites, pytest.raises(httpx.HTTPStatusError):
        ask(box, sites)
