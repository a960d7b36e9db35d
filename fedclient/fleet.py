"""The calls a site's node makes to a Flower server, and how a message is taken apart and put together.

The only module that touches Flower's private interface; tests/flower/test_private_api.py pins what it uses.
Nothing here runs or asks for code from the server, and no answer is read beyond its limit.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import tenacity
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Array, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from fedclient.bundle import MOST_CONFIRMED, PULL, PUSH, Bundle, within_room
from fedclient.connection import Connection, is_passing, trust
from fedclient.line import Line
from secagg.errors import Malformed

HEARTBEAT_S: Final = 15.0  # the server gives a silent site up after twice this; Flower's least is 10
CALL_TIMEOUT_S: Final = 60.0
CALL_RETRY_S: Final = 20.0  # one call, before the connection counts as lost
TRANSFERS: Final = 4  # objects of one message in flight
MAX_OBJECTS: Final = 4096
MAX_ANSWER_BYTES: Final = 8 << 20  # one object (a head of 4 MiB, or a piece of 5 MiB of an Array), or a bundle
MAX_MESSAGE_BYTES: Final = 4 << 30
SIGNED_FOR_S: Final = 10.0  # how long a signed time stamp is used; the server takes one for 300 s
SIGNED: Final = ("flwr-public-key", "flwr-timestamp", "flwr-signature")

_Answer = TypeVar("_Answer", PullMessagesResponse, PushMessagesResponse)


class RunOver(Exception):
    """The run that a message belongs to has ended; nobody waits for the answer."""


class Unreadable(Exception):
    """The server delivered something that is no message of Flower's."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it is announced: its metadata, the names of its objects, and those that came along."""

    announced: Message
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)


class Fleet:
    """One site's calls: bundles by a line, Flower's own by its client.

    Each raises httpx.HTTPError, or ValueError for a senseless answer. stop: when it is set, calls are not tried again.
    """

    def __init__(self, connection: Connection, stop: threading.Event) -> None:
        self._public_key, self._stop = _public_bytes(connection.node_key), stop
        tls, self._signed = trust(connection.ca), _Signed(connection.node_key)
        self._client = _open_client(connection, self._signed, tls)
        self._line = Line(connection.server, tls, self._signed.headers, CALL_TIMEOUT_S, MAX_ANSWER_BYTES)
        self._bundles = True  # until the server turns out not to know them: a SuperLink without our fedserver
        self._unconfirmed: list[ConfirmMessageReceivedRequest] = []
        self._transfers = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="fleet-transfer")

    def activate(self) -> int:
        """The id of this site's node, which is online from now on."""
        self._unconfirmed.clear()  # they name the node of before: a server that was started anew refuses each
        self._bundles = True  # and may know bundles where the one before, or what stood in its place, did not
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        return int(self._client.ActivateNode(request).node_id)

    def deactivate(self, node_id: int) -> None:
        """Gives the node back, so that its key can be used again at once."""
        self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))

    def beat(self, node_id: int) -> bool:
        """Whether the server still counts the node as online."""
        request = SendNodeHeartbeatRequest(node=Node(node_id=node_id), heartbeat_interval=HEARTBEAT_S)
        return bool(self._client.SendNodeHeartbeat(request).success)

    def poll(self, node_id: int) -> Delivery | None:
        """The next message for the node, if there is one. Raises Unreadable.

        Our server waits for one for a second, and answers as soon as there is one.
        """
        request = PullMessagesRequest(node=Node(node_id=node_id))
        if self._bundles:
            with suppress(_NoBundles):
                return self._poll_bundle(request)
        pulled = self._client.PullMessages(request)
        return None if not pulled.messages_list else _delivery(pulled, [])

    def _poll_bundle(self, request: PullMessagesRequest) -> Delivery | None:
        confirmed = self._unconfirmed[:MOST_CONFIRMED]
        bundle = Bundle(request.SerializeToString(), [each.SerializeToString() for each in confirmed])
        pulled, parts = self._send_bundle(PULL, bundle, PullMessagesResponse)
        del self._unconfirmed[: len(confirmed)]
        return None if not pulled.messages_list else _delivery(pulled, parts)

    def _send_bundle(self, call: str, bundle: Bundle, kind: type[_Answer]) -> tuple[_Answer, list[bytes]]:
        """The answer to a bundle, and what came with it. Raises _NoBundles if the server knows none."""
        try:
            answer = Bundle.decode(self._line.post(f"/v1/fleet/{call}", bundle.encode()))
            return kind.FromString(answer.head), answer.parts
        except DecodeError as error:
            raise ValueError("the answer is no message of Flower's") from error
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                self._signed.forget()
            if error.response.status_code not in {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED}:
                raise
            self._bundles = False
            raise _NoBundles from error

    def pull(self, node_id: int, delivery: Delivery) -> Message:
        """The message with its content. Raises Malformed, RunOver."""
        metadata, node = delivery.announced.metadata, Node(node_id=node_id)
        run_id, message_id = metadata.run_id, metadata.message_id
        contents = self._fetch(node, run_id, delivery)
        self._unconfirmed.append(ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=message_id))
        _check_contents(contents)
        message = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message):
            raise Malformed("the message's root object is not a message")
        message.metadata.__dict__["_message_id"] = message_id
        return message

    def confirm(self) -> None:
        """Lets the server forget what was received, between rounds, when nobody waits; in a bundle, a poll does."""
        while self._unconfirmed and not self._bundles:
            with suppress(RunOver):
                self._call(self._client.ConfirmMessageReceived, self._unconfirmed.pop())

    def close(self) -> None:
        """Drops what is under way."""
        self._transfers.shutdown(wait=False, cancel_futures=True)
        self._line.close()
        self._client.close()

    def push(self, node_id: int, reply: Message, seconds: float) -> int:
        """Sends the reply and gives the bytes it took. seconds: of the app's work. Raises RunOver."""
        node = Node(node_id=node_id)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            answer, sent = self._push_first(request, [objects[name] for name in _names(tree)])
        run_id, session_id = reply.metadata.run_id, answer.session_id

        def send(name: str, part: InflatableObject) -> int:
            content = part.deflate()
            request = PushObjectRequest(
                node=node, run_id=run_id, object_id=name, object_content=content, session_id=session_id
            )
            self._call(self._client.PushObject, request)
            return len(content)

        asked_for = set(answer.objects_to_push)
        wanted = [(name, part) for name, part in objects.items() if name in asked_for]
        return sent + sum(self._transfers.map(lambda pair: send(*pair), wanted))

    def _push_first(
        self, request: PushMessagesRequest, objects: Sequence[InflatableObject]
    ) -> tuple[PushMessagesResponse, int]:
        """Announces the message, with as many of its objects as a bundle takes; the answer, and their bytes."""
        if self._bundles:
            bundle = Bundle(request.SerializeToString(), within_room(part.deflate() for part in objects))
            with suppress(_NoBundles):
                answer, _ = self._call(lambda whole: self._send_bundle(PUSH, whole, PushMessagesResponse), bundle)
                return answer, sum(map(len, bundle.parts))
        return self._call(self._client.PushMessages, request), 0

    def _fetch(self, node: Node, run_id: int, delivery: Delivery) -> dict[str, bytes]:
        """The objects of a message by name, those that came along and the others; stops when they take too much."""
        names = _names(delivery.tree)
        if len(names) > MAX_OBJECTS:
            raise Malformed(f"a message has at most {MAX_OBJECTS} objects")
        counting, taken = threading.Lock(), sum(map(len, delivery.contents.values()))
        missing = [name for name in names if name not in delivery.contents]

        def count(size: int) -> None:
            nonlocal taken
            with counting:
                taken += size
                if taken > MAX_MESSAGE_BYTES:
                    raise Malformed(f"a message takes more than {MAX_MESSAGE_BYTES} bytes")

        def fetch(name: str) -> bytes:
            count(0)
            request = PullObjectRequest(node=node, run_id=run_id, object_id=name)
            try:
                content = bytes(self._call(self._client.PullObject, request, until=_is_available).object_content)
            except ValueError as error:
                raise Malformed(f"an object takes more than {MAX_ANSWER_BYTES} bytes, or is none") from error
            count(len(content))
            return content

        return delivery.contents | dict(zip(missing, self._transfers.map(fetch, missing), strict=True))

    def _call(self, method: Callable[[Any], Any], request: Any, until: Callable[[Any], bool] | None = None) -> Any:
        """The call's answer, tried again over short losses. Raises httpx.HTTPError or RunOver."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_passing)
            | tenacity.retry_if_result(lambda answer: until is not None and not until(answer)),
            stop=tenacity.stop_after_delay(CALL_RETRY_S) | tenacity.stop_when_event_set(self._stop),
            wait=tenacity.wait_exponential_jitter(initial=0.05, max=2.0, jitter=0.05),
            sleep=tenacity.sleep_using_event(self._stop),
            retry_error_callback=_last_outcome,
        )
        try:
            return retrying(method, request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.FORBIDDEN:
                raise RunOver from error
            raise


class _NoBundles(Exception):
    """The server knows no bundles."""


class _Signed:
    """The headers by which Flower's nodes sign the time; one signature is sent for SIGNED_FOR_S."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._flowers = NodeAuthHttpInterceptor(key, key.public_key())
        self._headers: dict[str, str] = {}
        self._signed_at = float("-inf")

    def headers(self) -> dict[str, str]:
        """The headers of a call."""
        if not 0 <= time.time() - self._signed_at <= SIGNED_FOR_S:  # by the clock that is signed: it goes on in sleep
            request, signed_at = httpx.Request("POST", "https://signed"), time.time()
            self._flowers.intercept(
                ProtobufRequestContext("", Node(), request), lambda _: httpx.Response(httpx.codes.OK)
            )
            self._headers, self._signed_at = {name: request.headers[name] for name in SIGNED}, signed_at
        return self._headers

    def forget(self) -> None:
        """Has the time signed anew: the server did not accept it."""
        self._signed_at = float("-inf")

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Adds the headers to a call that Flower's client makes."""
        context.request.headers.update(self.headers())
        response = call_next(context)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self.forget()
        return response


def _open_client(connection: Connection, signed: _Signed, tls: ssl.SSLContext) -> FleetHttpClient:
    client = FleetHttpClient(
        f"https://{connection.server}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode"), signed],
        verify=tls,
        timeout=CALL_TIMEOUT_S,
    )
    client._client.follow_redirects = False  # the server may not send this site anywhere else
    client._client.headers["accept-encoding"] = "identity"
    client._client.event_hooks = {"response": [_bound]}
    return client


class _Bounded(httpx.SyncByteStream):
    """An answer's body that ends with an error at MAX_ANSWER_BYTES."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        taken = 0
        for part in self._stream:
            taken += len(part)
            if taken > MAX_ANSWER_BYTES:
                raise ValueError("the answer is longer than any of Flower's")
            yield part

    def close(self) -> None:
        self._stream.close()


def _bound(response: httpx.Response) -> None:
    """Bounds what is read of an answer; one that would grow when it is unpacked was not asked for."""
    if "content-encoding" in response.headers or not isinstance(response.stream, httpx.SyncByteStream):
        raise ValueError("the answer is packed")
    response.stream = _Bounded(response.stream)


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _delivery(pulled: PullMessagesResponse, parts: Sequence[bytes]) -> Delivery:
    """The message that an answer announces. parts: the first of its objects. Raises Unreadable."""
    try:
        tree = pulled.message_object_trees[0]
        contents = dict(zip(_names(tree), parts, strict=False))
        return Delivery(message_from_proto(pulled.messages_list[0]), tree, contents)
    except Exception as error:  # Flower's parser raises whatever the bytes make it raise
        raise Unreadable from error


def _names(tree: ObjectTree) -> list[str]:
    """Each object of the tree once, children first."""
    return list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))


def _check_contents(contents: dict[str, bytes]) -> None:
    """Checks that each object is what its name hashes to and that no vector grows when put together."""
    for name, content in contents.items():
        if get_object_id(content) != name:
            raise Malformed("an object is not what its name says")
    sizes = {name: len(content) for name, content in contents.items()}
    total = sum(sizes.values())
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == "Array":
            order = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(sizes[children[index]] for index in order)
    if total > MAX_MESSAGE_BYTES:
        raise Malformed(f"a message takes more than {MAX_MESSAGE_BYTES} bytes")


def _is_available(answer: PullObjectResponse) -> bool:
    return bool(answer.object_available) or not answer.object_found


def _last_outcome(state: tenacity.RetryCallState) -> Any:
    if state.outcome is None:
        raise httpx.TransportError("the call was never tried")
    return state.outcome.result()
