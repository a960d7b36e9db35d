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

from fedclient.packets import SharedArrays, SiteRefusal, decode_answer, encode_packet
from fedserver.traffic import Traffic
from secagg.errors import Malformed
from secagg.session import Packet

FIRST_POLL_S: Final = 0.05
POLL_GROWTH: Final = 1.3
SLOWEST_POLL_S: Final = 0.5
LOOK_S: Final = 0.005  # between two looks at the traffic, which cost microseconds
UNSEEN_POLL_S: Final = 1.0  # a poll that no traffic called for: a site that went away uploads nothing
LEAST_GAP_S: Final = 0.01  # between two polls, over all sites
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
    pushed = {message_id for message_id in grid.push_messages(list(messages.values())) if message_id}
    if traffic is not None:
        traffic.announce_requests()
    waiting = {site: message.metadata.message_id for site, message in messages.items()}
    del messages, shared
    for site in [site for site, message_id in waiting.items() if message_id not in pushed]:
        del waiting[site]
        yield site, SiteRefusal("gone")
    for site, replies in _arrivals(grid, waiting, deadline, traffic):
        answer = _read(site, nodes[site], replies, max_words)
        if answer is not None:
            yield site, answer


def _arrivals(
    grid: Grid, waiting: Mapping[str, str], deadline: float, traffic: Traffic | None
) -> Iterator[tuple[str, list[Message]]]:
    """What Flower returns for each site's message id, as it returns it. Raises what a pull raised."""
    arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
    over = threading.Event()
    least_s = LEAST_GAP_S * len(waiting)
    for site, message_id in waiting.items():
        pauses = _by_clock(least_s, over) if traffic is None else _by_traffic(least_s, over, traffic)
        arguments = (grid, (site, message_id), pauses, arrived)
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


def _watch(grid: Grid, asked: tuple[str, str], pauses: Iterator[None], arrived: queue.SimpleQueue[_Arrival]) -> None:
    """Polls for the reply to one (site, message id), after each pause, until it comes or the pauses end."""
    site, message_id = asked
    try:
        for _ in pauses:
            if replies := list(grid.pull_messages([message_id])):
                arrived.put((site, replies))
                return
    except Exception as error:  # noqa: BLE001 - raised again in the thread that runs the exchange
        arrived.put((site, error))


def _by_clock(least_s: float, over: threading.Event) -> Iterator[None]:
    """A pause that grows from poll to poll, until the exchange is over."""
    pause = FIRST_POLL_S
    while not over.wait(max(pause, least_s)):
        yield
        pause = min(pause * POLL_GROWTH, SLOWEST_POLL_S)


def _by_traffic(least_s: float, over: threading.Event, traffic: Traffic) -> Iterator[None]:
    """A pause until something was uploaded and the line is quiet; UNSEEN_POLL_S at most."""
    seen, asked_at = traffic.read().ended, time.monotonic()
    while not over.wait(LOOK_S):
        now, reading = time.monotonic() - asked_at, traffic.read()
        if now >= least_s and ((reading.ended != seen and reading.is_quiet) or now >= UNSEEN_POLL_S):
            yield
            seen, asked_at = reading.ended, time.monotonic()


def _read(site: str, node: int, replies: list[Message], max_words: int) -> Answer | None:
    """The site's answer, or None if the reply is not from the node that was asked."""
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
