"""Can a server show two groups of sites different lists, and have more than one sum of them, or a smaller one?

Seven sites, two collude and take part in every story. A sum takes five sites and five signatures.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from secagg.errors import FaultyPeerOrServer, FaultyServer, Refused
from secagg.masked.messages import KeyRoster, ShareBundle, SurvivorSet
from tests.adversaries.lab import Lab, Story
from tests.adversaries.worlds import views_are_identical

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
MANY, FEW = ("site-01", "site-02", "site-03"), ("site-04", "site-05")


def split_at(phase: str, lab: Lab, one: Story, other: Story, many: tuple[str, ...] = MANY) -> None:
    """One story to some, another to the rest, from this phase on; then each story is played as far as it goes."""
    few = tuple(name for name in lab.honest if name not in many)
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    for each in ("share", "mask", "consent", "unmask"):
        apart = PHASES.index(each) >= PHASES.index(phase)
        getattr(attempt, each)(one, *(many if apart else lab.honest))
        if apart:
            getattr(attempt, each)(other, *few)


PHASES = ("share", "mask", "consent", "unmask")
ALL = (*MANY, *FEW, *COLLUDING)
EACH_ITS_OWN = {
    "other adverts of the colluders": ("share", Story.of(*ALL), Story(ALL, ALL, ALL, variant=1)),
    "a site left out of U1": ("share", Story.of(*ALL), Story.of(*ALL[1:])),
    "U1 with only its own group": ("share", Story.of(*MANY, *COLLUDING), Story.of(*ALL)),
    "a site left out of U2": ("mask", Story.of(*ALL), replace(Story.of(*ALL), u2=ALL[1:], u3=ALL[1:])),
    "U2 with only its own group": ("mask", Story(ALL, (*MANY, *COLLUDING), (*MANY, *COLLUDING)), Story.of(*ALL)),
    "a site left out of U3": ("consent", Story.of(*ALL), Story.of(*ALL).but("site-01")),
    "U3 with only its own group": ("consent", Story.of(*ALL).but(*FEW), Story.of(*ALL)),
}


@pytest.mark.parametrize("name", EACH_ITS_OWN)
def test_of_two_groups_that_are_shown_different_lists_at_most_one_gives_a_sum_of_three_honest_sites_or_more(
    name: str,
) -> None:
    phase, one, other = EACH_ITS_OWN[name]
    for few_first in (False, True):
        first, second = (other, one) if few_first else (one, other)
        known = views_are_identical(
            lambda lab, a=first, b=second: split_at(phase, lab, a, b), n=7, colluding=COLLUDING
        )  # fmt: skip
        assert not known.both()
        assert len(known.open_to()) <= 1
        assert all(len(sum_) >= 3 for sum_ in known.open_to())


def split_as_far_as_it_goes(lab: Lab, phase: str) -> None:
    """The best a splitting server can do: each group is told only of itself, so that nothing contradicts."""
    whole = Story.of(*lab.names)
    ours = {
        "share": lambda group: Story.of(*group, *COLLUDING),
        "mask": lambda group: Story(whole.u1, (*group, *COLLUDING), (*group, *COLLUDING)),
        "consent": lambda group: Story(whole.u1, whole.u2, (*group, *COLLUDING)),
    }[phase]
    split_at(phase, lab, ours(MANY), ours(FEW))


@pytest.mark.parametrize("phase", ["share", "mask", "consent"])
def test_a_server_that_cuts_the_sites_in_two_opens_the_larger_part_alone(phase: str) -> None:
    known = views_are_identical(lambda lab: split_as_far_as_it_goes(lab, phase), n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(MANY, 1)]
    assert not known.both()


def test_each_site_refuses_a_list_with_the_other_groups_word_in_it() -> None:
    """What was said in another story does not fit into this one: statements name U1, vectors name U2."""
    lab = Lab(7, COLLUDING)
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    one, other = Story.of(*ALL), Story(ALL, ALL, ALL, variant=1)
    attempt.share(one, *MANY)
    attempt.share(other, *FEW)
    for site, story in (("site-01", one), ("site-04", other)):
        rule = "it dealt its shares over another key roster|its blind box does not open"
        attempt.refuses(site, attempt.bundle(story, site), FaultyPeerOrServer, rule)
    lab = Lab(7, COLLUDING)
    attempt = lab.attempt().run(one, "share")
    less = replace(one, u2=ALL[1:], u3=ALL[1:])
    attempt.mask(one, *MANY)
    attempt.mask(less, *FEW)
    for site, story in (("site-01", one), ("site-04", less)):
        message = SurvivorSet(attempt.survivors(replace(story, u3=story.u2)))
        attempt.refuses(site, message, FaultyPeerOrServer, "it masked over another share set")


@pytest.mark.parametrize("phase", ["share", "mask", "consent"])
def test_a_group_below_the_fewest_survivors_is_refused_at_every_list(phase: str) -> None:
    lab = Lab(7, COLLUDING)
    whole, small = Story.of(*ALL), (*FEW, *COLLUDING)
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    for each in PHASES[: PHASES.index(phase)]:
        getattr(attempt, each)(whole)
    message = {
        "share": lambda: KeyRoster(attempt.roster(Story.of(*small))),
        "mask": lambda: attempt.bundle(replace(whole, u2=small), FEW[0]),
        "consent": lambda: SurvivorSet(attempt.survivors(replace(whole, u3=small))),
    }[phase]()
    assert isinstance(message, KeyRoster | ShareBundle | SurvivorSet)
    attempt.refuses(FEW[0], message, Refused, "of 4 is below 5")


@pytest.mark.parametrize("phase", ["share", "mask", "consent"])
def test_a_site_refuses_a_list_from_which_it_is_missing(phase: str) -> None:
    """It would mask, sign or deal in a round in which the others do not know of it."""
    lab = Lab(7, COLLUDING)
    whole, without = Story.of(*ALL), Story.of(*ALL[1:])
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    for each in PHASES[: PHASES.index(phase)]:
        getattr(attempt, each)(whole)
    message, rule = {
        "share": lambda: (KeyRoster(attempt.roster(without)), "misstates this site's own keys"),
        "mask": lambda: (attempt.bundle(replace(whole, u2=ALL[1:]), ALL[0]), "misstates this site's own statement"),
        "consent": lambda: (SurvivorSet(attempt.survivors(whole.but(ALL[0]))), "misstates this site's own vector"),
    }[phase]()
    attempt.refuses(ALL[0], message, FaultyServer, rule)


def two_headers(lab: Lab) -> None:
    """Three sites are in attempt 1 and two in attempt 2; each group's messages are tried on the other."""
    whole = Story.of(*lab.names)
    first, second = lab.attempt(1), lab.attempt(2)
    first.advertise(*MANY)
    second.advertise(*FEW)
    first.adverts |= second.adverts
    second.adverts |= {name: first.adverts[name] for name in MANY}
    for phase in PHASES:
        getattr(first, phase)(whole, *MANY)
        getattr(second, phase)(whole, *FEW)
    alone = Story.of(*MANY, *COLLUDING)
    for phase in PHASES:
        getattr(first, phase)(alone, *MANY)
        getattr(second, phase)(Story.of(*FEW, *COLLUDING), *FEW)


def test_sites_under_different_headers_never_enter_one_sum() -> None:
    known = views_are_identical(two_headers, n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(MANY, 1)]
    lab = Lab(7, COLLUDING)
    first, second = lab.attempt(1), lab.attempt(2)
    first.advertise(*MANY)
    second.advertise(*FEW)
    first.adverts |= second.adverts
    rule = "site-04: its .*Advert is not signed for this attempt"
    first.refuses("site-01", KeyRoster(first.roster(Story.of(*ALL))), FaultyPeerOrServer, rule)
    first.refuses("site-04", first.opening(), Refused, "not after the last one")
    with_server = replace(first.opening(), header=second.context.header)
    first.refuses("site-01", with_server, FaultyServer, "out of order|not opened")
