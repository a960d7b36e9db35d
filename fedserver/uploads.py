"""When the replies that sites upload are whole, as far as the gateway can see it without reading them.

A reply is announced by one call and its objects come by further ones, several at a time. Between two of them
nothing is on the line for a round trip, and a pull of the reply that comes just then waits a full second. Our
agent says with each object how many there are; of an agent that does not, the line must be still for a while.
What a site says here costs time if it is wrong, its own and at most a second of the others'.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from fedserver.traffic import Traffic

ANNOUNCEMENT: Final = b"/v1/fleet/push-messages"
OBJECT: Final = b"/v1/fleet/push-object"
NEXT_S: Final = 1.0  # from one call of a reply to the next, before the reply counts as given up
STILL_S: Final = 0.03


@dataclass(slots=True)
class _Reply:
    given_up: asyncio.TimerHandle
    arrived: int = 0  # objects


class Uploads:
    """Counts calls and replies under way into `traffic`. One event loop's."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._replies: dict[bytes, _Reply] = {}  # by node key, announced to the SuperLink and not whole

    def begin(self, node: bytes) -> None:
        """An upload call of this node has begun."""
        self._traffic.begin_upload()
        if node in self._replies:
            self._replies[node].given_up.cancel()

    def end(self, path: bytes, node: bytes, is_stored: bool, objects: int) -> None:
        """The call has ended. is_stored: the SuperLink took it. objects: of the whole reply; 0: not said."""
        if path == ANNOUNCEMENT and is_stored:
            self._close(node)
            self._traffic.begin_upload()
            self._replies[node] = _Reply(self._timer(node))
        elif reply := self._replies.get(node):
            reply.arrived += is_stored
            if not objects or reply.arrived >= objects:
                self._close(node)
            else:
                reply.given_up = self._timer(node)
        if path == OBJECT and not objects:
            asyncio.get_running_loop().call_later(STILL_S, self._traffic.end_upload)
        else:
            self._traffic.end_upload()

    def _timer(self, node: bytes) -> asyncio.TimerHandle:
        if node in self._replies:
            self._replies[node].given_up.cancel()
        return asyncio.get_running_loop().call_later(NEXT_S, self._close, node)

    def _close(self, node: bytes) -> None:
        reply = self._replies.pop(node, None)
        if reply is not None:
            reply.given_up.cancel()
            self._traffic.end_upload()
