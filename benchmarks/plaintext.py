"""A scheme without any protection, behind the common interface: what a round costs that keeps nothing from the server.

A site's one message is its quantised update in clear, the words that masked mode would have masked; the server adds
them up and hands out the sum. Nothing is signed, masked, shared or checked. `register` makes the scheme known to the
process that calls it, and only the launchers of the benchmarks do: the product refuses a session that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np

from secagg.config import Manifest, Policy, RoundContext, RoundHeader
from secagg.errors import FaultyServer, Malformed, Misuse, SecAggError, TooFewSites
from secagg.identity import ServerKeys, SiteKeys
from secagg.masked.payload import QuantizedUpdate, quantizer_of
from secagg.quantize import next_range
from secagg.schemes import SCHEMES
from secagg.session import IDENTITY, Aggregate, Archive, Audit, Mean, Packet, Rng, Update, Words, require_words
from secagg.tally import WORDS, Tally
from secagg.wire import MAX_SITES, Items, Name, Struct

NAME: Final = "plain"
PHASE: Final = "send"


@dataclass(frozen=True, slots=True)
class PlainRequest(Struct):
    """Server to site: send what you have for this attempt."""

    TAG = 120
    header: RoundHeader


@dataclass(frozen=True, slots=True)
class PlainUpdate(Struct):
    """Site to server: who sends the words beside it."""

    TAG = 121
    site: Name


@dataclass(frozen=True, slots=True)
class PlainAggregate(Struct):
    """The end of a round: whose updates are in the sum beside it."""

    TAG = 122
    header: RoundHeader
    sites: Annotated[tuple[Name, ...], Items(1, MAX_SITES, by="")]


class PlainClient:
    """One site; implements `secagg.session.ClientSession`."""

    def __init__(self, context: RoundContext, policy: Policy, site: str, update: Update | None, rng: Rng) -> None:
        """update: None once it was sent. Raises Refused if the policy forbids the manifest."""
        policy.check(context.manifest)
        self._context, self._site, self._update, self._rng = context, site, update, rng

    @property
    def stage(self) -> str:
        """'fresh', or 'checked', the last stage that a site's log of answers knows."""
        return "fresh" if self._update is not None else "checked"

    @property
    def released(self) -> bool:
        """Whether the update has left."""
        return self._update is None

    @property
    def evidence(self) -> bytes:
        """The header's digest."""
        return self._context.digest

    def to_bytes(self) -> bytes:
        """The stage alone."""
        return self.stage.encode()

    def handle(self, request: Packet) -> Packet:
        """The update in clear. Raises FaultyServer for another attempt, Misuse if it was sent before."""
        if PlainRequest.decode(request.head).header != self._context.header:
            raise FaultyServer("the round header is not the one this site expects")
        if self._update is None:
            raise Misuse("the update was sent before")
        payload, start = QuantizedUpdate(self._context), 0
        words = np.empty(payload.words, np.uint64)
        for block in payload.contribute(self._update, self._rng).blocks():
            words[start : start + block.size] = block
            start += block.size
        self._update = None
        return Packet(PlainUpdate(self._site).encode(), words)


class PlainServer:
    """Implements `secagg.session.ServerSession`; sees every update."""

    def __init__(self, context: RoundContext) -> None:
        self.faults: dict[str, SecAggError] = {}
        self._context = context
        self._result: Aggregate | None = None
        self._sum = np.zeros(QuantizedUpdate(context).words, np.uint64)

    @property
    def phase(self) -> str:
        """PHASE, or 'done'."""
        return "done" if self.done else PHASE

    @property
    def done(self) -> bool:
        """Whether the sum is there."""
        return self._result is not None

    def requests(self) -> Mapping[str, Packet]:
        """One question to every site of the cohort."""
        head = PlainRequest(self._context.header).encode()
        return {site: Packet(head) for site in sorted(self._context.cohort)}

    def receive(self, replies: Iterable[tuple[str, Packet]]) -> None:
        """Adds what arrives. Raises TooFewSites."""
        answered = []
        for site, packet in replies:
            try:
                words = self._words_of(site, packet)
            except (Malformed, Misuse) as error:
                self.faults[site] = error
                continue
            np.add(self._sum, words, out=self._sum)
            answered.append(site)
        if len(answered) < self._context.manifest.least_survivors:
            raise TooFewSites(len(answered), self._context.manifest.least_survivors)
        sites = tuple(sorted(answered))
        self._result = Aggregate(Packet(PlainAggregate(self._context.header, sites).encode(), self._sum), sites)

    def _words_of(self, site: str, packet: Packet) -> Words:
        if PlainUpdate.decode(packet.head).site != site:
            raise Malformed("it answered in another site's name")
        return require_words(packet, self._sum.size)

    def result(self) -> Aggregate:
        """The sum. Raises Misuse before `done`."""
        if self._result is None:
            raise Misuse("the round is not done")
        return self._result

    def to_bytes(self) -> bytes:
        """Nothing: there is no phase after the sum."""
        return b""


class PlainScheme:
    """Implements `secagg.session.Scheme`."""

    name = NAME
    needs = frozenset({IDENTITY})
    options = frozenset[str]()
    caution = "nothing is protected"

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """Nothing is needed. Raises Refused for an option."""
        manifest.require_options(self.options)

    def most_words(self, manifest: Manifest) -> int:
        """A word per value at most, and the tally's."""
        return manifest.size + len(WORDS)

    def client(self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng) -> PlainClient:
        """A fresh session."""
        return PlainClient(context, policy, keys.site, update, rng)

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> PlainClient:
        """The session, which has nothing to say any more once its update is gone."""
        return PlainClient(context, policy, keys.site, update if blob == b"fresh" else None, rng)

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> PlainServer:
        """A session for the sites of `context.cohort`; it archives nothing."""
        return PlainServer(context)

    def resume(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes) -> PlainServer:
        """Raises Malformed: no session ever gave a blob."""
        raise Malformed("a plain round keeps nothing to go on with")

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """Nothing is needed."""
        return b""

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean. Raises FaultyServer or Malformed for what is no sum of this round."""
        record = self._record(aggregate)
        if record.header != context.header:
            raise FaultyServer("the record belongs to another round")
        manifest, quantizer = context.manifest, quantizer_of(context)
        words = require_words(aggregate, quantizer.words + len(WORDS))
        tally = Tally.from_sum(words[-len(WORDS) :], len(record.sites), manifest.size, manifest.quantizer.weight_cap)
        opened = quantizer.open(words[: -len(WORDS)], tally.weight)
        levels = manifest.quantizer.levels
        range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, levels)
        transcript = hashlib.sha256(aggregate.head).digest()
        return Mean(opened.values, tally.totals(manifest.size), record.sites, transcript, range_q40)

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header that the record names. Raises Malformed."""
        return self._record(aggregate).header

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """Raises Malformed: nothing was archived."""
        raise Malformed("a plain round keeps no vectors")

    def _record(self, aggregate: Packet) -> PlainAggregate:
        return PlainAggregate.decode(aggregate.head)


def register() -> None:
    """Makes the scheme known to this process."""
    SCHEMES[NAME] = PlainScheme()
