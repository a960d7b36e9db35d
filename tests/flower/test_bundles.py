"""Calls in bundles at Flower's own app: what comes whole is given out at once, and no site can hold another up."""

from __future__ import annotations

import asyncio
import base64
import datetime
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest, PushAppMessagesResponse
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TASK_TOKEN_HEADER
from flwr.superlink.routers.fleet import node_auth

from fedclient.bundle import MOST_CONFIRMED, PULL, PUSH, ROOM_BYTES, Bundle
from fedserver import bell as bell_module
from fedserver import bundles
from fedserver.bell import MAX_OBJECTS
from fedserver.bundles import HOLD_S, MAX_HEAD_BYTES
from tests.flower import pki
from tests.flower.in_memory import Caller, Link, Parcel, SomeNode, announcement, requests_of, signed

SOON_S = HOLD_S / 2  # a pull that was woken, and not one that has waited its time


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which pulls find nothing, by the way."""
    monkeypatch.setattr(bundles, "HOLD_S", 0.01)


def calling(link: Link, story: Callable[[Caller], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with link.client() as caller:
            await story(caller)

    asyncio.run(whole())


async def asked(caller: Caller, link: Link, *sites: SomeNode) -> list[Parcel]:
    """A request to each, which each has pulled."""
    requests = [link.request(site) for site in sites]
    await caller.ask(*requests)
    for site, request in zip(sites, requests, strict=True):
        pulled, _ = await caller.poll(site)
        assert [each.metadata.message_id for each in pulled.messages_list] == [request.name]
    return requests


def names_of(pulled: Any) -> set[str]:
    return {each.metadata.message_id for each in pulled.messages_list}


# ------------------------------------------------------------------ messages that come whole


@pytest.mark.parametrize("words", [0, 100, 100_000])
def test_a_request_and_its_reply_take_two_calls_each(link: Link, words: int) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        request = link.request(site, words=words)
        answer = await caller.ask(request)
        assert list(answer.message_ids) == [request.name] and not answer.objects_to_push
        pulled, parts = await caller.poll(site)
        assert names_of(pulled) == {request.name} and parts == request.contents
        assert pulled.message_object_trees[0] == request.tree

        reply = request.reply(words)
        assert not (await caller.answer(site, reply)).objects_to_push
        got, parts = await caller.replies(request)
        assert names_of(got) == {reply.name} and parts == reply.contents

    calling(link, story)


@pytest.mark.usefixtures("brief")
def test_what_was_received_leaves_the_object_store(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        await caller.answer(site, request.reply(words=100))
        assert link.stored(request) == set(request.objects)
        await caller.replies(request)
        await caller.poll(site, [request])
        assert len(link.state.object_store) == 0

    calling(link, story)


def test_a_reply_too_large_for_one_bundle_stays_until_it_is_confirmed(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply(words=(ROOM_BYTES + (1 << 20)) // 8)
        answer = await caller.answer(site, reply, [])
        for name in answer.objects_to_push:
            assert await caller.push_object(site, answer.session_id, name, reply.objects[name])
        _, parts = await caller.replies(request)
        assert 0 < len(parts) < len(reply.contents)
        assert parts == reply.contents[: len(parts)]
        assert link.stored(reply) == set(reply.objects)

    calling(link, story)


def test_a_pull_is_answered_as_soon_as_a_request_comes_by_either_way(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        for pushes in (ordinary_request, caller.ask):
            request = link.request(site, head=repr(pushes).encode())
            waiting = asyncio.create_task(caller.poll(site))
            await asyncio.sleep(0.05)
            pushed_at = time.monotonic()
            await pushes(request)
            pulled, _ = await waiting
            assert names_of(pulled) == {request.name}
            assert time.monotonic() - pushed_at < SOON_S

    async def ordinary_request(request: Parcel) -> None:
        async with link.client() as caller:
            head = requests_of([request]).SerializeToString()
            answer = await caller.post("/v1/runtime/push-messages", head, caller.token)
            assert answer.status_code == 200
            said = PushAppMessagesResponse.FromString(answer.content)
            for name in said.objects_to_push:
                part = PushObjectRequest(
                    node=Node(node_id=1), run_id=link.run, object_id=name,
                    object_content=request.objects[name], session_id=said.session_id,
                )  # fmt: skip
                stored = await caller.post("/v1/runtime/push-object", part.SerializeToString(), caller.token)
                assert stored.status_code == 200

    calling(link, story)


def test_a_pull_of_nothing_ends_after_its_time(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        started = time.monotonic()
        pulled, parts = await caller.poll(site)
        assert not pulled.messages_list and not parts
        assert HOLD_S <= time.monotonic() - started < 10 * HOLD_S

    calling(link, story)


def test_the_serverapp_gets_a_reply_as_soon_as_it_is_whole_and_not_before(link: Link) -> None:
    """A site that uploads slowly, or stops, holds up nobody else's."""
    slow, quick = link.node(), link.node()

    async def story(caller: Caller) -> None:
        of_slow, of_quick = await asked(caller, link, slow, quick)
        theirs = of_slow.reply(words=50, head=b"slow")
        answer = await caller.answer(slow, theirs, theirs.contents[:1])
        *early, last = answer.objects_to_push
        assert {*early, last} == set(list(theirs.objects)[1:])
        for name in early:
            assert await caller.push_object(slow, answer.session_id, name, theirs.objects[name])

        mine = of_quick.reply(head=b"quick")
        await caller.answer(quick, mine)
        started = time.monotonic()
        got, _ = await caller.replies(of_slow, of_quick)
        assert names_of(got) == {mine.name} and time.monotonic() - started < SOON_S

        waiting = asyncio.create_task(caller.replies(of_slow))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        pushed_at = time.monotonic()
        assert await caller.push_object(slow, answer.session_id, last, theirs.objects[last])
        got, parts = await waiting
        assert names_of(got) == {theirs.name} and parts == theirs.contents
        assert time.monotonic() - pushed_at < SOON_S

    calling(link, story)


def test_replies_that_arrive_by_ordinary_calls_are_given_out_too(link: Link) -> None:
    """A stock SuperNode's."""
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply()
        waiting = asyncio.create_task(caller.replies(request))
        head = announcement(site, reply).SerializeToString()
        said = await caller.post("/v1/fleet/push-messages", head, site.headers())
        answer = PushMessagesResponse.FromString(said.content)
        assert set(answer.objects_to_push) == set(reply.objects)
        for name in answer.objects_to_push:
            assert await caller.push_object(site, answer.session_id, name, reply.objects[name])
        got, _ = await waiting
        assert names_of(got) == {reply.name}

    calling(link, story)


def test_a_request_is_given_out_as_soon_as_its_last_object_has_come(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        request = link.request(site, words=100)
        answer = await caller.ask(request, parts=request.contents[:2])
        missing = list(request.objects)[2:]
        assert set(answer.objects_to_push) == set(missing)
        waiting = asyncio.create_task(caller.poll(site))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        pushed_at = time.monotonic()
        for name in missing:
            assert link.state.store_object(link.run, answer.session_id, name, request.objects[name])
        pulled, parts = await waiting
        assert names_of(pulled) == {request.name} and parts == request.contents
        assert pulled.message_object_trees[0] == request.tree
        assert time.monotonic() - pushed_at < SOON_S

    calling(link, story)


def test_many_nodes_wait_at_once_and_each_gets_its_own(link: Link) -> None:
    sites = [link.node() for _ in range(60)]

    async def story(caller: Caller) -> None:
        polls = [asyncio.create_task(caller.poll(site)) for site in sites]
        await asyncio.sleep(0.2)
        requests = [link.request(site, head=b"%d" % number) for number, site in enumerate(sites)]
        await caller.ask(*requests)
        for poll, request in zip(polls, requests, strict=True):
            pulled, parts = await poll
            assert names_of(pulled) == {request.name} and parts == request.contents
        assert not link.bundles._bell._waiting

    calling(link, story)


def test_objects_that_many_messages_share_are_sent_and_stored_once(link: Link) -> None:
    sites = [link.node() for _ in range(3)]

    async def story(caller: Caller) -> None:
        requests = [link.request(site, words=1000) for site in sites]
        shared = set.intersection(*(set(each.objects) for each in requests))
        assert shared
        await caller.ask(*requests)
        for site, request in zip(sites, requests, strict=True):
            _, parts = await caller.poll(site, [])
            assert parts == request.contents
        replies = [request.reply(words=1000) for request in requests]
        for site, reply in zip(sites, replies, strict=True):
            await caller.answer(site, reply)
        got, parts = await caller.replies(*requests)
        assert names_of(got) == {each.name for each in replies}
        assert len(parts) == len({name for each in replies for name in each.objects})

    calling(link, story)


# ------------------------------------------------------------------ who leaves


class Leaves:
    """A caller that hangs up once its request has been read, by ASGI itself."""

    def __init__(self, bundle: Bundle, path: str, headers: dict[str, str]) -> None:
        self.scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        self.body, self.left, self.sent = bundle.encode(), asyncio.Event(), list[Any]()

    async def receive(self) -> dict[str, Any]:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def test_a_caller_that_leaves_while_its_pull_is_held_takes_no_message_with_it(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        head = PullMessagesRequest(node=site.node).SerializeToString()
        gone = Leaves(Bundle(head), f"/v1/fleet/{PULL}", site.headers())
        held = asyncio.create_task(link.bundles(gone.scope, gone.receive, gone.send))
        await asyncio.sleep(0.05)
        request = link.request(site)
        gone.left.set()
        await caller.ask(request)
        await held
        assert gone.sent == []
        pulled, _ = await caller.poll(site)
        assert names_of(pulled) == {request.name}

    calling(link, story)


def test_a_serverapp_that_leaves_while_its_pull_is_held_takes_no_reply_with_it(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        head = PullAppMessagesRequest(message_ids=[request.name]).SerializeToString()
        gone = Leaves(Bundle(head), f"/v1/runtime/{PULL}", caller.token)
        held = asyncio.create_task(link.bundles(gone.scope, gone.receive, gone.send))
        await asyncio.sleep(0.05)
        gone.left.set()
        await held
        assert gone.sent == []
        reply = request.reply()
        await caller.answer(site, reply)
        got, _ = await caller.replies(request)
        assert names_of(got) == {reply.name}

    calling(link, story)


# ------------------------------------------------------------------ who is refused

Headers = dict[str, str]


def wrong_signature(site: SomeNode) -> Headers:
    return site.headers() | {FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(bytes(100)).decode()}


def signed_by_another(site: SomeNode) -> Headers:
    return signed(pki.node_key(), site.public, datetime.datetime.now(datetime.UTC).isoformat())


def no_key(site: SomeNode) -> Headers:
    return site.headers() | {FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(b"no key").decode()}


def nothing(site: SomeNode) -> Headers:
    return {}


def stale(site: SomeNode) -> Headers:
    return site.headers(age_s=3600)


def early(site: SomeNode) -> Headers:
    return site.headers(age_s=-3600)


def of_another_time(site: SomeNode) -> Headers:
    return site.headers() | {TIMESTAMP_HEADER: datetime.datetime.now(datetime.UTC).isoformat()}


def of_a_stranger(site: SomeNode) -> Headers:
    return SomeNode(pki.node_key(), site.node_id).headers()


FORGED = [wrong_signature, signed_by_another, no_key, nothing, stale, early, of_another_time, of_a_stranger]


async def both(caller: Caller, ordinary: str, bundle: str, head: bytes, headers: Headers) -> tuple[int, int]:
    """The statuses of Flower's call and of the bundle that stands for it."""
    plain = await caller.post(ordinary, head, headers)
    bundled = await caller.post(bundle, Bundle(head).encode(), headers)
    return plain.status_code, bundled.status_code


FLEET = [("/v1/fleet/pull-messages", f"/v1/fleet/{PULL}"), ("/v1/fleet/push-messages", f"/v1/fleet/{PUSH}")]
RUNTIME = [("/v1/runtime/pull-messages", f"/v1/runtime/{PULL}"), ("/v1/runtime/push-messages", f"/v1/runtime/{PUSH}")]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("forge", FORGED)
@pytest.mark.parametrize("call", FLEET)
def test_who_cannot_show_that_it_is_the_node_is_refused_as_flower_refuses(
    link: Link, call: tuple[str, str], forge: Callable[[SomeNode], Headers]
) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        head = PullMessagesRequest(node=site.node).SerializeToString()  # the other call's request begins with it too
        assert await both(caller, *call, head, forge(site)) == (401, 401)
        await caller.poll(site)
        assert await both(caller, *call, head, forge(site)) == (401, 401)  # with the right one remembered

    calling(link, story)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("call", FLEET)
def test_a_node_cannot_call_in_anothers_name(link: Link, call: tuple[str, str]) -> None:
    site, other = link.node(), link.node()

    async def story(caller: Caller) -> None:
        for node in (other.node, Node(node_id=0), Node(node_id=12345)):
            head = PullMessagesRequest(node=node).SerializeToString()
            assert await both(caller, *call, head, site.headers()) == (401, 401)
        request = link.request(other)
        await caller.ask(request)
        pulled, _ = await caller.poll(site)
        assert not pulled.messages_list
        pulled, _ = await caller.poll(other)
        assert names_of(pulled) == {request.name}

    calling(link, story)


def test_an_object_of_a_reply_is_taken_from_its_node_alone(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        body = PushObjectRequest(node=site.node, run_id=link.run, object_id="x").SerializeToString()
        for forge in FORGED:
            assert (await caller.post("/v1/fleet/push-object", body, forge(site))).status_code == 401
        assert (await caller.post("/v1/fleet/push-object", body, site.headers())).status_code == 200
        assert (await caller.post("/v1/fleet/push-object", b"\xff", site.headers())).status_code == 400

    calling(link, story)


def test_a_reply_to_a_run_that_is_over_or_has_not_begun_is_refused_as_flower_refuses(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = announcement(site, request.reply())
        for run in (link.pending_run(), link.run):
            reply.messages_list[0].metadata.run_id = run
            if run == link.run:
                link.stop()
            assert await both(caller, *FLEET[1], reply.SerializeToString(), site.headers()) == (403, 403)

    calling(link, story)


def test_a_reply_to_a_run_that_never_was_is_refused_as_flower_refuses(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = announcement(site, request.reply())
        reply.messages_list[0].metadata.run_id = 12345
        plain, bundled = await both(caller, *FLEET[1], reply.SerializeToString(), site.headers())
        assert plain == bundled == 500
        empty = PushMessagesRequest(node=site.node).SerializeToString()
        plain, bundled = await both(caller, *FLEET[1], empty, site.headers())
        assert plain == bundled == 500

    calling(link, story)


@pytest.mark.parametrize("call", RUNTIME)
def test_a_serverapp_without_its_runs_token_is_refused_as_flower_refuses(link: Link, call: tuple[str, str]) -> None:
    async def story(caller: Caller) -> None:
        for headers in ({}, {TASK_TOKEN_HEADER: ""}, {TASK_TOKEN_HEADER: "0" * 64}):
            assert await both(caller, *call, b"", headers) == (401, 401)
        token = caller.token
        link.stop()
        assert await both(caller, *call, b"", token) == (401, 401)

    calling(link, story)


def test_a_site_cannot_call_what_the_serverapp_calls(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        for call in RUNTIME:
            assert await both(caller, *call, b"", site.headers()) == (401, 401)

    calling(link, story)


def test_a_push_of_no_requests_is_refused_as_flower_refuses(link: Link) -> None:
    async def story(caller: Caller) -> None:
        empty = PushAppMessagesRequest().SerializeToString()
        plain, bundled = await both(caller, *RUNTIME[1], empty, caller.token)
        assert plain == bundled == 500

    calling(link, story)


def test_a_serverapp_sees_no_other_runs_replies(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply()
        await caller.answer(site, reply)
        _, other = link.new_run()
        head = PullAppMessagesRequest(message_ids=[request.name]).SerializeToString()
        plain, bundled = await both(caller, *RUNTIME[0], head, {TASK_TOKEN_HEADER: other})
        assert plain == bundled == 500
        got, _ = await caller.replies(request)
        assert names_of(got) == {reply.name}

    calling(link, story)


@pytest.mark.parametrize("head", [b"\xff", b"\x0a\x05abc", b"\x08"])
def test_what_is_no_message_is_refused_as_flower_refuses(link: Link, head: bytes) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        for call in (*FLEET, *RUNTIME):
            headers = caller.token if call in RUNTIME else site.headers()
            assert await both(caller, *call, head, headers) == (400, 400)

    calling(link, story)


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0\1", b"\xff\xff\xff\xff", Bundle(b"head").encode()[:-1]])
def test_what_is_no_bundle_is_refused(link: Link, body: bytes) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        for _, path in (*FLEET, *RUNTIME):
            assert (await caller.post(path, body, caller.token | site.headers())).status_code == 400

    calling(link, story)


def test_what_is_no_bundle_call_goes_on_to_flower(link: Link) -> None:
    async def story(caller: Caller) -> None:
        assert (await caller.http.get("/health")).status_code == 200
        assert (await caller.http.get(f"/v1/fleet/{PULL}")).status_code == 404
        assert (await caller.post("/v1/fleet/other-bundle", b"", {})).status_code == 404

    calling(link, story)


# ------------------------------------------------------------------ signatures remembered


def test_no_signature_is_taken_for_one_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another key, another message, another signature: each is checked itself, and every failure again."""
    checked = list[bytes]()
    flowers = bundles.verify_signature

    def check(public_key: Any, message: bytes, signature: bytes) -> bool:
        checked.append(message)
        return flowers(public_key, message, signature)

    monkeypatch.setattr(bundles, "verify_signature", check)
    bundles._is_signed_again.cache_clear()
    one, other = (SomeNode(pki.node_key(), 1) for _ in range(2))
    signature = bundles_sign(one, b"time")
    assert [bundles._is_signed(one.public, b"time", signature) for _ in range(3)] == [True] * 3
    assert len(checked) == 1
    for wrong in [
        (other.public, b"time", signature),
        (one.public, b"tide", signature),
        (one.public, b"time", bundles_sign(other, b"time")),
        (one.public, b"time", b""),
    ]:
        checked.clear()
        assert [bundles._is_signed(*wrong) for _ in range(2)] == [False] * 2
        assert len(checked) == 2
    assert bundles._is_signed_again.cache_info().currsize == 1


def bundles_sign(node: SomeNode, message: bytes) -> bytes:
    return base64.b64decode(signed(node.key, node.public, message.decode())[FLEET_HTTP_SIGNATURE_HEADER])


def test_a_key_in_a_long_wrapping_is_not_remembered() -> None:
    """PEM may have any text before it, and who calls need not be known."""
    bundles._is_signed_again.cache_clear()
    node = SomeNode(pki.node_key(), 1)
    assert bundles._is_signed(b"x" * 10_000 + b"\n" + node.public, b"time", bundles_sign(node, b"time"))
    assert bundles._is_signed_again.cache_info().currsize == 0


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("call", FLEET)
def test_a_remembered_signature_grows_as_old_as_any(
    link: Link, call: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        head, headers = PullMessagesRequest(node=site.node).SerializeToString(), site.headers()
        path = f"/v1/fleet/{PULL}"
        assert (await caller.post(path, Bundle(head).encode(), headers)).status_code == 200
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        monkeypatch.setattr(node_auth, "now", lambda: later)
        assert await both(caller, *call, head, headers) == (401, 401)

    calling(link, story)


# ------------------------------------------------------------------ hostile sites


def test_a_part_that_is_not_what_its_name_says_is_not_stored(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply(words=10)
        wrong = [reply.contents[-1], *reply.contents[1:-1], b""]
        answer = await caller.answer(site, reply, wrong)
        first, *right, last = reply.objects
        assert set(answer.objects_to_push) == {first, last}
        assert link.stored(reply) == set(right)
        for name in (first, last):
            assert await caller.push_object(site, answer.session_id, name, reply.objects[name])
        got, parts = await caller.replies(request)
        assert names_of(got) == {reply.name} and parts == reply.contents

    calling(link, story)


def test_more_parts_than_the_message_has_objects_are_left(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        before = len(link.state.object_store)
        reply = request.reply()
        await caller.answer(site, reply, [*reply.contents, *(b"more" for _ in range(1000))])
        assert len(link.state.object_store) == before + len(reply.objects)
        _, parts = await caller.replies(request)
        assert parts == reply.contents

    calling(link, story)


def test_a_reply_to_a_request_that_is_another_nodes_is_not_taken(link: Link) -> None:
    site, thief = link.node(), link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        forged = request.reply(head=b"forged", node=thief.node_id)
        before = len(link.state.object_store)
        assert not (await caller.answer(thief, forged)).objects_to_push
        assert len(link.state.object_store) == before
        reply = request.reply()
        await caller.answer(site, reply)
        got, _ = await caller.replies(request)
        assert names_of(got) == {reply.name}

    calling(link, story)


def tree(name: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=name, children=children)


def named(number: int) -> str:
    return f"{number:064x}"


def test_a_tree_of_few_names_cannot_stand_for_more_objects_than_it_has(link: Link) -> None:
    """Each name twice below the next, with its own children given the first time only: 2^60 objects at the ServerApp's
    pull, which Flower's store would put together one by one."""
    site = link.node()
    grown = tree(named(0))
    for level in range(1, 60):
        grown = tree(named(level), grown, tree(named(level - 1)))

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply()
        before = len(link.state.object_store)
        root = tree(reply.name, *reply.tree.children, grown)
        await caller.answer(site, reply, tree=root)
        assert len(link.state.object_store) == before
        head = announcement(site, reply, root).SerializeToString()
        assert (await caller.post("/v1/fleet/push-messages", head, site.headers())).status_code == 200
        assert len(link.state.object_store) == before

    calling(link, story)


def test_a_tree_cannot_lean_on_what_an_earlier_message_said_of_the_same_names(link: Link) -> None:
    site, other = link.node(), link.node()

    async def story(caller: Caller) -> None:
        first, second = await asked(caller, link, site, other)
        one, two = first.reply(head=b"one"), second.reply(head=b"two")
        await caller.answer(site, one, [], tree(one.name, tree(named(1), tree(named(2)))))
        before = len(link.state.object_store)
        for leaning in (tree(named(1)), tree(named(1), tree(named(3))), tree(named(2), tree(named(1)))):
            assert not (await caller.answer(other, two, [], tree(two.name, leaning))).objects_to_push
            assert len(link.state.object_store) == before
        assert (await caller.answer(other, two, [], tree(two.name, tree(named(2))))).objects_to_push

    calling(link, story)


def test_a_message_of_too_many_objects_is_not_taken(link: Link) -> None:
    site, other = link.node(), link.node()

    async def story(caller: Caller) -> None:
        requests = await asked(caller, link, site, other)
        before = len(link.state.object_store)
        for node, request, count in ((site, requests[0], MAX_OBJECTS), (other, requests[1], MAX_OBJECTS - 1)):
            reply = request.reply()
            leaves = [tree(named(number)) for number in range(count)]
            answer = await caller.answer(node, reply, [], tree(reply.name, *leaves))
            assert len(answer.objects_to_push) == (0 if count == MAX_OBJECTS else MAX_OBJECTS)
        assert len(link.state.object_store) == before + MAX_OBJECTS

    calling(link, story)


def test_a_sites_bundle_has_a_short_head_and_no_more_parts_than_fit(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        push = announcement(site, request.reply())
        push.message_object_trees.append(tree("", *(tree("") for _ in range(MAX_HEAD_BYTES // 2))))
        for bundle in (Bundle(push.SerializeToString()), Bundle(b"", [bytes(ROOM_BYTES), b"1"])):
            for path in (PUSH, PULL):
                answer = await caller.post(f"/v1/fleet/{path}", bundle.encode(), site.headers())
                assert answer.status_code == 413

    calling(link, story)


def test_confirmations_are_bounded_and_a_nodes_own(link: Link) -> None:
    site, other = link.node(), link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, other)
        head = PullMessagesRequest(node=site.node).SerializeToString()
        foreign = ConfirmMessageReceivedRequest(node=other.node, run_id=link.run, message_object_id=request.name)
        body = foreign.SerializeToString()
        for parts, status in (([body], 401), ([b"\xff"], 400), ([b""] * (MOST_CONFIRMED + 1), 413)):
            answer = await caller.post(f"/v1/fleet/{PULL}", Bundle(head, parts).encode(), site.headers())
            assert answer.status_code == status
        assert link.stored(request) == set(request.objects)

    calling(link, story)


def test_a_confirmation_for_a_run_that_is_over_costs_a_node_nothing(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [old] = await asked(caller, link, site)
        ended = link.run
        link.stop()
        link.run, link.token = link.new_run()
        link.become(monkeypatch)
        request = link.request(site)
        await caller.ask(request)
        head = PullMessagesRequest(node=site.node).SerializeToString()
        part = ConfirmMessageReceivedRequest(node=site.node, run_id=ended, message_object_id=old.name)
        answer = await caller.post(
            f"/v1/fleet/{PULL}", Bundle(head, [part.SerializeToString()]).encode(), site.headers()
        )
        assert answer.status_code == 200 and request.name.encode() in answer.content

    calling(link, story)


def test_uploads_that_were_given_up_are_forgotten(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [link.node() for _ in range(20)]
    bell = link.bundles._bell

    async def story(caller: Caller) -> None:
        requests = await asked(caller, link, *sites)
        for site, request in zip(sites, requests, strict=True):
            await caller.answer(site, request.reply(words=10), [])
        assert len(bell._incomplete) == len(bell._replies) == len(sites) and bell._lacking
        until = max(each.until for each in bell._incomplete.values())
        assert until <= max(each.message.metadata.created_at + each.message.metadata.ttl for each in requests) + 1
        monkeypatch.setattr(bell_module.time, "time", lambda: until + 1)
        await caller.ask(link.request(sites[0], head=b"another"))
        assert not bell._incomplete and not bell._replies and not bell._lacking

    calling(link, story)


def test_nothing_is_kept_of_messages_that_came_whole(link: Link) -> None:
    site, bell = link.node(), link.bundles._bell

    async def story(caller: Caller) -> None:
        for count in range(20):
            request = link.request(site, head=b"%d" % count)
            await caller.ask(request)
            await caller.poll(site)
            reply = request.reply(words=10)
            answer = await caller.answer(site, reply, reply.contents[: count % 3])
            for name in answer.objects_to_push:
                await caller.push_object(site, answer.session_id, name, reply.objects[name])
            await caller.replies(request)
        assert not bell._incomplete and not bell._replies and not bell._lacking and not bell._waiting

    calling(link, story)


def test_a_site_that_announces_its_reply_twice_does_not_keep_anothers_back(link: Link) -> None:
    """The second time with another tree; an object that both it and the other lack comes after that."""
    site, other = link.node(), link.node()

    async def story(caller: Caller) -> None:
        of_site, of_other = await asked(caller, link, site, other)
        theirs, mine = of_other.reply(words=10), of_site.reply(words=10)
        assert next(iter(mine.objects)) == next(iter(theirs.objects))  # the vector's bytes
        await caller.answer(site, mine, [])
        small = of_site.reply(head=b"small")
        leaf = next(iter(small.objects))
        again = await caller.answer(site, mine, [], tree(leaf))
        assert await caller.push_object(site, again.session_id, leaf, small.objects[leaf])
        pushed = await caller.answer(other, theirs, [])
        for name in pushed.objects_to_push:
            assert await caller.push_object(other, pushed.session_id, name, theirs.objects[name])
        got, _ = await caller.replies(of_other)
        assert names_of(got) == {theirs.name}

    calling(link, story)


def test_a_site_that_announces_its_reply_again_after_a_lost_answer_sends_it_whole(link: Link) -> None:
    site = link.node()

    async def story(caller: Caller) -> None:
        [request] = await asked(caller, link, site)
        reply = request.reply(words=10)
        await caller.answer(site, reply, reply.contents[:2])
        assert not (await caller.answer(site, reply)).objects_to_push
        got, parts = await caller.replies(request)
        assert names_of(got) == {reply.name} and parts == reply.contents

    calling(link, story)
