"""A site's side of one attempt of one masked round, as pure transitions (spec §11.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from secagg.config import Policy, RoundContext
from secagg.errors import FaultyPeerOrServer, FaultyServer, Malformed, Misuse, Refused
from secagg.identity import SiteKeys
from secagg.labels import (
    SIGN_KEY_ADVERT,
    SIGN_MASKED_VECTOR,
    SIGN_PROJECTIONS,
    SIGN_ROUND_OPEN,
    SIGN_SEALED_SHARES,
    SIGN_SURVIVORS,
    SIGN_UNMASK_SHARES,
)
from secagg.masked.checks import require_adverts, require_quorum, require_record, require_statements, require_vectors
from secagg.masked.graph import box_aad, box_key, challenge_seed, neighbour_seeds, self_seed, tail_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import (
    REQUESTS,
    Box,
    KeyAdvert,
    KeyRoster,
    MaskedVector,
    Projections,
    RoundOpen,
    RoundRecord,
    SealedShares,
    Share,
    ShareBundle,
    ShareStatement,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    boxes_digest,
    key_roster_digest,
    masked_words_digest,
    seed_commitment,
    share_set_digest,
    survivor_set_digest,
)
from secagg.masked.params import SECRET
from secagg.masked.payload import Payload, QuantizedUpdate, project_vector
from secagg.masked.states import (
    Advertised,
    Checked,
    Fresh,
    HeldShares,
    Masked,
    Shared,
    Signed,
    Spent,
    State,
    decode_state,
)
from secagg.primitives.aead import seal, unseal
from secagg.primitives.agreement import agree, load, public_key
from secagg.primitives.shamir import SHARE_BYTES, split
from secagg.primitives.signature import is_signed
from secagg.session import Packet, Rng, Update, Words
from secagg.wire import Struct, tag_of


class MaskedClient:
    """One site in one attempt of one round; implements `secagg.session.ClientSession`."""

    def __init__(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        update: Update | None,
        rng: Rng,
        state: State,
        payload: Payload | None = None,
    ) -> None:
        """payload: what the vector holds; the quantised update unless another scheme says otherwise.

        Raises Refused if the policy forbids the manifest, Misuse if the update does not fit it.
        """
        policy.check(context.manifest)
        if context.identity_key(keys.site) != keys.public:
            raise Misuse("these keys are not the roster's for this site")
        if update is not None:
            require_update(context, update)
        self._context = context
        self._keys = keys
        self._update = update
        self._payload = payload or QuantizedUpdate(context)
        self._rng = rng
        self._state = state
        self._sent: Words | None = None  # the masked words; the server has them too

    @classmethod
    def restored(
        cls,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
        payload: Payload | None = None,
    ) -> MaskedClient:
        """The session that `to_bytes` wrote. Raises Malformed, or Misuse if it still needs the update."""
        if not blob.startswith(context.digest):
            raise Malformed("the saved session belongs to another attempt")
        state = decode_state(blob[len(context.digest) :])
        if update is None and isinstance(state, Fresh | Advertised | Shared):
            raise Misuse("a session that has not sent its vector needs the update")
        session = cls(context, keys, policy, update, rng, state, payload)
        session._sent = sent
        return session

    @property
    def stage(self) -> str:
        """'fresh', 'advertised', 'shared', 'masked', 'signed', 'spent' or 'checked'."""
        return type(self._state).__name__.lower()

    @property
    def released(self) -> bool:
        """Whether unmask shares were made."""
        state = self._state
        return isinstance(state, Checked) or (isinstance(state, Spent) and bool(state.released))

    @property
    def evidence(self) -> bytes:
        """32 bytes for the durable log: h3 once it is signed, the record's digest at the end, the header's before."""
        state = self._state
        if isinstance(state, Checked):
            return state.record
        return state.survivor_set if isinstance(state, Signed | Spent) else self._context.digest

    def to_bytes(self) -> bytes:
        """The whole state, secret, without the update, after the digest of the header it belongs to."""
        return self._context.digest + self._state.encode()

    def handle(self, request: Packet) -> Packet:
        """The reply. Raises a SecAggError, after which nothing has changed."""
        if request.words is not None:
            raise Malformed("no request of this round carries a vector")
        message = _decode(request.head)
        step = TRANSITIONS.get((type(self._state), type(message)))
        if step is None:
            raise FaultyServer(f"{type(message).__name__} out of order at stage {self.stage}")
        state, reply = step(self, self._state, message)
        self._state = state
        if isinstance(state, Masked):
            self._update, self._sent = None, reply.words
        if isinstance(state, Checked):
            self._sent = None
        return reply

    def _sign(self, label: bytes, message: Struct) -> bytes:
        return self._keys.sign(label, self._context.digest, message.unsigned())

    # ------------------------------------------------------------------ trip 0: advertise

    def _advertise(self, _: Fresh, message: RoundOpen) -> tuple[State, Packet]:
        context, own = self._context, self._keys.site
        signed = context.digest, message.unsigned()
        if not is_signed(context.manifest.server_key, message.signature, SIGN_ROUND_OPEN, *signed):
            raise FaultyServer("the round is not opened by the session's server")
        if message.header != context.header:
            raise FaultyServer("the round header is not the one this site expects")
        if own not in message.cohort or not set(message.cohort) <= set(context.manifest.sites):
            raise FaultyServer("the cohort is not this session's")
        _require_enough(context, message.cohort, "cohort")
        share_secret, mask_secret, seed = (self._rng(SECRET) for _ in range(3))
        advert = self._advert(share_secret, mask_secret, seed)
        return Advertised(message.cohort, advert, share_secret, mask_secret, seed), Packet(advert.encode())

    def _advert(self, share_secret: bytes, mask_secret: bytes, seed: bytes) -> KeyAdvert:
        commitment = seed_commitment(self._context.digest, seed)
        keys = public_key(share_secret), public_key(mask_secret)
        draft = KeyAdvert(self._keys.site, *keys, commitment, bytes(64))
        return KeyAdvert(self._keys.site, *keys, commitment, self._sign(SIGN_KEY_ADVERT, draft))

    # ------------------------------------------------------------------ trip 1: share keys

    def _share(self, state: Advertised, message: KeyRoster) -> tuple[State, Packet]:
        context, own = self._context, self._keys.site
        names = [advert.site for advert in message.adverts]
        if not set(names) <= set(state.cohort):
            raise FaultyServer("the key roster lists a site outside the cohort")
        _require_enough(context, names, "key roster")
        require_adverts(context, message.adverts)
        if state.advert not in message.adverts:
            raise FaultyServer("the key roster misstates this site's own keys")
        h1 = key_roster_digest(context.digest, message.adverts)
        key_shares, seed_shares = self._deal(state, names)
        boxes = self._seal(state, message.adverts, h1, key_shares, seed_shares)
        statement = self._state_shares(h1, boxes)
        reply = SealedShares(statement, boxes)
        shared = Shared(
            message.adverts, statement, state.share_secret, state.mask_secret, state.seed,
            key_shares[own], seed_shares[own],
        )  # fmt: skip
        return shared, Packet(reply.encode())

    def _deal(self, state: Advertised, names: Sequence[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Shares of the mask key's secret and of b, by receiver."""
        points = {self._context.points[name]: name for name in names}
        t = self._context.manifest.threshold
        dealt = (split(secret, t, list(points), self._rng) for secret in (state.mask_secret, state.seed))
        key_shares, seed_shares = ({points[x]: share for x, share in shares.items()} for shares in dealt)
        return key_shares, seed_shares

    def _seal(
        self, state: Advertised, adverts: Sequence[KeyAdvert], h1: bytes,
        key_shares: dict[str, bytes], seed_shares: dict[str, bytes],
    ) -> tuple[Box, ...]:  # fmt: skip
        context, own, boxes = self._context, self._keys.site, []
        secret = load(state.share_secret)
        for peer in (advert for advert in adverts if advert.site != own):
            key = box_key(context, agree(secret, peer.share_key), own, peer.site)
            plaintext = key_shares[peer.site] + seed_shares[peer.site]
            boxes.append(Box(peer.site, seal(key, plaintext, box_aad(context, h1, own, peer.site))))
        return tuple(boxes)

    def _state_shares(self, h1: bytes, boxes: tuple[Box, ...]) -> ShareStatement:
        draft = ShareStatement(self._keys.site, h1, boxes_digest(boxes), bytes(64))
        return ShareStatement(draft.site, h1, draft.boxes, self._sign(SIGN_SEALED_SHARES, draft))

    # ------------------------------------------------------------------ trip 2: masked input

    def _mask(self, state: Shared, message: ShareBundle) -> tuple[State, Packet]:
        context, own = self._context, self._keys.site
        names = [statement.site for statement in message.statements]
        _require_enough(context, names, "share set")
        if state.statement not in message.statements:
            raise FaultyServer("the share set misstates this site's own statement")
        h1 = state.statement.key_roster
        require_statements(context, state.adverts, h1, message.statements)
        if [box.site for box in message.boxes] != [name for name in names if name != own]:
            raise FaultyServer("the boxes are not one from every other site of the share set")
        held = self._unseal(state, h1, message.boxes)
        h2 = share_set_digest(context.digest, message.statements)
        words = self._masked_words(state, h2, names)
        draft = MaskedVector(own, h2, masked_words_digest(context.digest, words), bytes(64))
        vector = MaskedVector(own, h2, draft.words, self._sign(SIGN_MASKED_VECTOR, draft))
        return Masked(h2, held, vector), Packet(vector.encode(), words)

    def _unseal(self, state: Shared, h1: bytes, boxes: Sequence[Box]) -> tuple[HeldShares, ...]:
        context, own = self._context, self._keys.site
        secret = load(state.share_secret)
        adverts = {advert.site: advert for advert in state.adverts}
        held = [HeldShares(own, state.own_key_share, state.own_seed_share)]
        for box in boxes:
            key = box_key(context, agree(secret, adverts[box.site].share_key), box.site, own)
            try:
                plaintext = unseal(key, box.ciphertext, box_aad(context, h1, box.site, own))
            except Malformed as error:
                raise FaultyPeerOrServer(box.site, "its box of shares does not open") from error
            held.append(HeldShares(box.site, plaintext[:SHARE_BYTES], plaintext[SHARE_BYTES:]))
        return tuple(sorted(held, key=lambda each: each.site))

    def _masked_words(self, state: Shared, h2: bytes, names: Sequence[str]) -> Words:
        """Masks the payload block by block: memory beyond update and result stays constant."""
        context, own, update, payload = self._context, self._keys.site, self._update, self._payload
        if update is None:
            raise Misuse("the session lost its update")
        peers = [(each.site, each.mask_key) for each in state.adverts if each.site in set(names) - {own}]
        seeds = neighbour_seeds(context, h2, state.mask_secret, own, peers)
        masks = Masks((*seeds.plus, self_seed(context, h2, own, state.seed)), seeds.minus)
        words, start = np.empty(payload.words + payload.tail_words, np.uint64), 0
        contribution = payload.contribute(update, self._rng)
        if payload.tail_words:
            words[payload.words :] = contribution.tail(tail_seed(context, h2, own, state.seed))
        for block in contribution.blocks():
            masks.apply(block)
            words[start : start + block.size] = block
            start += block.size
        return words

    # ------------------------------------------------------------------ trip 3: consistency

    def _consent(self, state: Masked, message: SurvivorSet) -> tuple[State, Packet]:
        context, own = self._context, self._keys.site
        names = tuple(vector.site for vector in message.vectors)
        _require_enough(context, names, "survivor set")
        if state.vector not in message.vectors:
            raise FaultyServer("the survivor set misstates this site's own vector")
        if not set(names) <= {each.site for each in state.held}:
            raise FaultyServer("the survivor set lists a site outside the share set")
        require_vectors(context, state.share_set, message.vectors)
        h3 = survivor_set_digest(context.digest, message.vectors)
        draft = SurvivorSignature(own, h3, bytes(64))
        reply = SurvivorSignature(own, h3, self._sign(SIGN_SURVIVORS, draft))
        return Signed(h3, names, state.held), Packet(reply.encode())

    # ------------------------------------------------------------------ trip 4: unmask

    def _unmask(self, state: Signed, message: SurvivorProof) -> tuple[State, Packet]:
        context = self._context
        require_quorum(context, state.survivor_set, state.survivors, message.signatures)
        alive = set(state.survivors)
        seeds = tuple(Share(each.site, each.seed_share) for each in state.held if each.site in alive)
        keys = tuple(Share(each.site, each.key_share) for each in state.held if each.site not in alive)
        draft = UnmaskShares(self._keys.site, state.survivor_set, seeds, keys, bytes(64))
        signature = self._sign(SIGN_UNMASK_SHARES, draft)
        reply = UnmaskShares(draft.site, draft.survivor_set, seeds, keys, signature)
        return Spent(state.survivor_set, 1), Packet(reply.encode())

    # ------------------------------------------------------------------ trip 5: check

    def _check(self, state: Spent, message: RoundRecord) -> tuple[State, Packet]:
        context, own = self._context, self._keys.site
        if require_record(context, message) != state.survivor_set:
            raise FaultyServer("the record names another survivor set than this site signed")
        own_vector = next(each for each in message.vectors if each.site == own)  # h3 holds it
        if self._sent is None or masked_words_digest(context.digest, self._sent) != own_vector.words:
            raise Refused("this site's masked words are lost; they have to travel instead")
        record = message.transcript()
        values = project_vector(self._payload, challenge_seed(context, record), self._sent)
        draft = Projections(own, record, values.astype("<u8").tobytes(), bytes(64))
        reply = Projections(own, record, draft.values, self._sign(SIGN_PROJECTIONS, draft))
        return Checked(record), Packet(reply.encode())


TRANSITIONS: Final[dict[tuple[type[State], type[Struct]], Callable[..., tuple[State, Packet]]]] = {
    (Fresh, RoundOpen): MaskedClient._advertise,  # spec §11.4.1
    (Advertised, KeyRoster): MaskedClient._share,  # spec §11.4.2
    (Shared, ShareBundle): MaskedClient._mask,  # spec §11.4.3
    (Masked, SurvivorSet): MaskedClient._consent,  # spec §11.4.4
    (Signed, SurvivorProof): MaskedClient._unmask,  # spec §11.4.5
    (Spent, RoundRecord): MaskedClient._check,  # spec §11.4.6
}


_BY_TAG: Final[dict[int, type[Struct]]] = {message.TAG: message for message in REQUESTS}


def _decode(head: bytes) -> Struct:
    message = _BY_TAG.get(tag_of(head))
    if message is None:
        raise Malformed("no request of masked mode")
    return message.decode(head)


def require_update(context: RoundContext, update: Update) -> None:
    """Raises Misuse unless the update is finite and fits the manifest."""
    manifest = context.manifest
    if update.values.dtype != np.float32 or update.values.shape != (manifest.size,):
        raise Misuse(f"the update is not float32 of shape ({manifest.size},)")
    if not np.isfinite(update.values).all():
        raise Misuse("the update holds NaN or infinity")
    if not 1 <= update.weight <= manifest.quantizer.weight_cap:
        raise Misuse(f"the weight lies outside 1..{manifest.quantizer.weight_cap}")


def _require_enough(context: RoundContext, names: Sequence[str], what: str) -> None:
    if len(names) < context.manifest.least_survivors:
        raise Refused(f"a {what} of {len(names)} is below {context.manifest.least_survivors}")
