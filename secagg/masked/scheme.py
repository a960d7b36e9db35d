"""Masked mode behind the common interface."""

from __future__ import annotations

from secagg.config import Manifest, Policy, RoundContext, RoundHeader
from secagg.identity import ServerKeys, SiteKeys
from secagg.lanes import words_for
from secagg.masked.audit import audit_aggregate, header_of
from secagg.masked.client import MaskedClient
from secagg.masked.opening import open_aggregate
from secagg.masked.params import NAME
from secagg.masked.server import MaskedServer
from secagg.masked.states import Fresh
from secagg.session import IDENTITY, Archive, Audit, Mean, Packet, Rng, Update, Words
from secagg.tally import WORDS


class MaskedScheme:
    """Pairwise masks after Bonawitz et al. 2017, with a consistency quorum; the server reads the sum."""

    name = NAME
    needs = frozenset({IDENTITY})
    options = frozenset[str]()
    caution = ""

    def require(self, manifest: Manifest, keys: SiteKeys) -> None:
        """Its identity is all that a site needs. Raises Refused for an option."""
        manifest.require_options(self.options)

    def most_words(self, manifest: Manifest) -> int:
        """The values' words, and the tally's."""
        return words_for(manifest.size, manifest.quantizer.lane_bits) + len(WORDS)

    def client(self, context: RoundContext, keys: SiteKeys, policy: Policy, update: Update, rng: Rng) -> MaskedClient:
        """A fresh session. Raises Refused or Misuse."""
        return MaskedClient(context, keys, policy, update, rng, Fresh())

    def restore(
        self,
        context: RoundContext,
        keys: SiteKeys,
        policy: Policy,
        blob: bytes,
        update: Update | None,
        rng: Rng,
        sent: Words | None = None,
    ) -> MaskedClient:
        """The session that `to_bytes` wrote. Raises Malformed or Misuse."""
        return MaskedClient.restored(context, keys, policy, blob, update, rng, sent)

    def server(self, context: RoundContext, keys: ServerKeys, archive: Archive) -> MaskedServer:
        """A session for the sites of `context.cohort`."""
        return MaskedServer(context, keys, archive)

    def resume(self, context: RoundContext, keys: ServerKeys, archive: Archive, blob: bytes) -> MaskedServer:
        """The session at the check of the sum. Raises Malformed."""
        return MaskedServer.resumed(context, keys, archive, blob)

    def opening(self, context: RoundContext, keys: SiteKeys, state: bytes | None) -> bytes:
        """Nothing is needed."""
        return b""

    def open(self, context: RoundContext, aggregate: Packet, opening: bytes = b"") -> Mean:
        """The mean; no site's secret is needed."""
        return open_aggregate(context, aggregate)

    def header(self, aggregate: Packet) -> RoundHeader:
        """The header of the record, unchecked. Raises Malformed."""
        return header_of(aggregate)

    def audit(self, context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
        """What the masked vectors say of the sum; no site's secret is needed."""
        return audit_aggregate(context, aggregate, archive)
