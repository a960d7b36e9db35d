"""How a ServerApp hands requests to Flower and gets the replies: by its public Grid, or in bundles.

The Grid polls, and pulls each object by a call of its own; under the simulation there is nothing else. A SuperLink
that fedserver runs also takes bundles (bundles.py) and answers as soon as a reply is whole.
"""

from __future__ import annotations

import logging
import queue
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, Protocol

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.serverapp import Grid
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid.http_grid import HttpGrid
from google.protobuf.message import DecodeError

from fedclient.bundle import OBJECTS, PULL, PUSH, Bundle, within_room
from fedclient.line import Line
from fedserver.inflation import at_most
from secagg.errors import Malformed

FIRST_POLL_S: Final = 0.05
POLL_GROWTH: Final = 1.3
SLOWEST_POLL_S: Final = 0.5
LEAST_GAP_S: Final = 0.01  # between two polls, over all sites
CALL_TIMEOUT_S: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 << 20
TRANSFERS: Final = 2  # calls for one message in flight
BATCH: Final = 4  # objects of one call: at most 5 MiB each
MAX_OBJECTS: Final = 4096
MAX_HEADS_BYTES: Final = 16 << 20  # of a message's objects that are no piece of a vector
_UNREADABLE: Final = (  # what Flower's parser raises over a reply that is none, depending on its bytes
    ArithmeticError, AssertionError, AttributeError, DecodeError, LookupError, RecursionError, TypeError, ValueError,
    Malformed,  # and what at_most raises
)  # fmt: skip

_Arrival = tuple[str, list[Message] | Exception]

logger = logging.getLogger(__name__)


class Mailbox(Protocol):
    """Requests out, replies in."""

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Hands the requests over; the ids of those that can be delivered."""

    def replies(
        self, waiting: Mapping[str, str], deadline: float, max_bytes: int
    ) -> Iterator[tuple[str, list[Message]]]:
        """What Flower has for each site's message id, as it comes; [] for a reply that Flower cannot read.

        waiting: site -> message id. deadline: of time.monotonic(). max_bytes: what one reply's vectors may take.
        Raises what a call raised if that is no reply's fault.
        """


def mailbox_of(grid: Grid) -> Mailbox:
    """Bundles if the server behind the Grid takes them."""
    if isinstance(grid, HttpGrid):
        bundled = BundledMailbox(grid)
        if bundled.is_served():
            return bundled
    return PolledMailbox(grid)


class BundledMailbox:
    """The mailbox at a SuperLink that fedserver runs, with the run's token, which the Grid holds."""

    def __init__(self, grid: HttpGrid) -> None:
        self._client = grid._runtime_client
        headers = {TASK_TOKEN_HEADER: grid._token}
        tls = None if grid._insecure else ssl.create_default_context(cadata=_text(grid._cert))
        self._line = Line(grid._addr, tls, lambda: headers, CALL_TIMEOUT_S, MAX_ANSWER_BYTES, is_proxied=False)
        self._transfers = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="mailbox")

    def is_served(self) -> bool:
        """Whether the server takes bundles."""
        try:
            self._call(PULL, Bundle(PullAppMessagesRequest().SerializeToString()))
        except httpx.HTTPStatusError:
            return False
        return True

    def send(self, messages: Sequence[Message]) -> set[str]:
        """As in `Mailbox`."""
        if not messages:
            return set()
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
            trees = [get_object_tree(message) for message in messages]
            objects = {name: part for message in messages for name, part in get_all_nested_objects(message).items()}
            request = PushAppMessagesRequest(
                messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
                message_object_trees=trees,
            )
            parts = within_room(objects[name].deflate() for name in _names(trees))
            answer = PushAppMessagesResponse.FromString(
                self._call(PUSH, Bundle(request.SerializeToString(), parts)).head
            )
        node, run_id = Node(node_id=messages[0].metadata.src_node_id), messages[0].metadata.run_id

        def push(name: str) -> None:
            content = objects[name].deflate()
            self._client.PushObject(
                PushObjectRequest(
                    node=node, run_id=run_id, object_id=name, object_content=content, session_id=answer.session_id
                )
            )

        list(self._transfers.map(push, answer.objects_to_push))
        return {name for name in answer.message_ids if name}

    def replies(
        self, waiting: Mapping[str, str], deadline: float, max_bytes: int
    ) -> Iterator[tuple[str, list[Message]]]:
        """As in `Mailbox`."""
        sites = {message_id: site for site, message_id in waiting.items()}
        while sites and time.monotonic() < deadline:
            request = PullAppMessagesRequest(message_ids=list(sites))
            bundle = self._call(PULL, Bundle(request.SerializeToString()))
            answer = PullAppMessagesResponse.FromString(bundle.head)
            contents = dict(zip(_names(answer.message_object_trees), bundle.parts, strict=False))
            del bundle
            is_whole = len(contents) == len(_names(answer.message_object_trees))
            for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                site = sites.pop(proto.metadata.reply_to_message_id, None)
                replies = [] if site is None else self._read(site, proto.metadata, tree, contents, max_bytes)
                if not is_whole:
                    self._confirm(proto.metadata)
                is_late = proto.HasField("error") and time.monotonic() >= deadline  # so the request has expired
                if site is not None and not is_late:
                    yield site, replies

    def _read(
        self, site: str, metadata: Any, tree: ObjectTree, contents: dict[str, bytes], max_bytes: int
    ) -> list[Message]:
        """The reply, put together; [] if it is none."""
        names = _names([tree])
        try:
            if len(names) > MAX_OBJECTS:
                raise Malformed(f"a message has at most {MAX_OBJECTS} objects")
            mine = {name: contents[name] for name in names if name in contents}
            for name, content in self._pulled([name for name in names if name not in mine]):
                mine[name] = content
                if sum(map(len, mine.values())) > max_bytes + MAX_HEADS_BYTES:
                    raise Malformed("a message takes more bytes than were asked for")
            with at_most(max_bytes):
                reply = inflate_object_from_contents(metadata.message_id, mine)
            if not isinstance(reply, Message):
                raise Malformed("the reply's root object is not a message")
        except _UNREADABLE as error:
            logger.warning("the reply of %s is no message: %s", site, type(error).__name__)
            return []
        reply.metadata.__dict__["_message_id"] = metadata.message_id
        return [reply]

    def _confirm(self, metadata: Any) -> None:
        """Lets the server forget a reply that did not come whole in one bundle."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=Node(node_id=metadata.dst_node_id), run_id=metadata.run_id, message_object_id=metadata.message_id
            )
        )

    def _pulled(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        def pull(batch: Sequence[str]) -> list[bytes]:
            answer = self._call(OBJECTS, Bundle(parts=[name.encode("ascii") for name in batch]))
            if len(answer.parts) != len(batch):
                raise Malformed("an object of a reply is gone")
            return answer.parts

        batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
        return zip(names, chain.from_iterable(self._transfers.map(pull, batches)), strict=True)

    def _call(self, call: str, bundle: Bundle) -> Bundle:
        return Bundle.decode(self._line.post(f"/v1/runtime/{call}", bundle.encode()))


class PolledMailbox:
    """The mailbox at any Grid. Each site is polled by a thread of its own: a Grid's pull waits for a reply whose
    upload has begun, and a site that stalls its upload must cost the round that site's answer and nothing else.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def send(self, messages: Sequence[Message]) -> set[str]:
        """As in `Mailbox`."""
        return {message_id for message_id in self._grid.push_messages(messages) if message_id}

    def replies(
        self, waiting: Mapping[str, str], deadline: float, max_bytes: int
    ) -> Iterator[tuple[str, list[Message]]]:
        """As in `Mailbox`."""
        arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        over = threading.Event()
        least_s = LEAST_GAP_S * len(waiting)
        for site, message_id in waiting.items():
            arguments = (site, message_id, max_bytes, _pauses(least_s, over), arrived)
            threading.Thread(target=self._watch, args=arguments, name=f"exchange-{site}", daemon=True).start()
        try:
            for _ in waiting:
                try:
                    site, replies = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    return
                if isinstance(replies, Exception):
                    raise replies
                yield site, replies
        finally:
            over.set()

    def _watch(
        self, site: str, message_id: str, max_bytes: int, pauses: Iterator[None],
        arrived: queue.SimpleQueue[_Arrival],
    ) -> None:  # fmt: skip
        """Polls for the reply to one message after each pause, until it comes or the pauses end."""
        try:
            for _ in pauses:
                with at_most(max_bytes):
                    replies = list(self._grid.pull_messages([message_id]))
                if replies:
                    arrived.put((site, replies))
                    return
        except _UNREADABLE as error:
            logger.warning("the reply of %s is no message: %s", site, type(error).__name__)
            arrived.put((site, []))
        except Exception as error:  # noqa: BLE001 - raised again in the thread that runs the exchange
            arrived.put((site, error))


def _pauses(least_s: float, over: threading.Event) -> Iterator[None]:
    """A pause that grows from poll to poll, until the exchange is over."""
    pause = FIRST_POLL_S
    while not over.wait(max(pause, least_s)):
        yield
        pause = min(pause * POLL_GROWTH, SLOWEST_POLL_S)


def _text(pem: bytes | None) -> str | None:
    return None if pem is None else pem.decode("ascii")


def _names(trees: Sequence[ObjectTree]) -> list[str]:
    """Each object once, children first, a tree after the other."""
    return list(dict.fromkeys(part.object_id for tree in trees for part in iterate_object_tree(tree)))
