"""The server's side of one attempt of one masked round: it routes, sums and unmasks (spec §11.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from secagg.config import RoundContext
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Misuse, SecAggError, TooFewSites
from secagg.identity import ServerKeys
from secagg.labels import (
    SIGN_MASKED_VECTOR,
    SIGN_PROJECTIONS,
    SIGN_ROUND_OPEN,
    SIGN_SURVIVORS,
    SIGN_UNMASK_SHARES,
)
from secagg.masked.checks import require_advert, require_signed, require_statements
from secagg.masked.graph import challenge_seed
from secagg.masked.masks import unmask
from secagg.masked.messages import (
    Box,
    KeyAdvert,
    KeyRoster,
    MaskedAggregate,
    MaskedVector,
    Projections,
    Revealed,
    RoundOpen,
    RoundRecord,
    SealedShares,
    ShareBundle,
    ShareStatement,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    boxes_digest,
    key_roster_digest,
    masked_words_digest,
    share_set_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.masked.opening import masks_in_sum, project_rest, total_of
from secagg.masked.payload import Payload, QuantizedUpdate, project_vector
from secagg.masked.reveal import reveal_keys, reveal_seeds
from secagg.primitives.signature import sign
from secagg.session import Aggregate, Archive, Packet, Words, require_words

PHASES: Final = ("advertise", "share", "mask", "consent", "unmask", "check")


class MaskedServer:
    """Implements `secagg.session.ServerSession`; learns the sum and nothing else."""

    def __init__(
        self, context: RoundContext, keys: ServerKeys, archive: Archive, payload: Payload | None = None,
        threads: int = 2,
    ) -> None:  # fmt: skip
        """context.cohort: the sites to ask. archive: takes the vectors as they come. payload: as at the sites.

        Raises TooFewSites, Misuse if the manifest names another key.
        """
        if keys.public != context.manifest.server_key:
            raise Misuse("this is not the key that the manifest names")
        if len(context.cohort) < context.manifest.least_survivors:
            raise TooFewSites(len(context.cohort), context.manifest.least_survivors)
        self.faults: dict[str, SecAggError] = {}
        self._context = context
        self._keys = keys
        self._archive = archive
        self._threads = threads
        self._phase = 0
        self._void = False
        self._adverts: dict[str, KeyAdvert] = {}
        self._statements: dict[str, ShareStatement] = {}
        self._boxes: dict[str, dict[str, Box]] = {}  # sender -> receiver -> box
        self._vectors: dict[str, MaskedVector] = {}
        self._payload = payload or QuantizedUpdate(context)
        self._sum = np.zeros(self._payload.words, np.uint64)
        self._tails = self._payload.tail_sum()
        self._signatures: dict[str, SurvivorSignature] = {}
        self._shares: dict[str, UnmaskShares] = {}
        self._masked_sum: Words = self._sum  # of the vectors, kept to compare with their projections
        self._record: RoundRecord | None = None
        self._transcript = b""
        self._checking: set[str] = set()  # who is asked for projections
        self._projections: dict[str, Projections] = {}
        self._result: Aggregate | None = None

    @classmethod
    def resumed(
        cls, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes, payload: Payload | None = None
    ) -> MaskedServer:
        """The session after its unmasking, from `to_bytes` and the archive. Raises Malformed if they do not fit."""
        record = RoundRecord.decode(blob)
        if record.header != context.header:
            raise Malformed("the record belongs to another attempt")
        survivors = tuple(each.site for each in record.vectors)
        server = cls(replace(context, cohort=survivors), keys, archive, payload)
        server._vectors = {each.site: each for each in record.vectors}
        for site in survivors:
            words = archive.get(site)
            if words.shape != (server._payload.words + server._payload.tail_words,):
                raise Malformed("the archive is not the one the record was made from")
            server._add(words)
        if server._unmasked(record) != record.sum_words:
            raise Malformed("the archive is not the one the record was made from")
        server._ask_about(record, set(survivors))
        server._phase = PHASES.index("check")
        return server

    def to_bytes(self) -> bytes:
        """The record of the round once it is unmasked; empty before."""
        return b"" if self._record is None else self._record.encode()

    @property
    def phase(self) -> str:
        """One of PHASES, or 'done'."""
        return PHASES[self._phase] if self._phase < len(PHASES) else "done"

    @property
    def done(self) -> bool:
        """Whether `result` is ready."""
        return self._result is not None

    def requests(self) -> Mapping[str, Packet]:
        """What to send to which site in this phase. Raises Misuse when done or void."""
        self._require_open()
        return _REQUESTS[self.phase](self)

    def receive(self, replies: Iterable[tuple[str, Packet]]) -> None:
        """Takes the phase's replies as they arrive, then closes the phase; who is missing has dropped out.

        A faulty reply goes into `faults` and counts as missing. Raises TooFewSites, or FaultySite for a site
        whose secret nobody can restore; then the attempt is void.
        """
        self._require_open()
        try:
            self._take(replies)
        except BaseException:
            self._void = True  # a sum that an error left half made must not go on
            raise
        self._phase += 1

    def _take(self, replies: Iterable[tuple[str, Packet]]) -> None:
        expected, accept, needed, close = self._plan()
        answered: set[str] = set()
        for site, packet in replies:
            if site in answered or site not in expected:
                self.faults.setdefault(site, FaultySite(site, f"an answer to {self.phase} nobody asked for"))
                continue
            try:
                if packet.words is not None and accept is not MaskedServer._accept_vector:
                    raise Malformed("only a masked vector carries words")
                accept(self, site, packet)
            except (Malformed, FaultySite, FaultyPeerOrServer, Misuse) as error:
                self.faults[site] = error
            else:
                answered.add(site)
        if len(answered) < needed:
            raise TooFewSites(len(answered), needed)
        if close:
            close(self)

    def _require_open(self) -> None:
        if self.done or self._void:
            raise Misuse("the attempt is done or void")

    def result(self) -> Aggregate:
        """The aggregate that every site verifies. Raises Misuse before `done`."""
        if self._result is None:
            raise Misuse("the round is not done")
        return self._result

    def _plan(self) -> tuple[set[str], _Accept, int, Callable[[MaskedServer], None] | None]:
        manifest = self._context.manifest  # its threshold is never below its quorum: 2t > n + c
        fewest, cohort = manifest.least_survivors, set(self._context.cohort)
        return {
            "advertise": (cohort, MaskedServer._accept_advert, fewest, None),
            "share": (set(self._adverts), MaskedServer._accept_shares, fewest, None),
            "mask": (set(self._statements), MaskedServer._accept_vector, fewest, None),
            "consent": (set(self._vectors), MaskedServer._accept_signature, manifest.threshold, None),
            "unmask": (set(self._signatures), MaskedServer._accept_unmask, manifest.threshold, _finish),
            "check": (self._checking, MaskedServer._accept_projections, 0, _settle),
        }[self.phase]

    # ------------------------------------------------------------------ trip 0

    def _open(self) -> dict[str, Packet]:
        draft = RoundOpen(self._context.header, tuple(sorted(self._context.cohort)), bytes(64))
        signature = sign(self._keys.identity, SIGN_ROUND_OPEN, self._context.digest, draft.unsigned())
        head = RoundOpen(draft.header, draft.cohort, signature).encode()
        return {site: Packet(head) for site in draft.cohort}

    def _accept_advert(self, site: str, packet: Packet) -> None:
        advert = KeyAdvert.decode(packet.head)
        _require_sender(site, advert.site)
        require_advert(self._context, advert)
        taken = {key for each in self._adverts.values() for key in (each.share_key, each.mask_key)}
        if taken & {advert.share_key, advert.mask_key}:
            raise FaultySite(site, "it advertises another site's key")
        self._adverts[site] = advert

    # ------------------------------------------------------------------ trip 1

    def _publish_keys(self) -> dict[str, Packet]:
        head = KeyRoster(_by_site(self._adverts)).encode()
        return {site: Packet(head) for site in self._adverts}

    def _accept_shares(self, site: str, packet: Packet) -> None:
        message = SealedShares.decode(packet.head)
        _require_sender(site, message.statement.site)
        adverts = _by_site(self._adverts)
        h1 = key_roster_digest(self._context.digest, adverts)
        require_statements(self._context, adverts, h1, [message.statement])
        if [box.site for box in message.boxes] != [name for name in sorted(self._adverts) if name != site]:
            raise FaultySite(site, "it did not deal one box to every other site")
        if boxes_digest(message.boxes) != message.statement.boxes:
            raise FaultySite(site, "its boxes are not those it signed")
        self._statements[site] = message.statement
        self._boxes[site] = {box.site: box for box in message.boxes}

    # ------------------------------------------------------------------ trip 2

    def _deliver_shares(self) -> dict[str, Packet]:
        statements, senders = _by_site(self._statements), sorted(self._statements)
        requests = {}
        for site in senders:
            boxes = tuple(Box(each, self._boxes[each][site].ciphertext) for each in senders if each != site)
            requests[site] = Packet(ShareBundle(statements, boxes).encode())
        return requests

    def _accept_vector(self, site: str, packet: Packet) -> None:
        """Checks before it adds: the sum changes as a whole or not at all."""
        message = MaskedVector.decode(packet.head)
        _require_sender(site, message.site)
        if message.share_set != share_set_digest(self._context.digest, _by_site(self._statements)):
            raise FaultySite(site, "it masked over another share set")
        require_signed(self._context, SIGN_MASKED_VECTOR, message, site, message.signature)
        words = require_words(packet, self._payload.words + self._payload.tail_words)
        if masked_words_digest(self._context.digest, words) != message.words:
            raise FaultySite(site, "its words are not those it signed")
        self._add(words)
        self._archive.put(site, words)
        self._vectors[site] = message

    def _add(self, vector: Words) -> None:
        """Adds a vector, as a whole or not at all. Raises Malformed for a tail that no site can have made."""
        masked, tail = vector[: self._payload.words], vector[self._payload.words :]
        if self._payload.tail_words:
            self._tails.add(tail)
        np.add(self._sum, masked, out=self._sum)

    # ------------------------------------------------------------------ trip 3

    def _ask_consent(self) -> dict[str, Packet]:
        head = SurvivorSet(_by_site(self._vectors)).encode()
        return {site: Packet(head) for site in self._vectors}

    def _h3(self) -> bytes:
        return survivor_set_digest(self._context.digest, _by_site(self._vectors))

    def _accept_signature(self, site: str, packet: Packet) -> None:
        message = SurvivorSignature.decode(packet.head)
        _require_sender(site, message.site)
        if message.survivor_set != self._h3():
            raise FaultySite(site, "it signed another survivor set")
        require_signed(self._context, SIGN_SURVIVORS, message, site, message.signature)
        self._signatures[site] = message

    # ------------------------------------------------------------------ trip 4

    def _prove(self) -> dict[str, Packet]:
        head = SurvivorProof(_by_site(self._signatures)).encode()
        return {site: Packet(head) for site in self._signatures}

    def _accept_unmask(self, site: str, packet: Packet) -> None:
        message = UnmaskShares.decode(packet.head)
        _require_sender(site, message.site)
        require_signed(self._context, SIGN_UNMASK_SHARES, message, site, message.signature)
        dropped = sorted(set(self._statements) - set(self._vectors))
        if message.survivor_set != self._h3():
            raise FaultySite(site, "it unmasks another survivor set")
        if [each.site for each in message.seeds] != sorted(self._vectors):
            raise FaultySite(site, "it did not give one seed share per survivor")
        if [each.site for each in message.keys] != dropped:
            raise FaultySite(site, "it did not give one key share per dropout")
        self._shares[site] = message

    def _finish(self) -> None:
        context = self._context
        seeds, faults = reveal_seeds(context, self._adverts, self._shares)
        keys, more = reveal_keys(context, self._adverts, self._shares)
        self.faults.update({**faults, **more})
        draft = RoundRecord(
            context.header,
            _by_site(self._adverts),
            _by_site(self._statements),
            _by_site(self._vectors),
            _by_site(self._signatures),
            _revealed(seeds),
            _revealed(keys),
            bytes(32),
        )
        self._ask_about(replace(draft, sum_words=self._unmasked(draft)), set(self._shares))

    def _unmasked(self, record: RoundRecord) -> bytes:
        """Takes the masks off the sum, by the secrets that the record reveals; the digest of what is left."""
        masks = masks_in_sum(self._context, record)
        self._masked_sum = self._sum.copy()
        unmask(self._sum, masks.minus, masks.plus, self._threads)
        return sum_words_digest(self._context.digest, self._sum_and_tail())

    def _sum_and_tail(self) -> Words:
        return np.concatenate((self._sum, self._tails.words())) if self._payload.tail_words else self._sum

    def _ask_about(self, record: RoundRecord, sites: set[str]) -> None:
        self._record, self._transcript, self._checking = record, record.transcript(), sites

    # ------------------------------------------------------------------ trip 5

    def _publish_record(self) -> dict[str, Packet]:
        head = self._settled_record().encode()
        return {site: Packet(head) for site in sorted(self._checking)}

    def _settled_record(self) -> RoundRecord:
        if self._record is None:
            raise Misuse("the sum is not unmasked yet")
        return self._record

    def _accept_projections(self, site: str, packet: Packet) -> None:
        message = Projections.decode(packet.head)
        _require_sender(site, message.site)
        if message.record != self._transcript:
            raise FaultySite(site, "it projects for another record")
        require_signed(self._context, SIGN_PROJECTIONS, message, site, message.signature)
        self._projections[site] = message

    def _settle(self) -> None:
        """Leaves out false projections, and puts the words of every site without any behind the sum."""
        if not self._is_proved():
            self._drop_false_projections()
        silent = [site for site in sorted(self._vectors) if site not in self._projections]
        words = self._sum_and_tail()
        if silent:
            words = np.concatenate([words, *map(self._archive.get, silent)])
        head = MaskedAggregate(self._settled_record(), _by_site(self._projections))
        self._result = Aggregate(Packet(head.encode(), words), tuple(sorted(self._vectors)))

    def _is_proved(self) -> bool:
        silent = [self._archive.get(site) for site in self._vectors.keys() - self._projections.keys()]
        tail = self._tails.words() if self._payload.tail_words else self._sum[:0]
        seed = challenge_seed(self._context, self._transcript)
        expected = project_rest(self._payload, seed, [self._masked_sum], tail, silent)
        return np.array_equal(expected, total_of(_by_site(self._projections)))

    def _drop_false_projections(self) -> None:
        seed = challenge_seed(self._context, self._transcript)
        for site, message in list(self._projections.items()):
            if not np.array_equal(message.words(), project_vector(self._payload, seed, self._archive.get(site))):
                self.faults[site] = FaultySite(site, "its projections are not of the words it sent")
                del self._projections[site]


_T = TypeVar("_T")
_Accept = Callable[[MaskedServer, str, Packet], None]
_finish: Final = MaskedServer._finish
_settle: Final = MaskedServer._settle
_REQUESTS: Final[dict[str, Callable[[MaskedServer], Mapping[str, Packet]]]] = {
    "advertise": MaskedServer._open,  # spec §11.6
    "share": MaskedServer._publish_keys,
    "mask": MaskedServer._deliver_shares,
    "consent": MaskedServer._ask_consent,
    "unmask": MaskedServer._prove,
    "check": MaskedServer._publish_record,
}


def _require_sender(asked: str, named: str) -> None:
    if asked != named:
        raise FaultySite(asked, "it answered in another site's name")


def _by_site(items: Mapping[str, _T]) -> tuple[_T, ...]:
    return tuple(items[site] for site in sorted(items))


def _revealed(secrets: Mapping[str, bytes]) -> tuple[Revealed, ...]:
    return tuple(Revealed(site, secrets[site]) for site in sorted(secrets))
