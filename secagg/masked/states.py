"""What a site keeps between two messages of masked mode, and no longer than it must (spec §11.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from secagg.errors import Malformed
from secagg.masked.messages import KeyAdvert, MaskedVector, ShareStatement
from secagg.primitives.shamir import SHARE_BYTES
from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Range, Struct, tag_of

OneShare = Annotated[bytes, Length(SHARE_BYTES, SHARE_BYTES)]


@dataclass(frozen=True, slots=True, repr=False)
class Secret(Struct):
    """Base of states: prints its name only."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


@dataclass(frozen=True, slots=True, repr=False)
class Fresh(Secret):
    """The update is ready; nothing was sent."""

    TAG = 30


@dataclass(frozen=True, slots=True, repr=False)
class Advertised(Secret):
    """The site has sent its advert."""

    TAG = 31
    cohort: Annotated[tuple[Name, ...], Items(1, MAX_SITES, by="")]
    advert: KeyAdvert
    share_secret: Key32
    mask_secret: Key32
    seed: Key32  # b


@dataclass(frozen=True, slots=True, repr=False)
class Shared(Secret):
    """The site has dealt its shares; it still holds the secrets that open boxes and make masks."""

    TAG = 32
    adverts: Annotated[tuple[KeyAdvert, ...], Items(1, MAX_SITES)]
    statement: ShareStatement
    share_secret: Key32
    mask_secret: Key32
    seed: Key32
    own_key_share: OneShare
    own_seed_share: OneShare


@dataclass(frozen=True, slots=True, repr=False)
class HeldShares(Secret):
    """A site's shares of another site's secrets."""

    site: Name
    key_share: OneShare
    seed_share: OneShare


@dataclass(frozen=True, slots=True, repr=False)
class Masked(Secret):
    """The masked words have left; update, mask secrets and b are gone, shares of others remain."""

    TAG = 33
    share_set: Digest
    held: Annotated[tuple[HeldShares, ...], Items(1, MAX_SITES)]  # one per site of U2
    vector: MaskedVector


@dataclass(frozen=True, slots=True, repr=False)
class Signed(Secret):
    """The site has signed one survivor set."""

    TAG = 34
    survivor_set: Digest
    survivors: Annotated[tuple[Name, ...], Items(1, MAX_SITES, by="")]
    held: Annotated[tuple[HeldShares, ...], Items(1, MAX_SITES)]


@dataclass(frozen=True, slots=True, repr=False)
class Spent(Secret):
    """No secret is left. released: 1 if unmask shares were made."""

    TAG = 35
    survivor_set: Digest
    released: Annotated[int, Range(0, 1)]


@dataclass(frozen=True, slots=True, repr=False)
class Checked(Secret):
    """The site has given its projections for one record of the round."""

    TAG = 36
    record: Digest


State = Fresh | Advertised | Shared | Masked | Signed | Spent | Checked
STATES: dict[int, type[State]] = {
    state.TAG: state for state in (Fresh, Advertised, Shared, Masked, Signed, Spent, Checked)
}


def decode_state(blob: bytes) -> State:
    """The state that was encoded. Raises Malformed."""
    state = STATES.get(tag_of(blob))
    if state is None:
        raise Malformed("not a state of masked mode")
    return state.decode(blob)
