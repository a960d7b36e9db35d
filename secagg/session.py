"""The one interface of every scheme: sessions that turn a packet into a packet (spec §3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.errors import Misuse, SecAggError

if TYPE_CHECKING:
    from secagg.config import Manifest, Policy, RoundContext, RoundHeader
    from secagg.identity import ServerKeys, SiteKeys

Words = NDArray[np.uint64]
Rng = Callable[[int], bytes]  # n -> n bytes from the operating system
IDENTITY: Final = "identity"  # kinds of keys that a scheme may need: each site's own,
SHARED_KEY: Final = "shared-key"  # and one that the sites share and the server lacks


@dataclass(frozen=True, slots=True)
class Packet:
    """One message: a small encoded head, and the vector it is about, if any, beside it.

    words: uint64, shape (k,); travels as k little-endian 8-byte words.
    """

    head: bytes
    words: Words | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a site counts and measures in one round; only sums over sites ever leave in the clear.

    examples: 1..2^28. train_loss, eval_loss: mean nats, 0..1024. eval_tokens: 0..2^28. Prints without them.
    """

    examples: int = field(repr=False)
    train_loss: float = field(repr=False)
    eval_loss: float = field(repr=False)
    eval_tokens: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class Update:
    """One site's private input to a round.

    values: float32 (d,), the trained adapter minus the round's global adapter. weight: 1..weight cap.
    """

    values: NDArray[np.float32] = field(repr=False)
    weight: int = field(repr=False)
    metrics: Metrics = field(repr=False)

    def __repr__(self) -> str:
        return f"Update(d={self.values.size})"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What the server ends a round with and sends to every site; `contributors` are the survivors."""

    payload: Packet
    contributors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the survivors of the metrics; losses are means weighted by examples and by tokens.

    clipped: fraction of all sites' values outside the range.
    """

    sites: int
    weight: int
    examples: int
    train_loss: float
    eval_loss: float
    eval_tokens: int
    clipped: float


@dataclass(frozen=True, slots=True)
class Mean:
    """The weighted mean update, float32 (d,), bit-identical at every site, and the totals."""

    values: NDArray[np.float32] = field(repr=False)
    totals: Totals
    contributors: tuple[str, ...]
    transcript: bytes  # 32 bytes; what the next round's header calls `previous`
    next_range_q40: int  # quantisation range of the next round, in units of 2^-40


@dataclass(frozen=True, slots=True)
class Audit:
    """What the survivors' own vectors say of a round whose record holds (spec §15.3). Sites stand in ascending order.

    signatures: on the survivor set. secrets: how many were revealed, each the committed one. is_named: the sum is the
    one that its record names. wrong_words: in how many words the sum is not the vectors' less their masks; None unless
    every survivor's vector was there, as it was signed.
    """

    transcript: bytes  # 32 bytes: the record's digest
    survivors: tuple[str, ...]
    signatures: int
    secrets: int
    missing: tuple[str, ...]  # survivors whose vectors were not there
    altered: tuple[str, ...]  # survivors whose vectors are not those they signed
    projected: tuple[str, ...]  # survivors that signed projections of their vectors
    false: tuple[str, ...]  # those of them whose projections are not of the vectors they signed
    words: int  # of the sum
    is_named: bool
    wrong_words: int | None


class ClientSession(Protocol):
    """One site's side of one attempt of one round."""

    @property
    def stage(self) -> str:
        """Name of the state: what the durable log records before a reply leaves."""

    @property
    def released(self) -> bool:
        """Whether an unmask share has been made in this attempt."""

    @property
    def evidence(self) -> bytes:
        """32 bytes that the durable log keeps beside the stage."""

    def handle(self, request: Packet) -> Packet:
        """The reply. Raises a SecAggError, after which the session is unchanged or spent."""

    def to_bytes(self) -> bytes:
        """The whole state, secret; `Scheme.restore` takes it back."""


class Archive(Protocol):
    """Where a server session keeps what each site contributed, until the round is over and an auditor may ask."""

    def put(self, site: str, words: Words) -> None:
        """Keeps a site's words, uint64; once per site."""

    def get(self, site: str) -> Words:
        """The words that were put."""

    def sites(self) -> Set[str]:
        """Whose words are here."""


class InMemory:
    """An archive for tests and small rounds."""

    def __init__(self) -> None:
        self._words: dict[str, Words] = {}

    def put(self, site: str, words: Words) -> None:
        """Keeps the array itself."""
        self._words[site] = words

    def get(self, site: str) -> Words:
        """The array."""
        return self._words[site]

    def sites(self) -> Set[str]:
        """Whose arrays are here."""
        return self._words.keys()


class ServerSession(Protocol):
    """The server's side of one attempt of one round."""

    faults: dict[str, SecAggError]  # sites whose reply was refused in this attempt, and why

    @property
    def phase(self) -> str:
        """Name of the phase that `requests` belongs to."""

    @property
    def done(self) -> bool:
        """Whether `result` is ready."""

    def requests(self) -> Mapping[str, Packet]:
        """What to send to which site now."""

    def receive(self, replies: Iterable[tuple[str, Packet]]) -> None:
        """Consumes replies as they arrive; a site that is missing when they end has dropped out.

        Raises TooFewSites if the round cannot be completed.
        """

    def result(self) -> Aggregate:
        """The aggregate. Raises Misuse before `done`."""

    def to_bytes(self) -> bytes:
        """What ends the round without asking any secret again, together with the archive; empty until there is such."""


class Scheme(Protocol):
    """How updates are protected: one folder of secagg each, listed in `secagg.schemes` alone."""

    name: str
    needs: frozenset[str]  # kinds of keys that provisioning must have made
    options: frozenset[str]  # the manifest's options that it knows
    caution: str  # what the other schemes protect and this one does not, for whoever agrees to it; empty if nothing

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """Checks what a site must find in a manifest besides what its policy says. Raises Refused."""

    def most_words(self, manifest: Manifest) -> int:
        """Words of the longest vector that a site sends."""

    def client(self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng) -> ClientSession:
        """A fresh session. Raises Refused if the policy forbids the manifest, Misuse for a wrong update."""

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> ClientSession:
        """The session that `to_bytes` wrote. Raises Malformed, or Misuse if it still needs the update.

        sent: the words that a reply of this session had beside it; without them it may refuse later requests.
        """

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> ServerSession:
        """A session for the sites of `context.cohort`. archive: empty, and of this attempt alone."""

    def resume(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes) -> ServerSession:
        """The session whose `to_bytes` gave `blob`, in its last phase. Raises Malformed if they do not fit."""

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """What `open` needs besides the aggregate; empty if nothing is needed, or this site does not have it.

        state: the last `to_bytes` of this site's session, if it took part. The result is secret from the server, and
        may be lent to every site of the session. Raises Malformed or Refused.
        """

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean, after every check a site can make. Raises FaultyServer or Malformed.

        Sealed without an opening that opens it: the checks that take none come first.
        """

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header that the record of an aggregate names, whatever it is worth. Raises Malformed."""

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """What the vectors in the archive, as many as there are, say of the sum. Raises Malformed or by blame.

        It says more than `open` where they are there, and takes its place nowhere. One vector is in memory at a time.
        """


def require_words(packet: Packet, count: int) -> Words:
    """The packet's vector. Raises Misuse unless it has `count` uint64 words."""
    if packet.words is None or packet.words.dtype != np.uint64 or packet.words.shape != (count,):
        raise Misuse(f"expected a vector of {count} words")
    return packet.words
