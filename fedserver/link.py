"""How the federation reaches its sites, whatever carries the messages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from flwr.serverapp import Grid

from fedclient.packets import SharedArrays, SiteRefusal, encode_packets
from fedserver.exchange import exchange
from fedserver.mailbox import mailbox_of
from secagg.enrol import Hello, Here, require_from
from secagg.errors import SecAggError
from secagg.identity import Roster
from secagg.session import Packet

FIRST_HELLO_S: Final = 30.0  # while nobody has answered: the simulation engine takes its time to start
HELLO_S: Final = 5.0
SILENCE_S: Final = 2.0  # before a node that did not say who it is gets asked again; doubles each time
LONGEST_SILENCE_S: Final = 60.0
Answer = Packet | SiteRefusal


class Link(Protocol):
    """Requests to sites by name."""

    def sites(self) -> frozenset[str]:
        """The sites that can be reached now; who is new has just proved its identity."""

    def ask(
        self, kind: str, requests: Mapping[str, Sequence[Packet]], timeout_s: float, max_words: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """Each site's answer as it arrives, until the deadline; one that is missing has dropped out."""


class FlowerLink:
    """A link over Flower's Grid; works on a SuperLink and on the simulation engine."""

    def __init__(
        self,
        grid: Grid,
        roster: Roster,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid, self._mailbox, self._roster, self._clock = grid, mailbox_of(grid), roster, clock
        self._nodes: dict[str, int] = {}
        self._mute: dict[int, tuple[float, float]] = {}  # node -> when to ask it again, the pause after that

    def sites(self) -> frozenset[str]:
        """The sites behind the nodes that are online."""
        online = set(self._grid.get_node_ids())
        self._mute = {node: due for node, due in self._mute.items() if node in online}
        now = self._clock()
        strangers = online - set(self._nodes.values())
        strangers -= {node for node, (again_at, _) in self._mute.items() if now < again_at}
        if strangers:
            self._greet(strangers)
            self._silence(strangers - set(self._nodes.values()))
        return frozenset(site for site, node in self._nodes.items() if node in online)

    def _silence(self, nodes: set[int]) -> None:
        """Leaves nodes that did not prove who they are alone for a while, so that they stall nobody."""
        now = self._clock()
        for node in nodes:
            _, pause = self._mute.get(node, (0.0, SILENCE_S))
            self._mute[node] = now + pause, min(2 * pause, LONGEST_SILENCE_S)

    def _greet(self, nodes: set[int]) -> None:
        """Asks new nodes who they are; Flower's node ids are routing, not identity."""
        nonce = os.urandom(32)
        request = encode_packets([Packet(Hello(nonce).encode())])
        named = {str(node): node for node in nodes}
        timeout_s = HELLO_S if self._nodes else FIRST_HELLO_S
        answers = exchange(
            self._mailbox, named, [(name, request) for name in named], "query.hello", timeout_s, max_words=0
        )
        for name, answer in answers:
            if isinstance(answer, SiteRefusal):
                continue
            try:
                here = Here.decode(answer.head)
                require_from(self._roster, here.site, here)
            except SecAggError:
                continue
            if here.nonce == nonce:
                self._nodes[here.site] = named[name]

    def ask(
        self, kind: str, requests: Mapping[str, Sequence[Packet]], timeout_s: float, max_words: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """As in `Link`; a site that is not reachable answers a refusal 'gone'."""
        shared: SharedArrays = {}
        reachable = {site: packets for site, packets in requests.items() if site in self._nodes}
        for site in requests.keys() - reachable.keys():
            yield site, SiteRefusal("gone")
        contents = ((site, encode_packets(packets, shared)) for site, packets in reachable.items())
        yield from exchange(self._mailbox, self._nodes, contents, f"query.{kind}", timeout_s, max_words=max_words)
