"""Who is in the laboratory: honest sites that are real, and sites that have handed everything to the server."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from secagg.chain import Ledger, Position
from secagg.config import Manifest, Policy, RoundContext
from secagg.errors import Refused, SecAggError
from secagg.identity import SiteKeys
from secagg.labels import SIGN_KEY_ADVERT, SIGN_SEALED_SHARES, SIGN_SURVIVORS
from secagg.masked.graph import box_aad, box_key, neighbour_seeds, self_seed, tail_seed
from secagg.masked.messages import (
    Box,
    KeyAdvert,
    MaskedVector,
    SealedShares,
    ShareStatement,
    SurvivorSignature,
    boxes_digest,
    key_roster_digest,
    masked_words_digest,
    seed_commitment,
    share_set_digest,
)
from secagg.primitives.aead import seal
from secagg.primitives.agreement import agree, public_key
from secagg.primitives.prg import Stream
from secagg.primitives.shamir import split
from secagg.schemes import scheme_named
from secagg.session import ClientSession, Mean, Metrics, Packet, Update, Words
from secagg.vector import Layout, Vector, adapter_digest
from tests.adversaries.forms import FORMS, Form
from tests.masked.stage import resigned
from tests.sim import Consortium, Dice

GRID: Mapping[str, Any] = {"rotate": 0, "first_range_q40": 255 << 32}  # level q is the value (2q - 255) / 256, exactly


# ---------------------------------------------------------------------- inputs


def grid_update(levels: np.ndarray, weight: int, metrics: Metrics) -> Update:
    """The update that quantises to these levels whatever the dither: sums of updates are then sums of words."""
    return Update(((2.0 * levels - 255.0) / 256.0).astype(np.float32), weight, metrics)


def random_input(seed: object, size: int, cap: int = 1) -> Update:
    """Random levels, weight and counts. Level 0 is the largest, so that all sites have one peak."""
    dice = Dice(("input", seed))
    levels = np.frombuffer(dice(size), np.uint8).astype(np.float64)
    levels[0] = 255
    numbers = [1 + byte for byte in dice(4)]
    return grid_update(levels, 1 + numbers[0] % cap, Metrics(numbers[1], numbers[2] / 64, numbers[3] / 64, numbers[1]))


def words_of_update(context: RoundContext, update: Update) -> np.ndarray:
    """What a site adds to an open sum, in the packing of the round's scheme."""
    return form_of(context).plain(context, update)


def form_of(context: RoundContext) -> Form:
    """What the laboratory knows of the round's scheme."""
    return FORMS[context.manifest.scheme]


# ---------------------------------------------------------------------- the honest


@dataclass
class HonestSite:
    """One machine of an honest site: the real session behind the real rules of its log, as `fedclient.site` has them.

    Only the disk is left out; test_second_answers.py has it. `inside` is for the lab's book-keeping, never for the
    adversary: the secrets this machine drew, by their public values.
    """

    keys: SiteKeys
    manifest: Manifest
    consortium: Consortium
    update: Update | None
    policy: Policy
    rng: Dice
    position: Position
    ledger: Ledger
    client: ClientSession | None = None
    attempt: int = 0
    saved: tuple[int, int, bytes] | None = None
    sent: dict[tuple[int, int], Words] = field(default_factory=dict)
    adapter: Vector = field(init=False)
    inside: dict[bytes, bytes] = field(default_factory=dict)
    contexts: dict[tuple[Position, int], RoundContext] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.adapter = np.zeros(self.manifest.size, np.float32)

    def finish(self, attempt: int, aggregate: Packet) -> Mean:
        """Opens an aggregate and goes on to the next round. Raises SecAggError, and then stays where it is."""
        context, scheme = self.context(attempt), scheme_named(self.manifest.scheme)
        took_part = self.saved is not None and self.saved[:2] == (context.header.round, attempt)
        opening = scheme.opening(context, self.keys, self.saved[2] if took_part and self.saved else None)
        mean = scheme.open(context, aggregate, opening)
        self.adapter = np.add(self.adapter, mean.values, dtype=np.float32)
        layout = Layout((("vector", (self.manifest.size,)),))
        self.position, self.client = self.position.after(mean, adapter_digest(layout, self.adapter)), None
        return mean

    def ask(self, attempt: int, request: Packet) -> Packet:
        """The reply. Raises SecAggError, and then only its code leaves."""
        context = self.context(attempt)
        client = self._session(context)
        drawn: list[bytes] = []
        try:
            with form_of(context).watched(drawn):
                reply = client.handle(request)
            self.ledger, _ = self.ledger.answer(context.header, client.stage, client.evidence)
        except SecAggError:
            self.client = None
            raise
        self.saved = context.header.round, attempt, client.to_bytes()
        if reply.words is not None:
            self.sent[context.header.round, attempt] = reply.words
        self.inside |= form_of(context).kept(context, self.saved[2])
        if drawn:
            self.inside[MaskedVector.decode(reply.head).words] = drawn[-1]
        if client.released:
            self.update = None
        return reply

    def context(self, attempt: int) -> RoundContext:
        """The attempt as this site sees it."""
        key = self.position, attempt
        if key not in self.contexts:
            header = self.position.header(self.manifest, attempt)
            self.contexts[key] = RoundContext(self.manifest, self.consortium.roster, header)
        return self.contexts[key]

    def _session(self, context: RoundContext) -> ClientSession:
        round_, attempt = context.header.round, context.header.attempt
        if self.client is not None and self.attempt == attempt:
            return self.client
        scheme, parts = scheme_named(self.manifest.scheme), (context, self.keys, self.policy)
        if self.saved is not None and self.saved[:2] == (round_, attempt):
            sent = self.sent.get(self.saved[:2])
            self.client = scheme.restore(*parts, self.saved[2], self.update, self.rng, sent)
        else:
            self.ledger.admit(self.position, context.header, self.manifest)
            if self.update is None:
                raise Refused("this site holds no update for the round")
            self.client = scheme.client(*parts, self.update, self.rng)
        self.attempt = attempt
        return self.client

    def machine(self, rng: Dice) -> HonestSite:
        """A second machine with everything this one has, as a snapshot restored elsewhere; rng: its randomness."""
        other = copy.copy(self)
        other.rng, other.client, other.inside, other.sent = rng, None, dict(self.inside), dict(self.sent)
        return other


# ---------------------------------------------------------------------- those who help the server


@dataclass(frozen=True)
class Own:
    """The three secrets of a colluder in an attempt."""

    share_secret: bytes
    mask_secret: bytes
    seed: bytes


class Colluder:
    """A site whose keys are the server's: it forgets nothing, deals to and masks over any list, and signs anything."""

    def __init__(self, keys: SiteKeys, update: Update) -> None:
        self.keys, self.update = keys, update
        self.site = keys.site
        self.own: list[Own] = []
        self._made: dict[object, Any] = {}  # what it said once in an attempt it says again

    def secrets(self, context: RoundContext, variant: int) -> Own:
        """Its secrets in the attempt; another variant shows other sites another advert."""
        dice = Dice((self.site, context.digest, variant))
        own = Own(dice(32), dice(32), dice(32))
        if own not in self.own:
            self.own.append(own)
        return own

    def advert(self, context: RoundContext, variant: int = 0) -> KeyAdvert:
        """A valid advert."""
        return self._once((context.digest, variant), lambda: self._advert(context, variant))

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _advert(self, context: RoundContext, variant: int) -> KeyAdvert:
        own = self.secrets(context, variant)
        keys = public_key(own.share_secret), public_key(own.mask_secret)
        draft = KeyAdvert(self.site, *keys, seed_commitment(context.digest, own.seed), bytes(64))
        return replace(draft, signature=self.keys.sign(SIGN_KEY_ADVERT, context.digest, draft.unsigned()))

    def deal(self, context: RoundContext, adverts: tuple[KeyAdvert, ...], variant: int = 0) -> SealedShares:
        """Valid boxes for all sites of a key roster."""
        h1 = key_roster_digest(context.digest, adverts)
        return self._once((h1, variant), lambda: self._deal(context, adverts, h1, variant))

    def _deal(self, context: RoundContext, adverts: tuple[KeyAdvert, ...], h1: bytes, variant: int) -> SealedShares:
        own = self.secrets(context, variant)
        dice, points = Dice((self.site, h1)), [context.points[each.site] for each in adverts]
        t = min(context.manifest.threshold, len(points))
        keys, seeds = (split(secret, t, points, dice) for secret in (own.mask_secret, own.seed))
        boxes = []
        for peer in (each for each in adverts if each.site != self.site):
            key = box_key(context, agree(own.share_secret, peer.share_key), self.site, peer.site)
            x = context.points[peer.site]
            boxes.append(Box(peer.site, seal(key, keys[x] + seeds[x], box_aad(context, h1, self.site, peer.site))))
        draft = ShareStatement(self.site, h1, boxes_digest(boxes), bytes(64))
        signature = self.keys.sign(SIGN_SEALED_SHARES, context.digest, draft.unsigned())
        return SealedShares(replace(draft, signature=signature), tuple(boxes))

    def vector(
        self, context: RoundContext, adverts: tuple[KeyAdvert, ...], statements: tuple[ShareStatement, ...],
        variant: int = 0,
    ) -> tuple[MaskedVector, np.ndarray]:  # fmt: skip
        """Its update under the right masks, so that a sum with it in comes out."""
        h2 = share_set_digest(context.digest, statements)
        key = h2, key_roster_digest(context.digest, adverts), variant
        return self._once(key, lambda: self._vector(context, adverts, statements, h2, variant))

    def _vector(
        self, context: RoundContext, adverts: tuple[KeyAdvert, ...], statements: tuple[ShareStatement, ...],
        h2: bytes, variant: int,
    ) -> tuple[MaskedVector, np.ndarray]:  # fmt: skip
        own = self.secrets(context, variant)
        inside = {each.site for each in statements} - {self.site}
        peers = [(each.site, each.mask_key) for each in adverts if each.site in inside]
        seeds = neighbour_seeds(context, h2, own.mask_secret, self.site, peers)
        payload = form_of(context).payload(context, self.site, next(each for each in adverts if each.site == self.site))
        contribution = payload.contribute(self.update, Dice((self.site, h2, "random")))
        tail = [contribution.tail(tail_seed(context, h2, self.site, own.seed))] if payload.tail_words else []
        masked = np.concatenate([block.copy() for block in contribution.blocks()])
        for seed in (*seeds.plus, self_seed(context, h2, self.site, own.seed)):
            masked += expand(seed, masked.size)
        for seed in seeds.minus:
            masked -= expand(seed, masked.size)
        words = np.concatenate([masked, *tail])
        draft = MaskedVector(self.site, h2, masked_words_digest(context.digest, words), bytes(64))
        return resigned(context, self.keys, draft), words

    def consent(self, context: RoundContext, h3: bytes) -> SurvivorSignature:
        """Its signature on any survivor set."""
        draft = SurvivorSignature(self.site, h3, bytes(64))
        return replace(draft, signature=self.keys.sign(SIGN_SURVIVORS, context.digest, draft.unsigned()))


def expand(seed: bytes, count: int) -> np.ndarray:
    """The first words of a mask."""
    return np.frombuffer(Stream(seed).read(8 * count), "<u8").astype(np.uint64)
