"""The messages around the rounds: how a session is proposed, agreed to, and goes on (spec §7.4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from secagg.chain import Position
from secagg.config import MAX_ROUNDS, MAX_SIZE, VERSION, Setting
from secagg.errors import FaultySite
from secagg.identity import Roster, SiteKeys
from secagg.labels import (
    SIGN_CONSENT,
    SIGN_HELLO,
    SIGN_MODEL_CARD,
    SIGN_OPENING_FOR,
    SIGN_OPENING_WANTED,
    SIGN_READY,
)
from secagg.primitives.signature import is_signed
from secagg.vector import Layout
from secagg.wire import Digest, Items, Key32, Length, Name, Range, Signature, Struct

MAX_TENSORS: Final = 20_000
MAX_OPENING: Final = 1 << 16  # bytes of a sealed opening
MAX_AGGREGATES: Final = 63  # in one message, behind the request that announces them


@dataclass(frozen=True, slots=True)
class Hello(Struct):
    """Server to site: who are you? The nonce is fresh."""

    TAG = 40
    nonce: Key32


@dataclass(frozen=True, slots=True)
class Here(Struct):
    """Site to server: its name, over the server's nonce."""

    TAG = 41
    site: Name
    nonce: Key32
    signature: Signature


@dataclass(frozen=True, slots=True)
class Proposal(Struct):
    """Server to site: model and settings of a session to be; the site loads them and says what it found."""

    TAG = 42
    version: Annotated[int, Range(VERSION, VERSION)]
    scheme: Name
    nonce: Key32  # the manifest's, and the seed of the initial adapter
    roster: Digest
    settings: Annotated[tuple[Setting, ...], Items(0, 64, by="name")]


@dataclass(frozen=True, slots=True)
class Tensor(Struct):
    """Name and shape of one tensor of the adapter."""

    name: Annotated[str, Length(1, 512)]
    rows: Annotated[int, Range(1, MAX_SIZE)]
    columns: Annotated[int, Range(1, MAX_SIZE)]


@dataclass(frozen=True, slots=True)
class ModelCard(Struct):
    """Site to server: digests of what it loaded; all sites of a session must say the same."""

    TAG = 43
    LIMIT = 1 << 22
    site: Name
    nonce: Key32
    tensors: Annotated[tuple[Tensor, ...], Items(1, MAX_TENSORS, by="name")]
    base_model: Digest
    tokenizer: Digest
    lora_config: Digest
    initial_adapter: Digest
    signature: Signature

    def layout(self) -> Layout:
        """The adapter's layout. Raises Misuse if the names are unsorted."""
        return Layout(tuple((each.name, (each.rows, each.columns)) for each in self.tensors))


@dataclass(frozen=True, slots=True)
class Consent(Struct):
    """Site to server, in reply to a Manifest: it agrees to the session, and where it stands in it."""

    TAG = 44
    site: Name
    position: Position
    signature: Signature


@dataclass(frozen=True, slots=True)
class RoundStart(Struct):
    """Server to site: train for this round. The aggregates of the rounds the site missed follow, in order.

    attempts: the attempt in which each of those aggregates was made.
    """

    TAG = 45
    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempts: Annotated[tuple[Annotated[int, Range(1, 1000)], ...], Items(0, MAX_AGGREGATES, by=None)]


@dataclass(frozen=True, slots=True)
class Ready(Struct):
    """Site to server: it stands here and holds an update for the next round."""

    TAG = 46
    site: Name
    position: Position
    signature: Signature


@dataclass(frozen=True, slots=True)
class AttemptRef(Struct):
    """Goes before every request of a scheme: which attempt it belongs to."""

    TAG = 47
    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempt: Annotated[int, Range(1, 1000)]


@dataclass(frozen=True, slots=True)
class Finish(Struct):
    """Server to site: the session ends after `rounds` rounds, whose last aggregates follow; save the adapter.

    The reply is Ready.
    """

    TAG = 48
    session: Digest
    rounds: Annotated[int, Range(0, MAX_ROUNDS)]
    attempts: Annotated[tuple[Annotated[int, Range(1, 1000)], ...], Items(0, MAX_AGGREGATES, by=None)]


@dataclass(frozen=True, slots=True)
class OpeningRequest(Struct):
    """Server to site: it could not open this round's aggregate; what shall a peer seal the opening to?"""

    TAG = 49
    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempt: Annotated[int, Range(1, 1000)]


@dataclass(frozen=True, slots=True)
class OpeningWanted(Struct):
    """Site to server, and on to a peer: a fresh X25519 key, for what opens the aggregate of one attempt."""

    TAG = 50
    site: Name
    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempt: Annotated[int, Range(1, 1000)]
    key: Key32
    signature: Signature

    def digest(self) -> bytes:
        """32 bytes that name the request."""
        return hashlib.sha256(self.encode()).digest()


@dataclass(frozen=True, slots=True)
class OpeningFor(Struct):
    """Peer to server, and on to the site that wants it: the opening, sealed to the key in its request."""

    TAG = 51
    site: Name
    wanted: Digest  # of the request
    sealed: Annotated[bytes, Length(1, MAX_OPENING)]
    signature: Signature


SIGNED: Final[dict[type[Struct], bytes]] = {
    Here: SIGN_HELLO,
    ModelCard: SIGN_MODEL_CARD,
    Consent: SIGN_CONSENT,
    Ready: SIGN_READY,
    OpeningWanted: SIGN_OPENING_WANTED,
    OpeningFor: SIGN_OPENING_FOR,
}

_S = TypeVar("_S", Here, ModelCard, Consent, Ready, OpeningWanted, OpeningFor)


def signed_by(keys: SiteKeys, draft: _S) -> _S:
    """The same message under the site's signature (the one it holds is ignored)."""
    fields = {name: getattr(draft, name) for name in type(draft).__dataclass_fields__}
    signature = keys.sign(SIGNED[type(draft)], draft.unsigned())
    return type(draft)(**{**fields, "signature": signature})


def require_from(roster: Roster, site: str, message: _S) -> _S:
    """The message, known to be the site's. Raises FaultySite or Refused."""
    key = roster.entry(site).identity_key
    if message.site != site:
        raise FaultySite(site, "it answered in another site's name")
    if not is_signed(key, message.signature, SIGNED[type(message)], message.unsigned()):
        raise FaultySite(site, f"its {type(message).__name__} is not signed by its key on the roster")
    return message
