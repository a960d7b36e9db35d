"""A site in one attempt of ckks mode: its masked session, and a blind seed dealt beside its shares (spec §13.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from secagg.ckks.messages import (
    BlindAdvert,
    BlindBox,
    BlindBundle,
    BlindRoster,
    BlindShares,
    blind_commitment,
    blind_roster_digest,
)
from secagg.ckks.payload import KeyAndCiphertext
from secagg.ckks.states import Blind, BlindState, Commitment
from secagg.config import Policy, RoundContext
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed
from secagg.identity import SiteKeys
from secagg.labels import BLIND_AAD, BLIND_KEY, SIGN_BLIND_ADVERT
from secagg.masked.checks import require_signed
from secagg.masked.client import MaskedClient
from secagg.masked.graph import place
from secagg.masked.messages import KeyAdvert, KeyRoster, RoundOpen, SealedShares, ShareBundle
from secagg.masked.params import SECRET
from secagg.masked.states import Fresh
from secagg.primitives.aead import seal, unseal
from secagg.primitives.agreement import agree, derive, load, public_key, require_public
from secagg.session import Packet, Rng, Update, Words
from secagg.wire import tag_of

NO_ROSTER: Final = bytes(32)


class CkksClient:
    """Implements `secagg.session.ClientSession`."""

    def __init__(self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng) -> None:
        """A fresh session. Raises Refused or Misuse, as the masked one."""
        seed = rng(SECRET)
        payload = KeyAndCiphertext(context, keys.site, seed)
        self._context, self._keys = context, keys
        self._masked = MaskedClient(context, keys, policy, update, rng, Fresh(), payload)
        own = Blind(keys.site, seed)
        self._state = BlindState(b"\x00", rng(SECRET), NO_ROSTER, (), (own,))

    @classmethod
    def restored(
        cls, context: RoundContext, keys: SiteKeys, policy: Policy, blob: bytes, update: Update | None, rng: Rng,
        sent: Words | None,
    ) -> CkksClient:  # fmt: skip
        """The session that `to_bytes` wrote. Raises Malformed, or Misuse if it still needs the update."""
        session = cls.__new__(cls)
        session._context, session._keys, session._state = context, keys, read_state(context, blob)
        own = seeds_of(session._state).get(keys.site)
        if own is None or len(session._state.blind_secret) not in (0, SECRET):
            raise Malformed("the saved session lacks its own blind seed or key")
        payload, state = KeyAndCiphertext(context, keys.site, own), session._state.masked
        session._masked = MaskedClient.restored(context, keys, policy, state, update, rng, sent, payload)
        return session

    @property
    def stage(self) -> str:
        """As of the masked session."""
        return self._masked.stage

    @property
    def released(self) -> bool:
        """Whether unmask shares were made."""
        return self._masked.released

    @property
    def evidence(self) -> bytes:
        """As of the masked session."""
        return self._masked.evidence

    def to_bytes(self) -> bytes:
        """The whole state, secret; from the stage "masked" on with what opens the round's aggregate."""
        return self._context.digest + replace(self._state, masked=self._masked.to_bytes()).encode()

    def handle(self, request: Packet) -> Packet:
        """The reply. Raises a SecAggError, after which nothing has changed."""
        tag = tag_of(request.head)
        if tag in (KeyRoster.TAG, ShareBundle.TAG):
            raise Malformed("no request of ckks mode")  # without what the blind pads need
        if tag not in _STEPS:
            return self._masked.handle(request)
        if request.words is not None:
            raise Malformed("no request of this round carries a vector")
        return _STEPS[tag](self, request)

    # ------------------------------------------------------------------ trip 0

    def _advertise(self, request: Packet) -> Packet:
        reply = self._masked.handle(request)
        own, context = self._keys.site, self._context
        commitment = blind_commitment(context.digest, place(context, own), seeds_of(self._state)[own])
        key = public_key(self._state.blind_secret)
        draft = BlindAdvert(own, KeyAdvert.decode(reply.head), key, commitment, bytes(64))
        signature = self._keys.sign(SIGN_BLIND_ADVERT, context.digest, draft.unsigned())
        return Packet(replace(draft, signature=signature).encode())

    # ------------------------------------------------------------------ trip 1

    def _share(self, request: Packet) -> Packet:
        message = BlindRoster.decode(request.head)
        require_blind_adverts(self._context, message.adverts)
        inner = KeyRoster(tuple(each.advert for each in message.adverts))
        reply = self._masked.handle(Packet(inner.encode()))
        roster = blind_roster_digest(self._context.digest, message.adverts)
        listed = tuple(Commitment(each.site, each.blind_key, each.commitment) for each in message.adverts)
        self._state = replace(self._state, roster=roster, commitments=listed)
        own = self._keys.site
        seed, secret = seeds_of(self._state)[own], load(self._state.blind_secret)
        boxes = []
        for peer in (each for each in listed if each.site != own):
            key, aad = self._box(agree(secret, peer.blind_key), own, peer.site)
            boxes.append(BlindBox(peer.site, seal(key, seed, aad)))
        return Packet(BlindShares(SealedShares.decode(reply.head), tuple(boxes)).encode())

    def _box(self, shared: bytes, sender: str, receiver: str) -> tuple[bytes, bytes]:
        context = self._context
        places = place(context, sender) + place(context, receiver)
        key = derive(shared, context.digest, BLIND_KEY + places, 32)
        return key, BLIND_AAD + context.digest + self._state.roster + places

    # ------------------------------------------------------------------ trip 2

    def _mask(self, request: Packet) -> Packet:
        message = BlindBundle.decode(request.head)
        own = self._keys.site
        senders = [each.site for each in message.bundle.statements if each.site != own]
        if [box.site for box in message.boxes] != senders:
            raise FaultyServer("the blind boxes are not one from every other site of the share set")
        seeds = [*self._state.seeds, *(self._opened(box) for box in message.boxes)]
        reply = self._masked.handle(Packet(message.bundle.encode()))
        ordered = tuple(sorted(seeds, key=lambda each: each.site))
        self._state = replace(self._state, blind_secret=b"", commitments=(), seeds=ordered)
        return reply

    def _opened(self, box: BlindBox) -> Blind:
        """The sender's blind seed, if it is the one it committed to."""
        context = self._context
        peer = next((each for each in self._state.commitments if each.site == box.site), None)
        if peer is None or not self._state.blind_secret:
            raise FaultyServer("a blind box comes from a site outside the key roster, or twice")
        key, aad = self._box(agree(self._state.blind_secret, peer.blind_key), box.site, self._keys.site)
        try:
            seed = unseal(key, box.ciphertext, aad)
        except Malformed as error:
            raise FaultyPeerOrServer(box.site, "its blind box does not open") from error
        if blind_commitment(context.digest, place(context, box.site), seed) != peer.commitment:
            raise FaultySite(box.site, "its blind seed is not the one it committed to")
        return Blind(box.site, seed)


_STEPS: Final = {
    RoundOpen.TAG: CkksClient._advertise,
    BlindRoster.TAG: CkksClient._share,
    BlindBundle.TAG: CkksClient._mask,
}


def read_state(context: RoundContext, blob: bytes) -> BlindState:
    """The state that a session of this attempt wrote. Raises Malformed."""
    if not blob.startswith(context.digest):
        raise Malformed("the saved session belongs to another attempt")
    return BlindState.decode(blob[len(context.digest) :])


def seeds_of(state: BlindState) -> dict[str, bytes]:
    """z of every site that the state knows."""
    return {each.site: each.seed for each in state.seeds}


def require_blind_advert(context: RoundContext, advert: BlindAdvert) -> None:
    """Checks what is not masked mode's own. Raises by blame."""
    require_signed(context, SIGN_BLIND_ADVERT, advert, advert.site, advert.signature)
    if advert.advert.site != advert.site:
        raise FaultySite(advert.site, "it advertises in another site's name")
    try:
        require_public(advert.blind_key)
    except Malformed as error:
        raise FaultySite(advert.site, f"it advertises a bad key: {error}") from error
    if advert.blind_key in (advert.advert.share_key, advert.advert.mask_key):
        raise FaultySite(advert.site, "it advertises one key for two uses")


def require_blind_adverts(context: RoundContext, adverts: Sequence[BlindAdvert]) -> None:
    """Checks every advert, and that no key stands in two of them. Raises by blame."""
    for advert in adverts:
        require_blind_advert(context, advert)
    keys = {each.blind_key for each in adverts} | {each.advert.share_key for each in adverts}
    if len(keys | {each.advert.mask_key for each in adverts}) < 3 * len(adverts):
        raise FaultyServer("the key roster holds one key of two sites")
