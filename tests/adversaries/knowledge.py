"""What an adversary can compute from all it has seen: every secret, and every sum of updates that is open to it.

`what_it_can_compute` does all that the protocol allows:

1. it opens every box that was sealed to a colluder, and collects these shares and those that sites released;
2. it rebuilds every secret of which t shares of any mixture fit together, and checks it against its public value;
   in ckks mode it also opens every blind box that was sealed to a colluder;
3. it strips every masked vector of every mask, and every pad, that such a secret, or one of a colluder, derives;
4. what is left of each vector is the site's words plus masks it does not have. A linear combination in which those
   cancel is an open sum. All of them follow from a basis, which Gaussian elimination finds.

In ckks mode the words are those of a one-time key, and the sum of keys opens the sum of ciphertexts: their self-masks
come from the same seeds as those of the words.

So the basis says exactly which sums of honest updates the adversary has. It is empty before an attempt is opened, and
after that it is one vector: every honest survivor once. (That the masks between the honest survivors connect them all
is part of it: were there two components, each would be a sum of its own.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, product
from math import lcm

import numpy as np

from secagg.ckks.messages import BlindRoster, BlindShares
from secagg.ckks.payload import pad_seed
from secagg.config import RoundContext
from secagg.errors import Malformed
from secagg.masked.graph import box_aad, box_key, pair_seed, self_seed
from secagg.masked.messages import (
    KeyAdvert,
    KeyRoster,
    MaskedVector,
    SealedShares,
    ShareBundle,
    ShareStatement,
    UnmaskShares,
    key_roster_digest,
    seed_commitment,
    share_set_digest,
)
from secagg.primitives.aead import unseal
from secagg.primitives.agreement import agree, public_key
from secagg.primitives.shamir import SHARE_BYTES, combine
from secagg.wire import tag_of
from tests.adversaries.forms import Open, Sent, blind_seeds_dealt, masked_part
from tests.adversaries.lab import Heard, View
from tests.adversaries.parties import expand, form_of

Terms = dict[int, int]  # index of a vector -> how often it is in the sum


@dataclass(frozen=True)
class Mask:
    """One mask: of two sites and their mask keys, in order of place, or of one and its commitment to a seed.

    share_set: empty for a blind pad, which is the same over every share set.
    """

    header: bytes
    share_set: bytes
    sites: tuple[str, ...]
    public: tuple[bytes, ...]


@dataclass
class Vector:
    """One vector of an honest site, and the masks on it with their signs. residual: without the masks known."""

    machine: str
    site: str
    context: RoundContext
    share_set: bytes
    words: np.ndarray
    sent: Sent
    masks: dict[Mask, int]
    unknown: dict[Mask, int] = field(default_factory=dict)
    residual: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))


@dataclass
class Knowledge:
    """What follows from a view. secrets: by public value. sums: a basis of the open ones."""

    secrets: dict[bytes, bytes]
    adverts: list[KeyAdvert]  # of honest sites
    vectors: list[Vector]
    sums: list[Terms]

    def both(self) -> set[str]:
        """The honest sites of which it has mask secret and self-mask seed of one attempt."""
        return {a.site for a in self.adverts if {a.mask_key, a.seed_commitment} <= self.secrets.keys()}

    def open_to(self) -> list[dict[str, int]]:
        """The open sums by machine: how often each one's update is in it."""
        return [{self.vectors[i].machine: times for i, times in sorted(terms.items())} for terms in self.sums]

    def value(self, terms: Terms) -> np.ndarray:
        """The words of an open sum."""
        total = np.zeros_like(self.vectors[min(terms)].residual)
        for index, times in terms.items():
            total += self.vectors[index].residual * np.uint64(times % (1 << 64))
        sent = [self.vectors[index].sent for index in terms]
        return form_of(sent[0].context).value(Open(sent, list(terms.values()), total, self.secrets))


def what_it_can_compute(view: View) -> Knowledge:
    """Everything that follows from the view."""
    contexts = {each.digest: each.context for each in view.heard}
    rosters, sets = _lists(view)
    secrets = _of_colluders(view, contexts.values()) | _blind_seeds(view, rosters) | view.stolen
    adverts = [advert for _, advert in view.replies(KeyAdvert)]
    pool = _shares(view, contexts, rosters)
    for heard, advert in view.replies(KeyAdvert):
        secrets |= _rebuilt(heard.context, advert, pool)
    vectors = [_vector(heard, message, rosters, sets) for heard, message in view.replies(MaskedVector)]
    for vector in vectors:
        _strip(vector, secrets)
    return Knowledge(secrets, adverts, vectors, _open_sums(vectors))


# ---------------------------------------------------------------------- what was said


@dataclass(frozen=True)
class Listed:
    """U1 as a site accepted it. blind: with what ckks mode has around it, if it is of that mode."""

    adverts: tuple[KeyAdvert, ...]
    blind: BlindRoster | None

    def commitment(self, site: str) -> bytes | None:
        """Of the blind seed of a site, if there are such."""
        return None if self.blind is None else next(e.commitment for e in self.blind.adverts if e.site == site)


Rosters = dict[tuple[bytes, bytes], Listed]
Sets = dict[tuple[bytes, bytes], tuple[ShareStatement, ...]]
Pool = dict[tuple[bytes, str, str], dict[int, set[bytes]]]  # header, owner, kind -> point -> shares


def _lists(view: View) -> tuple[Rosters, Sets]:
    rosters, sets = {}, {}
    for each in (each for each in view.heard if not each.refusal):
        head = masked_part(each.request)
        if tag_of(head) == KeyRoster.TAG:
            adverts = KeyRoster.decode(head).adverts
            blind = None if head == each.request else BlindRoster.decode(each.request)
            rosters[each.digest, key_roster_digest(each.digest, adverts)] = Listed(adverts, blind)
        if tag_of(head) == ShareBundle.TAG:
            statements = ShareBundle.decode(head).statements
            sets[each.digest, share_set_digest(each.digest, statements)] = statements
    return rosters, sets


def _vector(heard: Heard, message: MaskedVector, rosters: Rosters, sets: Sets) -> Vector:
    context, site, h2 = heard.context, heard.site, message.share_set
    statements = sets[heard.digest, h2]
    roster = rosters[heard.digest, statements[0].key_roster]
    words, count = np.frombuffer(heard.words, "<u8"), form_of(context).payload(context).words
    commitment = next(each.seed_commitment for each in roster.adverts if each.site == site)
    sent = Sent(site, context, h2, message.words, commitment, words[count:].astype(np.uint64))
    masks = _masks(context, site, h2, roster, statements)
    return Vector(heard.machine, site, context, h2, words[:count].astype(np.uint64), sent, masks)


def _of_colluders(view: View, contexts: Iterable[RoundContext]) -> dict[bytes, bytes]:
    secrets = {}
    for own in (own for colluder in view.colluders.values() for own in colluder.own):
        secrets[public_key(own.mask_secret)] = own.mask_secret
        secrets |= {seed_commitment(context.digest, own.seed): own.seed for context in contexts}
    return secrets


def _blind_seeds(view: View, rosters: Rosters) -> dict[bytes, bytes]:
    """By commitment: what honest sites dealt to colluders."""
    found = {}
    for heard, message in view.replies(BlindShares):
        listed = rosters[heard.digest, message.shares.statement.key_roster].blind
        assert listed is not None
        found |= blind_seeds_dealt(heard.context, listed, heard.site, message, view.colluders)
    return found


# ---------------------------------------------------------------------- secrets


def _shares(view: View, contexts: Mapping[bytes, RoundContext], rosters: Rosters) -> Pool:
    pool: Pool = defaultdict(lambda: defaultdict(set))
    for heard, message in view.replies(SealedShares):
        adverts = {each.site: each for each in rosters[heard.digest, message.statement.key_roster].adverts}
        for box in (box for box in message.boxes if box.site in view.colluders):
            secret = _share_secret(view, adverts[box.site])
            key = box_key(heard.context, agree(secret, adverts[heard.site].share_key), heard.site, box.site)
            plain = unseal(
                key, box.ciphertext, box_aad(heard.context, message.statement.key_roster, heard.site, box.site)
            )
            point = heard.context.points[box.site]
            pool[heard.digest, heard.site, "key"][point].add(plain[:SHARE_BYTES])
            pool[heard.digest, heard.site, "seed"][point].add(plain[SHARE_BYTES:])
    for heard, given in view.replies(UnmaskShares):
        for kind, shares in (("seed", given.seeds), ("key", given.keys)):
            for share in shares:
                pool[heard.digest, share.site, kind][heard.context.points[heard.site]].add(share.share)
    return pool


def _share_secret(view: View, advert: KeyAdvert) -> bytes:
    own = view.colluders[advert.site].own
    return next(each.share_secret for each in own if public_key(each.share_secret) == advert.share_key)


def _rebuilt(context: RoundContext, advert: KeyAdvert, pool: Pool) -> dict[bytes, bytes]:
    """Mask secret and seed of one advert, as far as there are shares; by public value."""
    rules: tuple[tuple[str, bytes, Callable[[bytes], bytes]], ...] = (
        ("key", advert.mask_key, public_key),
        ("seed", advert.seed_commitment, lambda secret: seed_commitment(context.digest, secret)),
    )
    found = {}
    for kind, public, publish in rules:
        for secret in _secrets(pool[context.digest, advert.site, kind], context.manifest.threshold):
            if publish(secret) == public:
                found[public] = secret
                break
    return found


def _secrets(shares: Mapping[int, set[bytes]], threshold: int) -> Iterable[bytes]:
    """What any t of the shares give."""
    for points in combinations(sorted(shares), threshold):
        for chosen in product(*(sorted(shares[x]) for x in points)):
            try:
                yield combine(dict(zip(points, chosen, strict=True)), threshold)
            except Malformed:
                continue


# ---------------------------------------------------------------------- masks


def _masks(
    context: RoundContext, site: str, h2: bytes, roster: Listed, statements: tuple[ShareStatement, ...]
) -> dict[Mask, int]:
    """The masks on a vector of the site over this share set, and its pad if it has one, with their signs."""
    adverts = {each.site: each for each in roster.adverts}
    pad = roster.commitment(site)
    masks = {} if pad is None else {Mask(context.digest, b"", (site,), (pad,)): 1}
    masks |= {Mask(context.digest, h2, (site,), (adverts[site].seed_commitment,)): 1}
    for peer in (each.site for each in statements if each.site != site):
        pair = tuple(sorted((site, peer), key=context.points.__getitem__))
        keys = tuple(adverts[each].mask_key for each in pair)
        masks[Mask(context.digest, h2, pair, keys)] = 1 if pair[0] == site else -1
    return masks


def seed_of(vector: Vector, mask: Mask, secrets: Mapping[bytes, bytes]) -> bytes | None:
    """The 48-byte seed of a mask, if one of the secrets derives it."""
    context, h2 = vector.context, vector.share_set
    for site, public in zip(mask.sites, mask.public, strict=True):
        if public in secrets and not mask.share_set:
            return pad_seed(context, site, secrets[public])
        if public in secrets and len(mask.public) == 1:
            return self_seed(context, h2, site, secrets[public])
        if public in secrets:
            peer, key = next(each for each in zip(mask.sites, mask.public, strict=True) if each[0] != site)
            return pair_seed(context, h2, secrets[public], site, peer, key)
    return None


def _strip(vector: Vector, secrets: Mapping[bytes, bytes]) -> None:
    """Takes away every mask that one of the secrets derives."""
    vector.residual = vector.words.copy()
    for mask, sign in vector.masks.items():
        seed = seed_of(vector, mask, secrets)
        if seed is None:
            vector.unknown[mask] = sign
        elif sign > 0:
            vector.residual -= expand(seed, vector.residual.size)
        else:
            vector.residual += expand(seed, vector.residual.size)


# ---------------------------------------------------------------------- sums

Row = tuple[dict[Mask, Fraction], dict[int, Fraction]]  # masks left, vectors in it


def eliminated(vectors: list[Vector]) -> tuple[list[tuple[Mask, Row]], list[dict[int, Fraction]]]:
    """Gaussian elimination of the unknown masks: rows with the mask each determines, and the masks-free rows."""
    order = {mask: i for i, mask in enumerate({mask: None for each in vectors for mask in each.unknown})}
    pivots: dict[Mask, Row] = {}
    free = []
    for index, vector in enumerate(vectors):
        left, terms = {mask: Fraction(sign) for mask, sign in vector.unknown.items()}, {index: Fraction(1)}
        while left:
            leading = min(left, key=order.__getitem__)
            if leading not in pivots:
                pivots[leading] = left, terms
                break
            masks, others = pivots[leading]
            factor = left[leading] / masks[leading]
            left, terms = _minus(left, masks, factor), _minus(terms, others, factor)
        else:
            free.append(terms)
    return sorted(pivots.items(), key=lambda each: order[each[0]]), free


def _minus(one: dict, other: dict, factor: Fraction) -> dict:  # type: ignore[type-arg]
    total = {key: one.get(key, Fraction(0)) - factor * other.get(key, Fraction(0)) for key in {**one, **other}}
    return {key: value for key, value in total.items() if value}


def _open_sums(vectors: list[Vector]) -> list[Terms]:
    sums = []
    for terms in eliminated(vectors)[1]:
        scale = lcm(*(value.denominator for value in terms.values()))
        first = 1 if terms[min(terms)] > 0 else -1
        sums.append({index: int(value * scale) * first for index, value in terms.items()})
    return sums
