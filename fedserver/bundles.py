"""Calls with their objects in one HTTP body, at the SuperLink: an ASGI app in front of Flower's own (spec 17.3).

Each does with Flower's own handlers, state and checks of who calls what its ordinary calls would do one after the
other, and a pull waits for what it asks for. Every other request goes on to Flower's app as it came.

With bell.py beside it, fedserver/mailbox.py and fedclient/fleet.py the only module that touches Flower's private
interface; tests/flower/test_private_api.py pins what they use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from fastapi import FastAPI, HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.error import FlowerError, http_error_translator
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from fedclient.bundle import MOST_CONFIRMED, OBJECTS, PULL, PUSH, ROOM_BYTES, Bundle, within_room
from fedclient.line import MEDIA_TYPE
from fedserver.bell import Bell

HOLD_S: Final = 1.0  # how long a pull waits
GATHER_S: Final = 0.004  # for replies that come together
LARGE_BYTES: Final = 1 << 16  # a body whose hashing would hold the other calls up: worked on in a thread
MAX_HEAD_BYTES: Final = 1 << 20  # of a site's call: what MAX_OBJECTS names take, several times
SIGNATURES: Final = 4096  # whose check is remembered
MAX_SIGNED_BYTES: Final = 1 << 10  # of a key, a time and a signature that are remembered

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Bundles:
    """The ASGI app, in front of the SuperLink's."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._state: LinkState = app.state.linkstate_factory.state()
        self._bell = Bell(self._state)
        self._calls: dict[str, Callable[[Request], Awaitable[Response]]] = {
            f"/v1/fleet/{PUSH}": self._push_reply,
            f"/v1/fleet/{PULL}": self._pull_request,
            "/v1/fleet/push-object": self._push_object,
            f"/v1/runtime/{PUSH}": self._push_requests,
            f"/v1/runtime/{PULL}": self._pull_replies,
            f"/v1/runtime/{OBJECTS}": self._pull_objects,
        }
        node_auth.bytes_to_public_key = bytes  # type: ignore[attr-defined,assignment]
        node_auth.verify_signature = _is_signed  # type: ignore[attr-defined,assignment]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request."""
        call = self._calls.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if call is None:
            await self._app(scope, receive, send)
            return
        response = await http_error_translator(Request({**scope, "app": self._app}, receive), _unless_gone(call))
        await response(scope, receive, send)

    # a site's calls

    async def _push_reply(self, request: Request) -> Response:
        """A reply and the first of its objects; the answer asks for those that are still missing."""
        bundle = await _small_bundle(request)
        push = _parsed(PushMessagesRequest, bundle.head)
        self._authenticate(request, push)

        def store() -> Bundle:
            answer = fleet_handlers.push_messages(push, self._state)
            self._store(push.messages_list[0].metadata.run_id, answer, push.message_object_trees[:1], bundle.parts)
            return Bundle(answer.SerializeToString())

        return _answer(await _worked_on(bundle, store))

    async def _push_object(self, request: Request) -> Response:
        """Flower's own call, without what its app does around the handler."""
        push = _parsed(PushObjectRequest, await request.body())
        self._authenticate(request, push)
        answer = await run_in_threadpool(fleet_handlers.push_object, push, self._state)
        return Response(answer.SerializeToString(), media_type=PROTOBUF_MEDIA_TYPE)

    async def _pull_request(self, request: Request) -> Response:
        """The next request for a node, once there is one, with its first objects. parts: what the node has received."""
        bundle = await _small_bundle(request)
        pull = _parsed(PullMessagesRequest, bundle.head)
        self._authenticate(request, pull)
        node = pull.node.node_id
        for confirmation in _confirmations(bundle.parts, node):
            self._confirm(confirmation)
        answer = self._next_request(pull)
        if not answer.messages_list:
            await self._bell.wait(node, request.receive, HOLD_S)
            self._authenticate(request, pull)  # it may have been taken off the register meanwhile
            answer = self._next_request(pull)
        return _answer(Bundle(answer.SerializeToString(), self._objects(answer)))

    def _next_request(self, pull: PullMessagesRequest) -> PullMessagesResponse:
        """Flower's answer; an empty one, without its search through all messages, if none has come for the node."""
        node, requests = pull.node.node_id, self._bell.requests
        with self._bell.lock:
            if not requests[node]:
                return PullMessagesResponse()
            answer = fleet_handlers.pull_messages(pull, self._state, self._state.object_store)
            requests[node] = requests[node] - 1 if answer.messages_list else 0
        return answer

    def _confirm(self, confirmation: ConfirmMessageReceivedRequest) -> None:
        with suppress(FlowerError):  # of a run that is over: its objects are gone
            fleet_handlers.confirm_message_received(confirmation, self._state, self._state.object_store)

    # the ServerApp's calls

    async def _push_requests(self, request: Request) -> Response:
        """Requests and the first of their objects; the answer asks for those that are still missing."""
        bundle = await _bundle(request)
        push = _parsed(PushAppMessagesRequest, bundle.head)
        task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), self._state)

        def store() -> Bundle:
            answer = runtime_handlers.push_messages(push, self._state, task)
            self._store(task.run_id, answer, push.message_object_trees, bundle.parts)
            return Bundle(answer.SerializeToString())

        return _answer(await _worked_on(bundle, store))

    async def _pull_replies(self, request: Request) -> Response:
        """The replies that are whole, once there is one, with their first objects; if with all, they are confirmed."""
        bundle = await _bundle(request)
        pull = _parsed(PullAppMessagesRequest, bundle.head)
        task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), self._state)

        def look() -> Any:
            with self._bell.lock:
                whole = self._bell.without_incomplete(pull.message_ids)
                found = runtime_handlers.pull_messages(PullAppMessagesRequest(message_ids=whole), self._state, task)
                self._bell.forget(message.metadata.reply_to_message_id for message in found.messages_list)
                return found

        answer = look()
        if pull.message_ids and not answer.messages_list:
            key = ("run", task.run_id)
            await self._bell.wait(key, request.receive, HOLD_S)
            if not self._bell.has_all(pull.message_ids):
                await self._bell.wait(key, request.receive, GATHER_S)
            authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), self._state)  # the run may be over
            answer = look()
        parts = self._objects(answer)
        if len(parts) == len(_names(answer.message_object_trees)):
            for message in answer.messages_list:
                self._state.object_store.delete(message.metadata.message_id)
        return _answer(Bundle(answer.SerializeToString(), parts))

    async def _pull_objects(self, request: Request) -> Response:
        """The objects of the names that are asked for, up to one that is not there."""
        names = (await _bundle(request)).parts
        task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), self._state)
        contents = (self._state.get_object(task.run_id, name.decode("ascii", "replace")) or b"" for name in names)
        return _answer(Bundle(parts=list(takewhile(bool, contents))))

    # both

    def _authenticate(self, request: Request, message: Any) -> None:
        """Raises HTTPException unless the node that the message names has signed the time."""
        request.state.protobuf_request = message
        node_auth.authenticate_node(request)

    def _store(self, run_id: int, answer: Any, trees: Iterable[ObjectTree], parts: Sequence[bytes]) -> None:
        """Stores the objects that the answer to a push asks for, as far as they came, and strikes them off it."""
        wanted = dict.fromkeys(answer.objects_to_push)
        for name, content in zip(_names(trees) if wanted else (), parts, strict=False):
            if name in wanted and self._state.store_object(run_id, answer.session_id, name, content):
                self._state.store_traffic(run_id, bytes_sent=0, bytes_recv=len(content))
                del wanted[name]
        answer.ClearField("objects_to_push")
        answer.objects_to_push.extend(wanted)

    def _objects(self, answer: Any) -> list[bytes]:
        """The first objects of the messages in an answer, as far as they are there."""
        if not answer.messages_list:
            return []
        run_id = answer.messages_list[0].metadata.run_id
        return within_room(self._state.get_object(run_id, name) for name in _names(answer.message_object_trees))


def _is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Flower's check of a signature, not made twice: a node may send one signed time with several calls."""
    check = _is_signed_once if len(public_key + message + signature) > MAX_SIGNED_BYTES else _is_signed_again
    try:
        check(public_key, message, signature)
    except InvalidSignature:
        return False
    return True


def _is_signed_once(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises InvalidSignature, or what Flower raises over a key that is none; then nothing is remembered."""
    if not verify_signature(bytes_to_public_key(public_key), message, signature):
        raise InvalidSignature


_is_signed_again = lru_cache(SIGNATURES)(_is_signed_once)


class _NoAnswer(Response):
    """To a caller that has left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends nothing."""


def _unless_gone(call: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The call; a caller that leaves is no error of the server's, which Flower's translator would log."""

    async def answered(request: Request) -> Response:
        try:
            return await call(request)
        except ClientDisconnect:
            return _NoAnswer()

    return answered


def _names(trees: Iterable[ObjectTree]) -> list[str]:
    """Each object once, children first, a tree after the other."""
    return list(dict.fromkeys(part.object_id for tree in trees for part in iterate_object_tree(tree)))


async def _bundle(request: Request) -> Bundle:
    try:
        return Bundle.decode(await request.body())
    except DecodeError as error:
        raise HTTPException(400, "not a bundle") from error


async def _small_bundle(request: Request) -> Bundle:
    """A site's. Raises HTTPException."""
    bundle = await _bundle(request)
    if len(bundle.head) > MAX_HEAD_BYTES or sum(map(len, bundle.parts)) > ROOM_BYTES:
        raise HTTPException(413, "too large a bundle")
    return bundle


def _confirmations(parts: Sequence[bytes], node: int) -> list[ConfirmMessageReceivedRequest]:
    """What the node says it has received. Raises HTTPException."""
    if len(parts) > MOST_CONFIRMED:
        raise HTTPException(413, "too many confirmations")
    confirmations = [_parsed(ConfirmMessageReceivedRequest, part) for part in parts]
    if any(each.node.node_id != node for each in confirmations):
        raise HTTPException(401, "another node's confirmation")
    return confirmations


def _parsed(kind: Callable[[], Any], body: bytes) -> Any:
    """Raises HTTPException for what is none."""
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise HTTPException(400, "not a message") from error
    return message


async def _worked_on(bundle: Bundle, work: Callable[[], Bundle]) -> Bundle:
    if sum(map(len, bundle.parts)) > LARGE_BYTES:
        return await run_in_threadpool(work)
    return work()


def _answer(bundle: Bundle) -> Response:
    return Response(bundle.encode(), media_type=MEDIA_TYPE)
