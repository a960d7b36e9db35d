"""What everybody checks of the signed lists U1, U2, U3 and the quorum, and of the record they end in (spec §11.5).

Errors name the site when its own signature proves the fault, and "site or server" when it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from secagg.config import RoundContext
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed
from secagg.labels import SIGN_KEY_ADVERT, SIGN_MASKED_VECTOR, SIGN_SEALED_SHARES, SIGN_SURVIVORS
from secagg.masked.messages import (
    KeyAdvert,
    MaskedVector,
    RoundRecord,
    ShareStatement,
    SurvivorSignature,
    key_roster_digest,
    seed_commitment,
    share_set_digest,
    survivor_set_digest,
)
from secagg.primitives.agreement import public_key, require_public
from secagg.primitives.signature import is_signed
from secagg.wire import Struct

Signed = KeyAdvert | ShareStatement | MaskedVector | SurvivorSignature


def require_signed(context: RoundContext, label: bytes, message: Struct, site: str, signature: bytes) -> None:
    """Raises FaultyPeerOrServer unless the site's roster key signed the message in this very attempt."""
    if not is_signed(context.identity_key(site), signature, label, context.digest, message.unsigned()):
        raise FaultyPeerOrServer(site, f"its {type(message).__name__} is not signed for this attempt")


def require_advert(context: RoundContext, advert: KeyAdvert) -> None:
    """Checks one advert: its signature, and two different keys of full order. Raises by blame."""
    require_signed(context, SIGN_KEY_ADVERT, advert, advert.site, advert.signature)
    try:
        require_public(advert.share_key)
        require_public(advert.mask_key)
    except Malformed as error:
        raise FaultySite(advert.site, f"it advertises a bad key: {error}") from error
    if advert.share_key == advert.mask_key:
        raise FaultySite(advert.site, "it advertises one key for two uses")


def require_adverts(context: RoundContext, adverts: Sequence[KeyAdvert]) -> None:
    """Checks U1: every advert, and that no key stands in two of them. Raises by blame."""
    for advert in adverts:
        require_advert(context, advert)
    keys = {key for advert in adverts for key in (advert.share_key, advert.mask_key)}
    if len(keys) < 2 * len(adverts):
        raise FaultyServer("the key roster holds one key of two sites")


def require_statements(
    context: RoundContext, adverts: Sequence[KeyAdvert], h1: bytes, statements: Sequence[ShareStatement]
) -> None:
    """Checks U2: a subset of U1, every signature, every site saw the same key roster. Raises by blame."""
    if not {each.site for each in statements} <= {each.site for each in adverts}:
        raise FaultyServer("the share set lists a site outside the key roster")
    for statement in statements:
        require_signed(context, SIGN_SEALED_SHARES, statement, statement.site, statement.signature)
        if statement.key_roster != h1:
            raise FaultyPeerOrServer(statement.site, "it dealt its shares over another key roster")


def require_vectors(context: RoundContext, h2: bytes, vectors: Sequence[MaskedVector]) -> None:
    """Checks U3: every signature, every site masked over the same share set. Raises by blame."""
    for vector in vectors:
        require_signed(context, SIGN_MASKED_VECTOR, vector, vector.site, vector.signature)
        if vector.share_set != h2:
            raise FaultyPeerOrServer(vector.site, "it masked over another share set")


def require_quorum(
    context: RoundContext, h3: bytes, survivors: Sequence[str], signatures: Sequence[SurvivorSignature]
) -> None:
    """Checks that enough survivors signed this survivor set. Raises FaultyServer or FaultyPeerOrServer."""
    quorum = context.manifest.quorum
    if len(signatures) < quorum:
        raise FaultyServer(f"{len(signatures)} signatures are fewer than the quorum {quorum}")
    for each in signatures:
        if each.site not in survivors:
            raise FaultyServer("a site outside the survivor set is counted in the quorum")
        if each.survivor_set != h3:
            raise FaultyServer("a signature of the quorum is on another survivor set")
        require_signed(context, SIGN_SURVIVORS, each, each.site, each.signature)


def require_record(context: RoundContext, record: RoundRecord) -> bytes:
    """Checks a round's record but for its sum: of this attempt, one chain of lists, the secrets they commit to.

    Gives h3. Raises by blame.
    """
    if record.header != context.header:
        raise FaultyServer("the record belongs to another round")
    require_adverts(context, record.adverts)
    h1 = key_roster_digest(context.digest, record.adverts)
    require_statements(context, record.adverts, h1, record.statements)
    h2 = share_set_digest(context.digest, record.statements)
    require_vectors(context, h2, record.vectors)
    survivors = [each.site for each in record.vectors]
    if not set(survivors) <= {each.site for each in record.statements}:
        raise FaultyServer("the survivor set lists a site outside the share set")
    if len(survivors) < context.manifest.least_survivors:
        raise FaultyServer("the survivor set is below the fewest survivors")
    h3 = survivor_set_digest(context.digest, record.vectors)
    require_quorum(context, h3, survivors, record.signatures)
    _require_secrets(context, record)
    return h3


def _require_secrets(context: RoundContext, record: RoundRecord) -> None:
    """Exactly the survivors' seeds and the dropouts' keys are revealed, and they are the committed ones."""
    adverts = {each.site: each for each in record.adverts}
    survivors = [each.site for each in record.vectors]
    dropped = sorted({each.site for each in record.statements} - set(survivors))
    if [each.site for each in record.seeds] != survivors or [each.site for each in record.keys] != dropped:
        raise FaultyServer("the revealed secrets are not the survivors' seeds and the dropouts' keys")
    for seed in record.seeds:
        if seed_commitment(context.digest, seed.secret) != adverts[seed.site].seed_commitment:
            raise FaultyServer(f"the revealed seed of {seed.site} is not the one it committed to")
    for key in record.keys:
        if public_key(key.secret) != adverts[key.site].mask_key:
            raise FaultyServer(f"the revealed key of {key.site} is not the one it advertised")
