"""The server's side in ckks-shared mode: it adds ciphertexts, and has no key at all (spec §21.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from secagg.ckks_shared import frames
from secagg.ckks_shared.checks import require_contribution
from secagg.ckks_shared.messages import Contribution, SumRecord, ciphertext_digest
from secagg.ckks_shared.payload import packing_of
from secagg.config import RoundContext
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Misuse, SecAggError, TooFewSites
from secagg.identity import ServerKeys
from secagg.labels import SIGN_ROUND_OPEN
from secagg.masked.messages import RoundOpen, sum_words_digest
from secagg.primitives.signature import sign
from secagg.session import Aggregate, Archive, Packet, require_words

PHASE = "contribute"


class SharedCkksServer:
    """Implements `secagg.session.ServerSession`; sums frames as they arrive."""

    def __init__(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> None:
        """archive: keeps the contributions, for whoever checks the sum later."""
        self.faults: dict[str, SecAggError] = {}
        self._context, self._archive = context, archive
        draft = RoundOpen(context.header, tuple(sorted(context.cohort)), bytes(64))
        signature = sign(keys.identity, SIGN_ROUND_OPEN, context.digest, draft.unsigned())
        self._opened = replace(draft, signature=signature)
        self._sum = np.zeros(packing_of(context.manifest).words, np.uint64)
        self._contributions: dict[str, Contribution] = {}
        self._void = False
        self._result: Aggregate | None = None

    @property
    def phase(self) -> str:
        """'contribute' or 'done'."""
        return "done" if self.done else PHASE

    @property
    def done(self) -> bool:
        """Whether `result` is ready."""
        return self._result is not None

    def requests(self) -> Mapping[str, Packet]:
        """The one request, to every site of the cohort. Raises Misuse when done or void."""
        self._require_open()
        head = self._opened.encode()
        return {site: Packet(head) for site in self._opened.cohort}

    def receive(self, replies: Iterable[tuple[str, Packet]]) -> None:
        """Adds each contribution as it arrives; who is missing at the end is not in the sum.

        A faulty one goes into `faults` and counts as missing. Raises TooFewSites; then the attempt is void.
        """
        self._require_open()
        try:
            for site, packet in replies:
                self._take(site, packet)
            least = self._context.manifest.least_survivors
            if len(self._contributions) < least:
                raise TooFewSites(len(self._contributions), least)
        except BaseException:
            self._void = True  # a sum that an error left half made must not go on
            raise
        contributions = tuple(self._contributions[site] for site in sorted(self._contributions))
        record = SumRecord(self._opened, contributions, sum_words_digest(self._context.digest, self._sum))
        self._result = Aggregate(Packet(record.encode(), self._sum), record.survivors())

    def _take(self, site: str, packet: Packet) -> None:
        if site in self._contributions or site not in self._opened.cohort:
            self.faults.setdefault(site, FaultySite(site, f"an answer to {PHASE} nobody asked for"))
            return
        try:
            self._accept(site, packet)
        except (Malformed, FaultySite, FaultyPeerOrServer, Misuse) as error:
            self.faults[site] = error

    def _accept(self, site: str, packet: Packet) -> None:
        """Checks before it adds: the sum changes as a whole or not at all."""
        message = Contribution.decode(packet.head)
        if message.site != site:
            raise FaultySite(site, "it answered in another site's name")
        require_contribution(self._context, message)
        words = require_words(packet, self._sum.size)
        if ciphertext_digest(self._context.digest, words) != message.words:
            raise FaultySite(site, "its words are not those it signed")
        try:
            frames.require_residues(words)
        except Malformed as error:
            raise FaultySite(site, f"its ciphertexts are none: {error}") from error
        self._archive.put(site, words)
        frames.add(self._sum, words)
        self._contributions[site] = message

    def _require_open(self) -> None:
        if self.done or self._void:
            raise Misuse("the attempt is done or void")

    def result(self) -> Aggregate:
        """The aggregate, which only who holds the shared key can open. Raises Misuse before `done`."""
        if self._result is None:
            raise Misuse("the round is not done")
        return self._result

    def to_bytes(self) -> bytes:
        """Nothing: the round is done with the phase that it has."""
        return b""
