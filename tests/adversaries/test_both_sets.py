"""Can a server have one site as survivor for some and as dropout for others, and so both of its secrets?

With the self-mask seed (of a survivor) and the mask key (of a dropout) of one site, its update is open. Seven sites,
of which two collude: threshold and quorum are 5.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest

from secagg.errors import FaultyServer
from secagg.masked.messages import SurvivorProof, SurvivorSet
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.sim import site_name

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
VICTIM = "site-01"
OTHERS = tuple(site_name(i) for i in range(2, 6))
SPLITS = [{VICTIM, *chosen} for size in range(len(OTHERS) + 1) for chosen in combinations(OTHERS, size)]


def two_stories(lab: Lab, told_it_survived: set[str]) -> None:
    """These hear that the victim survived, the other honest sites that it dropped out; colluders sign both."""
    survived = Story.of(*lab.names)
    dropped = survived.but(VICTIM)
    attempt = lab.attempt().run(survived, "mask")
    told_otherwise = set(lab.honest) - told_it_survived
    for phase in (attempt.consent, attempt.unmask):
        phase(survived, *told_it_survived)
        if told_otherwise:
            phase(dropped, *told_otherwise)


@pytest.mark.parametrize("told", SPLITS, ids=lambda told: f"{len(told)} of 5")
def test_however_the_two_stories_are_told_one_sum_is_open_and_never_both_secrets(told: set[str]) -> None:
    known = views_are_identical(lambda lab: two_stories(lab, told), n=7, colluding=COLLUDING)
    assert not known.both()
    survivors = (VICTIM, *OTHERS) if len(told) >= 3 else OTHERS  # whichever story three honest sites and two signed
    assert known.open_to() == [dict.fromkeys(survivors, 1)]


def test_colluders_that_are_no_survivors_do_not_make_up_a_quorum() -> None:
    """Three honest signatures and those of two sites outside the set are three."""
    lab = Lab(7, COLLUDING)
    story = Story.of(*lab.names).but(*COLLUDING)
    attempt = lab.attempt().run(story, "mask")
    signers = (VICTIM, "site-02", "site-03")
    attempt.consent(story, *signers)
    h3 = attempt.h3(story)
    helpers = [lab.view.colluders[name].consent(attempt.context, h3) for name in COLLUDING]
    proof = SurvivorProof((*(attempt.signatures[name] for name in signers), *helpers))
    for name in signers:
        attempt.refuses(name, proof, FaultyServer, "a site outside the survivor set is counted")
    assert what_it_can_compute(lab.view).open_to() == []


def test_a_site_that_heard_one_story_refuses_the_other_before_and_after_it_released_shares() -> None:
    lab = Lab(7, COLLUDING)
    whole = Story.of(*lab.names)
    attempt = lab.attempt().run(whole, "consent")
    other = SurvivorSet(attempt.survivors(whole.but(VICTIM)))
    for name in OTHERS:
        attempt.refuses(name, other, FaultyServer, "out of order at stage signed")
    attempt.unmask(whole)
    for name in OTHERS:
        attempt.refuses(name, other, FaultyServer, "out of order at stage spent")
    assert what_it_can_compute(lab.view).open_to() == [dict.fromkeys(lab.honest, 1)]


def test_even_if_every_site_chose_by_itself_which_secret_to_help_with_only_one_could_be_rebuilt() -> None:
    """The threshold alone, without the quorum: colluders give shares of both, an honest site of one (B.2)."""
    lab = Lab(7, COLLUDING)
    t = lab.manifest.threshold
    for chosen in product(("seed", "key"), repeat=len(lab.honest)):
        shares = {kind: chosen.count(kind) + len(COLLUDING) for kind in ("seed", "key")}
        assert min(shares.values()) < t
    assert len(lab.honest) + len(COLLUDING) >= t  # and all together can: the round works
