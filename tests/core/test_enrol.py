"""What a site says around the rounds counts only under its own signature, for its own message type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secagg.chain import Position
from secagg.enrol import (
    SIGNED,
    Consent,
    Here,
    ModelCard,
    OpeningFor,
    OpeningWanted,
    Ready,
    Tensor,
    require_from,
    signed_by,
)
from secagg.errors import FaultySite, Malformed, Refused
from secagg.identity import SiteKeys
from tests.sim import Consortium

CONSORTIUM = Consortium(4)
POSITION = Position(bytes(32), 0, bytes(32), bytes(32), 1)
CARD = ModelCard("site-01", bytes(32), (Tensor("a", 2, 3), Tensor("b", 1, 1)), *[bytes(32)] * 4, bytes(64))
DRAFTS = [
    Here("site-01", bytes(32), bytes(64)), CARD, Consent("site-01", POSITION, bytes(64)),
    Ready("site-01", POSITION, bytes(64)), OpeningWanted("site-01", bytes(32), 1, 1, bytes(32), bytes(64)),
    OpeningFor("site-01", bytes(32), b"sealed", bytes(64)),
]  # fmt: skip
each_draft = pytest.mark.parametrize("draft", DRAFTS, ids=lambda each: type(each).__name__)


@each_draft
def test_a_message_counts_only_under_its_sites_signature(draft) -> None:  # type: ignore[no-untyped-def]
    signed = signed_by(CONSORTIUM.keys["site-01"], draft)
    assert require_from(CONSORTIUM.roster, "site-01", signed) == signed
    with pytest.raises(FaultySite, match="not signed by its key"):
        require_from(CONSORTIUM.roster, "site-01", draft)
    other = SiteKeys("site-01", CONSORTIUM.keys["site-02"].identity)
    with pytest.raises(FaultySite, match="not signed by its key"):
        require_from(CONSORTIUM.roster, "site-01", signed_by(other, draft))
    with pytest.raises(FaultySite, match="another site's name") as caught:
        require_from(CONSORTIUM.roster, "site-02", signed)
    assert caught.value.site == "site-02"
    with pytest.raises(Refused, match="not on the roster"):
        require_from(CONSORTIUM.roster, "stranger", replace(signed, site="stranger"))


def test_consent_is_not_readiness() -> None:
    """Both hold a position: only tag and label tell the signatures apart."""
    consent = signed_by(CONSORTIUM.keys["site-01"], DRAFTS[2])
    assert isinstance(consent, Consent)
    ready = Ready(consent.site, consent.position, consent.signature)
    with pytest.raises(FaultySite, match="Ready is not signed"):
        require_from(CONSORTIUM.roster, "site-01", ready)
    assert len(set(SIGNED.values())) == len(SIGNED) == len(DRAFTS)


def test_an_answer_to_another_nonce_is_not_this_answer() -> None:
    here = signed_by(CONSORTIUM.keys["site-01"], DRAFTS[0])
    assert isinstance(here, Here)
    with pytest.raises(FaultySite):
        require_from(CONSORTIUM.roster, "site-01", replace(here, nonce=b"n" * 32))


def test_a_model_card_gives_the_layout_and_cannot_list_a_tensor_twice() -> None:
    assert CARD.layout().tensors == (("a", (2, 3)), ("b", (1, 1)))
    with pytest.raises(Malformed, match="ascending"):
        replace(CARD, tensors=(Tensor("b", 1, 1), Tensor("a", 1, 1)))
    with pytest.raises(Malformed, match="ascending"):
        replace(CARD, tensors=(Tensor("a", 1, 1), Tensor("a", 1, 1)))
