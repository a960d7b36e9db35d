"""A site in one attempt of ckks-shared mode: it is asked once, and answers once (spec §21.3, §21.7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from secagg.ckks_shared.checks import require_opened
from secagg.ckks_shared.messages import Contributed, Contribution, ciphertext_digest
from secagg.ckks_shared.params import KEY_OPTION
from secagg.ckks_shared.payload import encrypt, packing_of, piece_values
from secagg.config import Manifest, Policy, RoundContext
from secagg.errors import FaultyServer, Malformed, Misuse, Refused
from secagg.identity import SharedKey, SiteKeys
from secagg.labels import SIGN_CONTRIBUTION
from secagg.masked.client import require_update
from secagg.masked.messages import RoundOpen
from secagg.masked.payload import quantizer_of
from secagg.masked.states import Fresh
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.session import Packet, Rng, Update, Words
from secagg.tally import Tally
from secagg.wire import tag_of

State = Fresh | Contributed
_STATES: Final[dict[int, type[State]]] = {each.TAG: each for each in (Fresh, Contributed)}


class SharedCkksClient:
    """Implements `secagg.session.ClientSession`."""

    def __init__(
        self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update | None, rng: Rng, state: State
    ) -> None:
        """Raises Refused if the policy forbids the manifest or the key is missing, Misuse for a wrong update."""
        policy.check(context.manifest)
        if context.identity_key(keys.site) != keys.public:
            raise Misuse("these keys are not the roster's for this site")
        if update is not None:
            require_update(context, update)
        self._context, self._keys, self._rng, self._state = context, keys, rng, state
        self._secret = shared_key(context.manifest, keys).secret
        self._update = update

    @classmethod
    def restored(
        cls, context: RoundContext, keys: SiteKeys, policy: Policy, blob: bytes, update: Update | None, rng: Rng
    ) -> SharedCkksClient:
        """The session that `to_bytes` wrote. Raises Malformed, or Misuse if it still needs the update."""
        state = read_state(context, blob)
        if update is None and isinstance(state, Fresh):
            raise Misuse("a session that has not sent its vector needs the update")
        return cls(context, keys, policy, update, rng, state)

    @property
    def stage(self) -> str:
        """'fresh' or 'masked': the log's name for the stage in which a vector has left."""
        return "fresh" if isinstance(self._state, Fresh) else "masked"

    @property
    def released(self) -> bool:
        """Never: what has left opens to nobody without the shared key, however often the update is sent."""
        return False

    @property
    def evidence(self) -> bytes:
        """The header's digest."""
        return self._context.digest

    def to_bytes(self) -> bytes:
        """The whole state, without update or keys, after the digest of the header it belongs to."""
        return self._context.digest + self._state.encode()

    def handle(self, request: Packet) -> Packet:
        """The reply. Raises a SecAggError, after which nothing has changed."""
        if request.words is not None:
            raise Malformed("no request of this round carries a vector")
        if tag_of(request.head) != RoundOpen.TAG:
            raise Malformed("no request of ckks-shared mode")
        opened = RoundOpen.decode(request.head)
        if not isinstance(self._state, Fresh) or self._update is None:
            raise FaultyServer(f"RoundOpen out of order at stage {self.stage}")
        require_opened(self._context, opened)
        if self._keys.site not in opened.cohort:
            raise FaultyServer("the cohort leaves this site out")
        least = self._context.manifest.least_survivors
        if len(opened.cohort) < least:
            raise Refused(f"a cohort of {len(opened.cohort)} is below {least}")
        words = self._encrypted(self._update)
        draft = Contribution(self._keys.site, ciphertext_digest(self._context.digest, words), bytes(64))
        signature = self._keys.sign(SIGN_CONTRIBUTION, self._context.digest, draft.unsigned())
        contribution = replace(draft, signature=signature)
        self._state, self._update = Contributed(contribution), None
        return Packet(contribution.encode(), words)

    def _encrypted(self, update: Update) -> Words:
        packing, dither = packing_of(self._context.manifest), Stream(self._rng(SEED_BYTES))
        levels = quantizer_of(self._context).levels(update.values, update.weight, dither)

        def tally() -> Words:
            return Tally.of(update.metrics, update.weight, levels.clipped, levels.peak_q40).words()

        return encrypt(packing, self._secret, levels.weighted(piece_values(packing)), tally)


def key_named(manifest: Manifest) -> bytes:
    """The 32-byte name of the session's key. Raises Refused."""
    text = manifest.option(KEY_OPTION)
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise Refused(f"the manifest's {KEY_OPTION} is not 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)


def shared_key(manifest: Manifest, keys: SiteKeys) -> SharedKey:
    """The session's key. Raises Refused if this site does not hold it."""
    return keys.shared_key(key_named(manifest))


def read_state(context: RoundContext, blob: bytes) -> State:
    """The state that a session of this attempt wrote. Raises Malformed."""
    if not blob.startswith(context.digest):
        raise Malformed("the saved session belongs to another attempt")
    rest = blob[len(context.digest) :]
    kind = _STATES.get(tag_of(rest))
    if kind is None:
        raise Malformed("not a saved session of ckks-shared mode")
    return kind.decode(rest)
