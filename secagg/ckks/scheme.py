"""CKKS mode behind the common interface."""

from __future__ import annotations

from secagg.ckks.client import CkksClient, read_state
from secagg.ckks.opening import open_aggregate
from secagg.ckks.payload import ZEROS, KeyAndCiphertext, is_blind, ring_of
from secagg.ckks.server import CkksServer
from secagg.ckks.states import Opening
from secagg.config import SERVER_READS_SUM, Manifest, Policy, RoundContext, RoundHeader
from secagg.identity import ServerKeys, SiteKeys
from secagg.masked.audit import audit_aggregate, header_of
from secagg.masked.client import MaskedClient
from secagg.masked.server import MaskedServer
from secagg.masked.states import Fresh
from secagg.session import IDENTITY, Archive, Audit, Mean, Packet, Rng, Update, Words
from secagg.tally import WORDS


class CkksScheme:
    """CKKS under one-time keys whose sum goes through masked mode, blind to the server; only sites open the sum.

    With the option `server-reads-sum` = "yes" the sum of the keys has no pads: what is left is masked mode with
    another payload, and the server opens the sum too (spec §13.8).
    """

    name = "ckks"
    needs = frozenset({IDENTITY})
    options = frozenset({SERVER_READS_SUM})
    caution = ""

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """Its identity is all that a site needs. Raises Refused for an option that is not known."""
        manifest.require_options(self.options)
        is_blind(manifest)

    def most_words(self, manifest: Manifest) -> int:
        """The key's words, the checks', the tally's, and the ciphertext's."""
        params = ring_of(manifest)
        return params.key_words + ZEROS + len(WORDS) + params.words

    def client(
        self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng
    ) -> CkksClient | MaskedClient:
        """A fresh session. Raises Refused or Misuse."""
        if is_blind(context.manifest):
            return CkksClient(context, keys, policy, update, rng)
        return MaskedClient(context, keys, policy, update, rng, Fresh(), KeyAndCiphertext(context, keys.site))

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> CkksClient | MaskedClient:
        """The session that `to_bytes` wrote. Raises Malformed or Misuse."""
        if is_blind(context.manifest):
            return CkksClient.restored(context, keys, policy, blob, update, rng, sent)
        payload = KeyAndCiphertext(context, keys.site)
        return MaskedClient.restored(context, keys, policy, blob, update, rng, sent, payload)

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> CkksServer | MaskedServer:
        """A session for the sites of `context.cohort`."""
        if is_blind(context.manifest):
            return CkksServer(context, keys, archive)
        return MaskedServer(context, keys, archive, KeyAndCiphertext(context))

    def resume(
        self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes
    ) -> CkksServer | MaskedServer:
        """The session at the check of the sum. Raises Malformed."""
        if is_blind(context.manifest):
            return CkksServer(context, keys, archive, blob)
        return MaskedServer.resumed(context, keys, archive, blob, KeyAndCiphertext(context))

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header of the record, unchecked. Raises Malformed."""
        return header_of(aggregate)

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """What the vectors and ciphertexts say of the sum; it takes no opening. Raises Malformed or by blame."""
        return audit_aggregate(context, aggregate, archive, KeyAndCiphertext(context))

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """The blind seeds of the round's sites; nothing if the sum has no pads. Raises Malformed."""
        if state is None or not is_blind(context.manifest):
            return b""
        return Opening(read_state(context, state).seeds).encode()

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean, for who has the survivors' blind seeds; Sealed without them, once the sum is found to be theirs.

        Without pads it takes no seed, and an opening is not looked at.
        """
        if not is_blind(context.manifest):
            return open_aggregate(context, aggregate, {})
        seeds = Opening.decode(opening).seeds if opening else ()
        return open_aggregate(context, aggregate, {each.site: each.seed for each in seeds})
