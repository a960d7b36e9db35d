"""ckks-shared mode behind the common interface."""

from __future__ import annotations

from typing import Final

from secagg.ckks_shared.client import SharedCkksClient, key_named, read_state, shared_key
from secagg.ckks_shared.messages import Contributed, SharedOpening, SumRecord
from secagg.ckks_shared.opening import audit_aggregate, open_aggregate
from secagg.ckks_shared.params import KEY_OPTION, NAME
from secagg.ckks_shared.payload import packing_of
from secagg.ckks_shared.server import SharedCkksServer
from secagg.config import Manifest, Policy, RoundContext, RoundHeader
from secagg.errors import Malformed
from secagg.identity import ServerKeys, SiteKeys
from secagg.masked.states import Fresh
from secagg.session import IDENTITY, SHARED_KEY, Archive, Audit, Mean, Packet, Rng, Update, Words

CAUTION: Final = (
    "All sites share one key: a site that works with the server, or whoever steals one copy of the key, reads every "
    "update of every site under it, those of past rounds too. A server that keeps to the protocol learns nothing; one "
    "that does not can put another sum in the place of the true one, and can work out the key from which false sums "
    "the sites refuse."
)


class SharedCkksScheme:
    """CKKS through TenSEAL under one key that the sites share; one message a round; only sites open the sum."""

    name = NAME
    needs = frozenset({IDENTITY, SHARED_KEY})
    options = frozenset({KEY_OPTION})
    caution = CAUTION

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """The manifest names a key that this site holds. Raises Refused."""
        manifest.require_options(self.options)
        shared_key(manifest, keys)

    def most_words(self, manifest: Manifest) -> int:
        """The ciphertexts'."""
        return packing_of(manifest).words

    def client(
        self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng
    ) -> SharedCkksClient:
        """A fresh session. Raises Refused or Misuse."""
        return SharedCkksClient(context, keys, policy, update, rng, Fresh())

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> SharedCkksClient:
        """The session that `to_bytes` wrote. Raises Malformed or Misuse."""
        return SharedCkksClient.restored(context, keys, policy, blob, update, rng)

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> SharedCkksServer:
        """A session for the sites of `context.cohort`."""
        return SharedCkksServer(context, keys, archive)

    def resume(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes) -> SharedCkksServer:
        """Always Malformed: no session of this scheme has anything to resume."""
        raise Malformed("a round of one message has nothing to resume")

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header of the record, unchecked. Raises Malformed."""
        return SumRecord.decode(aggregate.head).opened.header

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """What the ciphertexts say of the sum; it takes no opening. Raises Malformed or by blame."""
        return audit_aggregate(context, aggregate, archive)

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """The shared key's secret, and what this site contributed. Raises Malformed or Refused."""
        secret = keys.shared_key(key_named(context.manifest)).secret
        kept = None if state is None else read_state(context, state)
        sent = (kept.contribution,) if isinstance(kept, Contributed) else ()
        return SharedOpening(sent, secret).encode()

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean, for who holds the shared key; Sealed without it, once the record is found to hold."""
        return open_aggregate(context, aggregate, opening)
