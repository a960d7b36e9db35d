"""Who waits at the SuperLink for which message, and when it is there whole.

Part of bundles.py's part in Flower's private interface: it replaces two methods of the SuperLink's state, and so hears
of a message whatever way it came.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, MutableMapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, cast

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from starlette.requests import ClientDisconnect

MOST_WHOLE: Final = 1 << 14
MAX_OBJECTS: Final = 4096  # of one message, as its receivers take them

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Bell:
    """Wakes who waits for a message: its node if it is a request, its run's ServerApp if it is a reply.

    It rings when all objects of a message are there. It listens at the SuperLink's state, so it hears of what came by
    ordinary calls too.
    """

    def __init__(self, state: LinkState) -> None:
        self._objects = cast(InMemoryObjectStore, state.object_store)
        self.lock = Lock()  # held while a message is stored, and by who asks what is incomplete
        self._store_message, self._store_object = state.store_message_and_object_tree, state.store_object
        self._incomplete: dict[str, _Incomplete] = {}  # by the message's id
        self._lacking: dict[str, set[str]] = defaultdict(set)  # by object: the messages that lack it
        self._replies: dict[str, str] = {}  # by request: its incomplete reply
        self._whole: set[str] = set()  # requests whose reply is whole and waits to be pulled
        self.requests: Counter[int] = Counter()  # by node: the most that can be there whole for it
        self._waiting: dict[Hashable, set[asyncio.Future[None]]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        state.store_message_and_object_tree = self._on_message  # type: ignore[method-assign]
        state.store_object = self._on_object  # type: ignore[method-assign]

    async def wait(self, key: Hashable, receive: Receive, most_s: float) -> None:
        """Returns when `key` is rung, after `most_s` at the latest. Raises ClientDisconnect if the caller has left."""
        self._loop = asyncio.get_running_loop()
        rung = self._loop.create_future()
        left = asyncio.ensure_future(receive())
        self._waiting[key].add(rung)
        try:
            await asyncio.wait({rung, left}, timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting[key].discard(rung)
            if not self._waiting[key]:
                del self._waiting[key]
            rung.cancel()
            is_gone = left.done()
            left.cancel()
        if is_gone:
            raise ClientDisconnect

    def without_incomplete(self, requests: Iterable[str]) -> list[str]:
        """The requests whose reply has not come at all, or has come whole."""
        return [name for name in requests if name not in self._replies]

    def has_all(self, requests: Iterable[str]) -> bool:
        """Whether every request has a whole reply that waits."""
        return self._whole.issuperset(requests)

    def forget(self, requests: Iterable[str]) -> None:
        """Their replies were pulled."""
        self._whole.difference_update(requests)

    def _on_message(self, message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        metadata = message.metadata
        request = metadata.reply_to_message_id
        key = ("run", metadata.run_id) if request else metadata.dst_node_id
        with self.lock:
            if not self._is_sound(object_tree):
                return False, []  # as Flower answers for a message that it does not take
            stored, missing = self._store_message(message, object_tree, session_id)
            if stored:
                self._forget_expired()
                self._forget(metadata.message_id)
            if stored and missing:
                until = metadata.created_at + metadata.ttl
                self._incomplete[metadata.message_id] = _Incomplete(set(missing), key, request, until)
                for name in missing:
                    self._lacking[name].add(metadata.message_id)
                if request:
                    self._replies[request] = metadata.message_id
            elif stored:
                self._count(key, request)
        if stored and not missing:
            self._ring(key)
        return stored, missing

    def _is_sound(self, tree: ObjectTree) -> bool:
        """Whether the tree has few objects and gives none other children than it has already.

        Flower's store in memory does not look: it keeps the children that it was told first, and puts a tree together
        from those, so that a few names could stand for more objects than there is memory.
        """
        children = dict[str, list[str]]()
        for count, part in enumerate(iterate_object_tree(tree)):
            listed = [child.object_id for child in part.children]
            known = self._objects.store.get(part.object_id)
            if count >= MAX_OBJECTS or children.setdefault(part.object_id, listed) != listed:
                return False
            if known is not None and known.child_object_ids != listed:
                return False
        return True

    def _on_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        stored = self._store_object(run_id, session_id, object_id, object_content)
        whole = list[_Incomplete]()
        if stored:
            with self.lock:
                for name in list(self._lacking.get(object_id, ())):
                    self._incomplete[name].lacks.discard(object_id)
                    if not self._incomplete[name].lacks:
                        whole.append(self._incomplete[name])
                        self._forget(name)
                        self._count(whole[-1].key, whole[-1].request)
                self._lacking.pop(object_id, None)
        for key in {each.key for each in whole}:
            self._ring(key)
        return stored

    def _count(self, key: Hashable, request: str) -> None:
        """A message is whole. key: who waits for it. request: that it replies to, if it does."""
        if not request:
            self.requests[cast(int, key)] += 1
            return
        if len(self._whole) >= MOST_WHOLE:  # of exchanges that ended without them; a pull that misses one is as fast
            self._whole.clear()
        self._whole.add(request)

    def _forget_expired(self) -> None:
        """Forgets messages whose upload was given up."""
        now = time.time()
        for name in [name for name, each in self._incomplete.items() if each.until < now]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Forgets the message, if its upload is under way."""
        forgotten = self._incomplete.pop(name, None)
        if forgotten is None:
            return
        self._replies.pop(forgotten.request, None)
        for lacked in forgotten.lacks:
            self._lacking[lacked].discard(name)
            if not self._lacking[lacked]:
                del self._lacking[lacked]

    def _ring(self, key: Hashable) -> None:
        """In any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, key)

    def _wake(self, key: Hashable) -> None:
        for waiting in self._waiting.get(key, ()):
            if not waiting.done():
                waiting.set_result(None)


@dataclass(slots=True)
class _Incomplete:
    """A message whose upload is under way. key: what to ring then. request: that it replies to, if it does."""

    lacks: set[str]
    key: Hashable
    request: str
    until: float  # of time.time(); then nobody wants it
