"""How a site answers a Flower server: one process that polls, hands each message to its app, and replies.

The only module that touches Flower's private interface; tests/flower/test_private_api.py pins what it uses.
A stock SuperNode runs code that the server sends. This agent never asks for that code: the app it calls is
the one installed at the site, and what leaves after a failure is a code, never the text of an exception.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Literal

import httpx
import tenacity
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
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
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedclient.connection import (
    RETRYABLE,
    Connection,
    ConnectionFailed,
    Event,
    KeyRefused,
    explain,
    is_passing,
    trust,
)
from fedclient.packets import REFUSAL, SiteRefusal, encode_refusal
from secagg.errors import Malformed, SecAggError

FAST_POLL_S: Final = 0.04  # right after a message: the next one of the round is near
IDLE_POLL_S: Final = 0.5
POLL_GROWTH: Final = 1.4
LOST_PAUSE_S: Final = 0.5
CONFIRM_AFTER_S: Final = 0.2
HEARTBEAT_S: Final = 15.0  # the server gives a silent site up after twice this; Flower's least is 10
HEARTBEATS_PER_INTERVAL: Final = 3
CALL_TIMEOUT_S: Final = 60.0
CALL_RETRY_S: Final = 20.0  # one call, before the connection counts as lost
KEY_REFUSED_S: Final = 75.0  # Flower's own agent leaves a dead node online for at most 60 s
TRANSFERS: Final = 4  # objects of one message in flight
MAX_OBJECTS: Final = 4096
MAX_MESSAGE_BYTES: Final = 4 << 30
APP_GRACE_S: Final = 2.0  # how long a stop waits for the app to finish what it does


def serve(
    app: ClientApp,
    connection: Connection,
    *,
    stop: threading.Event,
    retry_for_s: float = 600.0,
    on_event: Callable[[Event], None] = lambda _: None,
) -> None:
    """Answers the server's messages until `stop` is set. Raises ConnectionFailed.

    The app runs in a thread of its own; when `stop` is set it gets APP_GRACE_S, then is left behind.
    retry_for_s: how long the server may be out of reach, at the start or later, before this gives up.
    """
    agent = FleetAgent(app, connection, stop=stop, retry_for_s=retry_for_s, on_event=on_event)
    try:
        agent.run()
    finally:
        agent.close()


class FleetAgent:
    """One site's connection, over as many losses and server restarts as `retry_for_s` allows."""

    def __init__(
        self,
        app: ClientApp,
        connection: Connection,
        *,
        stop: threading.Event,
        retry_for_s: float,
        on_event: Callable[[Event], None],
    ) -> None:
        self._app, self._connection, self._stop, self._tell = app, connection, stop, on_event
        self._retry_for_s = retry_for_s
        self._client = _open_client(connection)
        self._node: Node | None = None
        self._unconfirmed: list[ConfirmMessageReceivedRequest] = []
        self._closed = threading.Event()
        self._transfers = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="fleet-transfer")

    def run(self) -> None:
        """Connects, answers, and connects again when the server was lost, until `stop` is set."""
        threading.Thread(target=self._heartbeats, name="fleet-heartbeat", daemon=True).start()
        while not self._stop.is_set():
            node = self._connect()
            if node is None:
                break
            self._tell(Event("connected", f"connected to {self._connection.server}"))
            try:
                self._answer_messages(node)
            except (httpx.HTTPError, ValueError) as error:
                self._tell(Event("lost", f"lost the server: {explain(error, self._connection).problem}"))
                self._stop.wait(LOST_PAUSE_S)
        self._tell(Event("stopped"))

    def close(self) -> None:
        """Gives the node back, so that a restart is accepted at once, and closes the connection."""
        self._closed.set()
        if self._node is not None:
            with suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._transfers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # connecting

    def _connect(self) -> Node | None:
        """The node to act as, or None if `stop` was set first."""
        started, told = time.monotonic(), set[str]()

        def worth_another_try(error: BaseException) -> bool:
            patience = KEY_REFUSED_S if isinstance(error, KeyRefused) else self._retry_for_s
            late = time.monotonic() - started >= min(patience, self._retry_for_s)
            return isinstance(error, ConnectionFailed) and not error.lasting and not late

        def tell_once(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, ConnectionFailed) and error.problem not in told:
                told.add(error.problem)
                self._tell(Event("waiting", error.problem))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(worth_another_try),
            stop=tenacity.stop_when_event_set(self._stop),
            wait=tenacity.wait_exponential_jitter(initial=0.2, max=4.0, jitter=0.2),
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=tell_once,
            reraise=True,
        )
        try:
            return retrying(self._enter)
        except ConnectionFailed:
            if self._stop.is_set():
                return None
            raise

    def _enter(self) -> Node:
        try:
            if self._node is not None and self._is_still_known(self._node):
                return self._node
            self._node = self._activate()
        except (httpx.HTTPError, ValueError) as error:
            raise explain(error, self._connection) from error
        return self._node

    def _is_still_known(self, node: Node) -> bool:
        try:
            return self._beat(node)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in RETRYABLE:
                raise
            return False

    def _activate(self) -> Node:
        request = ActivateNodeRequest(
            public_key=_public_bytes(self._connection.node_key), heartbeat_interval=HEARTBEAT_S
        )
        try:
            answer = self._client.ActivateNode(request)
        except httpx.HTTPStatusError:
            if not self._release_earlier_node():
                raise
            answer = self._client.ActivateNode(request)
        self._remember(answer.node_id)
        return Node(node_id=answer.node_id)

    def _release_earlier_node(self) -> bool:
        """Whether the place that this site held before a crash was given back."""
        try:
            node_id = int(self._connection.node_file.read_text()) if self._connection.node_file else 0
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
        except (OSError, ValueError, httpx.HTTPStatusError):
            return False
        return node_id != 0

    def _remember(self, node_id: int) -> None:
        if self._connection.node_file is not None:
            self._connection.node_file.write_text(f"{node_id}\n")

    def _heartbeats(self) -> None:
        while not self._closed.wait(HEARTBEAT_S / HEARTBEATS_PER_INTERVAL):
            if self._node is not None:
                with suppress(httpx.HTTPError):  # the polling thread notices a loss and names it
                    self._beat(self._node)

    def _beat(self, node: Node) -> bool:
        request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_S)
        return bool(self._client.SendNodeHeartbeat(request).success)

    # answering

    def _answer_messages(self, node: Node) -> None:
        pause = FAST_POLL_S
        while not self._stop.is_set():
            asked = time.monotonic()
            pulled = self._client.PullMessages(PullMessagesRequest(node=node))
            if not pulled.messages_list:
                self._rest(pause, time.monotonic() - asked)
                pause = min(pause * POLL_GROWTH, IDLE_POLL_S)
                continue
            try:
                announced = message_from_proto(pulled.messages_list[0])
                self._answer(node, announced, pulled.message_object_trees[0])
            except _RunOver:
                self._tell(Event("dropped", "the run is over; its message is dropped"))
            pause = FAST_POLL_S

    def _rest(self, pause: float, held: float) -> None:
        """Waits before the next poll, less what the gateway has held the last one."""
        if max(pause, held) > CONFIRM_AFTER_S:
            self._confirm()
        self._stop.wait(max(0.0, pause - held))

    def _answer(self, node: Node, announced: Message, tree: ObjectTree) -> None:
        started = time.monotonic()
        reply = self._reply(node, announced, tree)
        seconds = time.monotonic() - started
        if reply is None:
            return
        size = self._push(node, reply, seconds)
        kind: Literal["refused", "answered"] = "refused" if _is_refusal(reply) else "answered"
        self._tell(Event(kind, "", announced.metadata.message_type, size, seconds))

    def _reply(self, node: Node, announced: Message, tree: ObjectTree) -> Message | None:
        """What the app answers; a refusal if it fails; None if `stop` came first."""
        try:
            message = self._pull(node, announced, tree)
            context = Context(
                run_id=announced.metadata.run_id,
                node_id=node.node_id,
                node_config=dict(self._connection.node_config),
                state=RecordDict(),  # never kept: it would be keyed by an id that the server chooses
                run_config={},
            )
            reply = self._run_app(message, context)
        except (httpx.HTTPError, _RunOver):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the app raises, only a code leaves
            code = error.code if isinstance(error, SecAggError) else "error"
            return Message(encode_refusal(SiteRefusal(code)), reply_to=announced)
        if reply is not None and reply.has_error():
            return Message(Error(reply.error.code, ""), reply_to=announced)
        return reply

    def _run_app(self, message: Message, context: Context) -> Message | None:
        results: list[Message] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(self._app(message=message, context=context))
            except BaseException as error:  # noqa: BLE001 - handed to the polling thread below
                errors.append(error)

        worker = threading.Thread(target=work, name="fleet-app", daemon=True)
        worker.start()
        while worker.is_alive() and not self._stop.is_set():
            worker.join(0.1)
        worker.join(APP_GRACE_S)
        if errors:
            raise errors[0] if isinstance(errors[0], Exception) else RuntimeError("the app ended its thread")
        return results[0] if results else None

    # moving messages

    def _pull(self, node: Node, announced: Message, tree: ObjectTree) -> Message:
        run_id, message_id = announced.metadata.run_id, announced.metadata.message_id
        names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        if len(names) > MAX_OBJECTS:
            raise Malformed(f"a message has at most {MAX_OBJECTS} objects")

        def fetch(name: str) -> bytes:
            request = PullObjectRequest(node=node, run_id=run_id, object_id=name)
            return bytes(self._call(self._client.PullObject, request, until=_is_available).object_content)

        contents = dict(zip(names, self._transfers.map(fetch, names), strict=True))
        self._unconfirmed.append(ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=message_id))
        _check_contents(contents)
        message = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message):
            raise Malformed("the message's root object is not a message")
        message.metadata.__dict__["_message_id"] = message_id
        return message

    def _confirm(self) -> None:
        """Lets the server forget what was received; done between rounds, when nobody waits."""
        while self._unconfirmed:
            with suppress(_RunOver):
                self._call(self._client.ConfirmMessageReceived, self._unconfirmed.pop())

    def _push(self, node: Node, reply: Message, seconds: float) -> int:
        """How many bytes the reply took."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            answer = self._call(self._client.PushMessages, request)
        run_id, session_id = reply.metadata.run_id, answer.session_id

        def send(name: str, part: InflatableObject) -> int:
            content = part.deflate()
            request = PushObjectRequest(
                node=node, run_id=run_id, object_id=name, object_content=content, session_id=session_id
            )
            self._call(self._client.PushObject, request)
            return len(content)

        wanted = [(name, part) for name, part in objects.items() if name in set(answer.objects_to_push)]
        return sum(self._transfers.map(lambda pair: send(*pair), wanted))

    def _call(self, method: Callable[[Any], Any], request: Any, until: Callable[[Any], bool] | None = None) -> Any:
        """The call's answer, tried again over short losses. Raises httpx.HTTPError or _RunOver."""
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
                raise _RunOver from error
            raise


class _RunOver(Exception):
    """The run that a message belongs to has ended; nobody waits for the answer."""


def _open_client(connection: Connection) -> FleetHttpClient:
    client = FleetHttpClient(
        f"https://{connection.server}",
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(connection.node_key, connection.node_key.public_key()),
        ],
        verify=trust(connection.ca),
        timeout=CALL_TIMEOUT_S,
    )
    client._client.follow_redirects = False  # the server may not send this site anywhere else
    return client


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


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


def _is_refusal(reply: Message) -> bool:
    return reply.has_error() or REFUSAL in reply.content


def _is_available(answer: PullObjectResponse) -> bool:
    return bool(answer.object_available) or not answer.object_found


def _last_outcome(state: tenacity.RetryCallState) -> Any:
    if state.outcome is None:
        raise httpx.TransportError("the call was never tried")
    return state.outcome.result()
