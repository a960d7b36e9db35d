"""One exchange with the sites: a request to each, and their answers as they arrive, until a deadline.

Uses the public Grid only, so it runs the same under a SuperLink and under Flower's simulation. Each site is
polled by a thread of its own: Flower's pull waits for a reply whose upload has begun, and a site that stalls
its upload must cost the round that site's answer and nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedclient.packets import WORD_BYTES, SharedArrays, SiteRefusal, decode_answer, encode_packet
from fedserver.inflation import at_most
from fedserver.traffic import Traffic
from secagg.errors import Malformed
from secagg.session import Packet

FIRST_POLL_S: Final = 0.05
POLL_GROWTH: Final = 1.3
SLOWEST_POLL_S: Final = 0.5
LOOK_S: Final = 0.005  # between two looks at the traffic
LOOK_GROWTH: Final = 1.02
SLOWEST_LOOK_S: Final = 0.05  # after two quiet seconds, as while sites train
UNSEEN_POLL_S: Final = 1.0  # a poll that no traffic called for: a site that went away uploads nothing
SLOWEST_UNSEEN_S: Final = 10.0
LEAST_GAP_S: Final = 0.01  # between two polls, over all sites
_UNREADABLE: Final = (  # what Flower's parser raises over a reply that is none, depending on its bytes
    ArithmeticError, AssertionError, AttributeError, DecodeError, LookupError, RecursionError, TypeError, ValueError,
    Malformed,  # and what at_most raises
)  # fmt: skip
GONE_CODES: Final = frozenset({3, 4, 5})  # flwr.app.Error.code: no such message, no reply, node not connected

Answer = Packet | SiteRefusal
_Arrival = tuple[str, list[Message] | Exception]

logger = logging.getLogger(__name__)


def exchange(
    grid: Grid,
    nodes: Mapping[str, int],
    requests: Iterable[tuple[str, Packet | RecordDict]],
    message_type: str,
    timeout_s: float,
    *,
    max_words: int,
    group_id: str = "",
    traffic: Traffic | None = None,
) -> Iterator[tuple[str, Answer]]:
    """Each site's answer as it arrives; a site that is missing at the deadline has dropped out.

    requests: at most one per site; packets that share one words array are sent with one copy of it.
    message_type: Flower's, "query.<action>" or "train.<action>". max_words: the longest vector to accept.
    traffic: what the gateway sees, if there is one; it spares empty polls and waits.
    A site that is not connected answers SiteRefusal("gone"), one whose reply does not decode "malformed".
    """
    deadline = time.monotonic() + timeout_s
    shared: SharedArrays = {}
    messages = {
        site: Message(
            packet if isinstance(packet, RecordDict) else encode_packet(packet, shared),
            nodes[site],
            message_type,
            ttl=timeout_s,
            group_id=group_id,
        )
        for site, packet in requests
    }
    seen = 0 if traffic is None else traffic.read().ended
    pushed = {message_id for message_id in grid.push_messages(list(messages.values())) if message_id}
    if traffic is not None:
        traffic.announce_requests()
    waiting = {site: message.metadata.message_id for site, message in messages.items()}
    del messages, shared
    for site in [site for site, message_id in waiting.items() if message_id not in pushed]:
        del waiting[site]
        yield site, SiteRefusal("gone")
    bell = None if traffic is None else _Bell(traffic, seen)
    for site, replies in _arrivals(grid, waiting, deadline, bell, max_words * WORD_BYTES):
        answer = _read(site, nodes[site], replies, max_words)
        if answer is not None:
            yield site, answer


def _arrivals(
    grid: Grid, waiting: Mapping[str, str], deadline: float, bell: _Bell | None, max_bytes: int
) -> Iterator[tuple[str, list[Message]]]:
    """What Flower returns for each site's message id, as it returns it; nothing for a reply that it cannot read.

    max_bytes: what one reply's vectors may take. Raises what a pull raised if that is no reply's fault.
    """
    arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
    over = threading.Event()
    least_s = LEAST_GAP_S * len(waiting)
    if bell is not None and waiting:
        threading.Thread(target=bell.watch, name="exchange-traffic", daemon=True).start()
    for site, message_id in waiting.items():
        pauses = _by_clock(least_s, over) if bell is None else bell.pauses(least_s)
        arguments = (grid, (site, message_id), max_bytes, pauses, arrived)
        threading.Thread(target=_watch, args=arguments, name=f"exchange-{site}", daemon=True).start()
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
        if bell is not None:
            bell.stop()


def _watch(
    grid: Grid,
    asked: tuple[str, str],
    max_bytes: int,
    pauses: Iterator[None],
    arrived: queue.SimpleQueue[_Arrival],
) -> None:
    """Polls for the reply to one (site, message id), after each pause, until it comes or the pauses end."""
    site, message_id = asked
    try:
        for _ in pauses:
            with at_most(max_bytes):
                replies = list(grid.pull_messages([message_id]))
            if replies:
                arrived.put((site, replies))
                return
    except _UNREADABLE as error:
        logger.warning("the reply of %s is no message: %s", site, type(error).__name__)
        arrived.put((site, []))
    except Exception as error:  # noqa: BLE001 - raised again in the thread that runs the exchange
        arrived.put((site, error))


def _by_clock(least_s: float, over: threading.Event) -> Iterator[None]:
    """A pause that grows from poll to poll, until the exchange is over."""
    pause = FIRST_POLL_S
    while not over.wait(max(pause, least_s)):
        yield
        pause = min(pause * POLL_GROWTH, SLOWEST_POLL_S)


class _Bell:
    """Wakes the threads that wait for uploads: one looks at the traffic, however many wait."""

    def __init__(self, traffic: Traffic, seen: int) -> None:
        self._traffic, self._seen = traffic, seen
        self._rung = threading.Condition()
        self._rings, self._is_over = 0, threading.Event()

    def watch(self) -> None:
        """Rings when something was uploaded and the line is quiet, or has not been quiet for UNSEEN_POLL_S."""
        before, look_s, rang_at = self._traffic.read(), LOOK_S, time.monotonic()
        while not self._is_over.wait(look_s):
            now = self._traffic.read()
            look_s = LOOK_S if now != before or now.ended != self._seen else min(look_s * LOOK_GROWTH, SLOWEST_LOOK_S)
            before = now
            if now.ended != self._seen and (now.is_quiet or time.monotonic() - rang_at >= UNSEEN_POLL_S):
                self._seen, rang_at = now.ended, time.monotonic()
                self._ring()

    def pauses(self, least_s: float) -> Iterator[None]:
        """One site's pauses: until the next ring, or, while there is none, ever longer ones."""
        heard, longest_s = 0, UNSEEN_POLL_S
        while not self._is_over.wait(least_s):
            rings = self._wait(heard, max(0.0, longest_s - least_s))
            if self._is_over.is_set():
                return
            longest_s = UNSEEN_POLL_S if rings != heard else min(longest_s * POLL_GROWTH, SLOWEST_UNSEEN_S)
            heard = rings
            yield

    def stop(self) -> None:
        """Ends every pause and the watch."""
        self._is_over.set()
        self._ring()

    def _wait(self, heard: int, timeout_s: float) -> int:
        """How often it has rung, once that is more than `heard` or the time is up."""
        with self._rung:
            self._rung.wait_for(lambda: self._rings != heard, timeout_s)
            return self._rings

    def _ring(self) -> None:
        with self._rung:
            self._rings += 1
            self._rung.notify_all()


def _read(site: str, node: int, replies: list[Message], max_words: int) -> Answer | None:
    """The site's answer, or None if the reply is not from the node that was asked."""
    if not replies:
        return SiteRefusal("malformed")
    reply = replies[0]
    if reply.has_error():
        return SiteRefusal("gone" if reply.error.code in GONE_CODES else "error")
    if reply.metadata.src_node_id != node or len(replies) != 1:
        logger.warning("ignored a reply for %s that another node sent", site)
        return None
    try:
        return decode_answer(reply.content, max_words=max_words)
    except Malformed:
        return SiteRefusal("malformed")
