"""CKKS mode behind the common interface."""

from __future__ import annotations

from secagg.ckks.client import CkksClient, read_state
from secagg.ckks.opening import open_aggregate
from secagg.ckks.payload import ZEROS, KeyAndCiphertext, ring_of
from secagg.ckks.server import CkksServer
from secagg.ckks.states import Opening
from secagg.config import Manifest, Policy, RoundContext, RoundHeader
from secagg.identity import ServerKeys, SiteKeys
from secagg.masked.audit import audit_aggregate, header_of
from secagg.session import IDENTITY, Archive, Audit, Mean, Packet, Rng, Update, Words
from secagg.tally import WORDS


class CkksScheme:
    """CKKS under one-time keys whose sum goes through masked mode, blind to the server; only sites open the sum."""

    name = "ckks"
    needs = frozenset({IDENTITY})
    options = frozenset[str]()
    caution = ""

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """Its identity is all that a site needs. Raises Refused for an option."""
        manifest.require_options(self.options)

    def most_words(self, manifest: Manifest) -> int:
        """The key's words, the checks', the tally's, and the ciphertext's."""
        params = ring_of(manifest)
        return params.key_words + ZEROS + len(WORDS) + params.words

    def client(self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng) -> CkksClient:
        """A fresh session. Raises Refused or Misuse."""
        return CkksClient(context, keys, policy, update, rng)

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> CkksClient:
        """The session that `to_bytes` wrote. Raises Malformed or Misuse."""
        return CkksClient.restored(context, keys, policy, blob, update, rng, sent)

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> CkksServer:
        """A session for the sites of `context.cohort`."""
        return CkksServer(context, keys, archive)

    def resume(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes) -> CkksServer:
        """The session at the check of the sum. Raises Malformed."""
        return CkksServer(context, keys, archive, blob)

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header of the record, unchecked. Raises Malformed."""
        return header_of(aggregate)

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """What the vectors and ciphertexts say of the sum; it takes no opening. Raises Malformed or by blame."""
        return audit_aggregate(context, aggregate, archive, KeyAndCiphertext(context))

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """The blind seeds of the round's sites. Raises Malformed."""
        return b"" if state is None else Opening(read_state(context, state).seeds).encode()

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean, for who has the survivors' blind seeds; Sealed without them, once the sum is found to be theirs."""
        seeds = Opening.decode(opening).seeds if opening else ()
        return open_aggregate(context, aggregate, {each.site: each.seed for each in seeds})
