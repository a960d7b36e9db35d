"""What everybody checks of a round's opening, its contributions and its record (spec §21.7)."""

from __future__ import annotations

from secagg.ckks_shared.messages import Contribution, SumRecord
from secagg.config import RoundContext
from secagg.errors import FaultyPeerOrServer, FaultyServer
from secagg.labels import SIGN_CONTRIBUTION, SIGN_ROUND_OPEN
from secagg.masked.messages import RoundOpen
from secagg.primitives.signature import is_signed


def require_opened(context: RoundContext, opened: RoundOpen) -> None:
    """It is the server's, of this attempt, and asks sites of the session alone. Raises FaultyServer."""
    signed = context.digest, opened.unsigned()
    if opened.header != context.header:
        raise FaultyServer("the round header is not the one this site expects")
    if not is_signed(context.manifest.server_key, opened.signature, SIGN_ROUND_OPEN, *signed):
        raise FaultyServer("the round is not opened by the session's server")
    if not set(opened.cohort) <= set(context.manifest.sites):
        raise FaultyServer("the cohort is not this session's")


def require_contribution(context: RoundContext, contribution: Contribution) -> None:
    """Raises FaultyPeerOrServer unless its site signed it in this very attempt."""
    key = context.identity_key(contribution.site)
    if not is_signed(key, contribution.signature, SIGN_CONTRIBUTION, context.digest, contribution.unsigned()):
        raise FaultyPeerOrServer(contribution.site, "its Contribution is not signed for this attempt")


def require_record(context: RoundContext, record: SumRecord) -> None:
    """Checks a round's record but for its sum. Raises by blame."""
    require_opened(context, record.opened)
    if not set(record.survivors()) <= set(record.opened.cohort):
        raise FaultyServer("the record lists a site outside the cohort")
    if len(record.contributions) < context.manifest.least_survivors:
        raise FaultyServer("the survivors are below the fewest survivors")
    for each in record.contributions:
        require_contribution(context, each)
