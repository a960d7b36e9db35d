"""Can a server learn from sites by giving them different adapters, or parameters of its own making?"""

from __future__ import annotations

from dataclasses import fields

import pytest

from secagg.ckks.messages import BlindBundle, BlindRoster
from secagg.config import RoundHeader
from secagg.enrol import AttemptRef, Finish, Hello, Proposal, RoundStart
from secagg.errors import FaultyPeerOrServer, FaultyServer
from secagg.masked.messages import REQUESTS, KeyAdvert, KeyRoster
from secagg.wire import Length, field_rules, tag_of
from tests.adversaries.forms import masked_part
from tests.adversaries.lab import Lab, Story
from tests.adversaries.worlds import views_are_identical

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
MANY, FEW = ("site-01", "site-02", "site-03"), ("site-04", "site-05")


def two_adapters(lab: Lab) -> None:
    """The sites stand on two adapters, as if a server had made them so; it gives each group its own header."""
    one, other = lab.next_round(*MANY, adapter=b"1" * 32), lab.next_round(*FEW, adapter=b"2" * 32)
    first, second = lab.attempt(1, one), lab.attempt(1, other)
    first.advertise(*MANY)
    second.advertise(*FEW)
    whole = Story.of(*lab.names)
    for attempt, group, theirs in ((first, MANY, second), (second, FEW, first)):
        attempt.adverts = {**theirs.adverts, **attempt.adverts}
        attempt.share(whole, *group)
        own = Story.of(*group, *COLLUDING)
        for phase in ("share", "mask", "consent", "unmask"):
            getattr(attempt, phase)(own, *group)


def test_sites_with_different_adapters_are_in_no_sum_together_and_no_sum_has_fewer_than_three_of_them() -> None:
    """A model made for one site (Pasquini et al., 2022) would need that site alone on it: it finds no quorum."""
    known = views_are_identical(two_adapters, n=7, colluding=COLLUDING)
    assert not known.both()
    assert known.open_to() == [dict.fromkeys(MANY, 1)]


def test_a_site_refuses_the_header_and_the_adverts_of_sites_on_another_adapter() -> None:
    lab = Lab(7, COLLUDING)
    one, other = lab.next_round(*MANY, adapter=b"1" * 32), lab.next_round(*FEW, adapter=b"2" * 32)
    first, second = lab.attempt(1, one), lab.attempt(1, other)
    first.refuses("site-04", first.opening(), FaultyServer, "not opened by the session's server")
    first.advertise(*MANY)
    second.advertise(*FEW)
    first.adverts |= second.adverts
    message = KeyRoster(first.roster(Story.of(*lab.names)))
    first.refuses("site-01", message, FaultyPeerOrServer, "site-04: its .*Advert is not signed for this attempt")


def alone_on_a_model(lab: Lab) -> None:
    """One site on an adapter of its own, with all colluders at its side."""
    position = lab.next_round("site-01", adapter=b"1" * 32)
    attempt = lab.attempt(1, position)
    attempt.advertise("site-01")
    for story in (Story.of("site-01", *COLLUDING), Story.of(*lab.names)):
        for phase in ("share", "mask", "consent", "unmask"):
            getattr(attempt, phase)(story, "site-01")


def test_a_site_alone_on_a_crafted_adapter_sends_keys_and_nothing_else() -> None:
    known = views_are_identical(alone_on_a_model, n=7, colluding=COLLUDING)
    assert known.vectors == []
    assert known.open_to() == []
    lab = Lab(7, COLLUDING)
    alone_on_a_model(lab)
    assert [tag_of(masked_part(each.reply)) for each in lab.view.heard if each.reply] == [KeyAdvert.TAG]


@pytest.mark.parametrize("scheme", ["masked"], indirect=True)
@pytest.mark.parametrize(
    "kind", [*REQUESTS, BlindRoster, BlindBundle, AttemptRef, Finish, Hello, Proposal, RoundHeader, RoundStart]
)
def test_no_request_has_room_for_parameters_or_code(kind: type) -> None:
    """Whatever a server sends, its byte strings are keys, digests, signatures and boxes: none is longer than 82."""
    assert fields(kind)
    for each in field_rules(kind):
        assert not (each.kind is bytes and isinstance(each.rule, Length) and each.rule.most > 82), each
