"""One exchange with the sites: a request to each, and their answers as they arrive, until a deadline.

It runs the same under a SuperLink and under Flower's simulation; see mailbox.py for what differs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from flwr.app import Message, RecordDict

from fedclient.packets import WORD_BYTES, SharedArrays, SiteRefusal, decode_answer, encode_packet
from fedserver.mailbox import Mailbox
from secagg.errors import Malformed
from secagg.session import Packet

GONE_CODES: Final = frozenset({3, 4, 5})  # flwr.app.Error.code: no such message, no reply, node not connected

Answer = Packet | SiteRefusal

logger = logging.getLogger(__name__)


def exchange(
    mailbox: Mailbox,
    nodes: Mapping[str, int],
    requests: Iterable[tuple[str, Packet | RecordDict]],
    message_type: str,
    timeout_s: float,
    *,
    max_words: int,
    group_id: str = "",
) -> Iterator[tuple[str, Answer]]:
    """Each site's answer as it arrives; a site that is missing at the deadline has dropped out.

    requests: at most one per site; packets that share one words array are sent with one copy of it.
    message_type: Flower's, "query.<action>" or "train.<action>". max_words: the longest vector to accept.
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
    pushed = mailbox.send(list(messages.values()))
    waiting = {site: message.metadata.message_id for site, message in messages.items()}
    del messages, shared
    for site in [site for site, message_id in waiting.items() if message_id not in pushed]:
        del waiting[site]
        yield site, SiteRefusal("gone")
    for site, replies in mailbox.replies(waiting, deadline, max_words * WORD_BYTES):
        answer = _read(site, nodes[site], replies, max_words)
        if answer is not None:
            yield site, answer


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
