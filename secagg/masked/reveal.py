"""How shares become secrets that match their commitments, and who gave a false share (spec §11.6.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from secagg.config import RoundContext
from secagg.errors import FaultySite, Malformed, SecAggError
from secagg.masked.messages import KeyAdvert, Share, UnmaskShares, seed_commitment
from secagg.masked.params import MOST_LIARS
from secagg.primitives.agreement import public_key
from secagg.primitives.shamir import combine

Faults = dict[str, SecAggError]
Shares = Mapping[str, Mapping[str, bytes]]  # owner of the secret -> giver -> share


def reveal_seeds(
    context: RoundContext, adverts: Mapping[str, KeyAdvert], given: Mapping[str, UnmaskShares]
) -> tuple[dict[str, bytes], Faults]:
    """b of every survivor, checked against H(b), and the givers of false shares.

    A giver is named when leaving out its share gives the committed seed; its dealer may have wronged it.
    Raises FaultySite naming the dealer if no guess does.
    """

    def is_right(site: str, secret: bytes) -> bool:
        return seed_commitment(context.digest, secret) == adverts[site].seed_commitment

    return _reveal(context, _by_owner({name: each.seeds for name, each in given.items()}), is_right)


def reveal_keys(
    context: RoundContext, adverts: Mapping[str, KeyAdvert], given: Mapping[str, UnmaskShares]
) -> tuple[dict[str, bytes], Faults]:
    """The mask secret of every dropout, checked against its advertised mask key; faults as above."""

    def is_right(site: str, secret: bytes) -> bool:
        return public_key(secret) == adverts[site].mask_key

    return _reveal(context, _by_owner({name: each.keys for name, each in given.items()}), is_right)


def _by_owner(given: Mapping[str, tuple[Share, ...]]) -> Shares:
    owners: dict[str, dict[str, bytes]] = {}
    for giver, shares in given.items():
        for each in shares:
            owners.setdefault(each.site, {})[giver] = each.share
    return owners


def _reveal(
    context: RoundContext, shares: Shares, is_right: Callable[[str, bytes], bool]
) -> tuple[dict[str, bytes], Faults]:
    secrets: dict[str, bytes] = {}
    faults: Faults = {}
    for owner in sorted(shares):
        for left_out in _guesses(sorted(shares[owner]), frozenset(faults), context.manifest.threshold):
            rest = {giver: share for giver, share in shares[owner].items() if giver not in left_out}
            secret = _combine(context, rest)
            if secret is not None and is_right(owner, secret):
                break
        else:
            raise FaultySite(owner, "its shares do not belong together, or more givers lie than can be named")
        secrets[owner] = secret
        for giver in left_out - frozenset(faults):
            faults[giver] = FaultySite(giver, f"it gave (or {owner} dealt it) a false share of {owner}'s secret")
    return secrets, faults


def _guesses(givers: Sequence[str], suspects: frozenset[str], threshold: int) -> Iterator[frozenset[str]]:
    """Whose shares to leave out: nobody's, those found false before, anyone's, as long as enough are left."""
    yield frozenset()
    spare = len(givers) - threshold
    if 0 < len(suspects) <= spare:
        yield suspects
    for count in range(1, min(spare, MOST_LIARS) + 1):
        yield from map(frozenset, combinations(givers, count))


def _combine(context: RoundContext, given: Mapping[str, bytes]) -> bytes | None:
    """The secret of the first t shares, or None if they are shares of none."""
    by_point = {context.points[giver]: share for giver, share in given.items()}
    try:
        return combine(by_point, context.manifest.threshold)
    except Malformed:
        return None
