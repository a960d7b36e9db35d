"""What does a server with c colluding sites learn? Exactly the sum of the honest survivors; and beyond c, more.

The last tests show that the laboratory sees a leak where there is one.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.config import Manifest, Policy
from secagg.errors import FaultyServer, Malformed, Misuse, Refused, TooFewSites
from secagg.identity import public_bytes, sign_roster
from secagg.masked.messages import KeyRoster, SurvivorProof, SurvivorSet
from secagg.schemes import scheme_named
from secagg.session import InMemory
from secagg.thresholds import plan
from secagg.wire import encode_plain, field_rules
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Lab, Story
from tests.adversaries.parties import Colluder, words_of_update
from tests.adversaries.worlds import assert_masked_once, views_are_identical
from tests.sim import Consortium, Dice, site_name

pytestmark = pytest.mark.usefixtures("scheme")


def colluders(n: int, c: int) -> tuple[str, ...]:
    return tuple(site_name(i) for i in range(n - c + 1, n + 1))


def with_dropouts(lab: Lab, late: int, later: int) -> None:
    """A round in which the first sites vanish: `late` before they dealt shares, `later` before they sent a vector."""
    gone, names = lab.honest[:late], lab.honest[late : late + later]
    story = Story(lab.names, tuple(w for w in lab.names if w not in gone), ())
    story = replace(story, u3=tuple(w for w in story.u2 if w not in names))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    attempt.share(story, *(w for w in lab.honest if w not in gone))
    for phase in (attempt.mask, attempt.consent, attempt.unmask):
        phase(story, *(w for w in lab.honest if w in story.u3))


@pytest.mark.parametrize("n", [3, 4, 5, 7, 10])
@pytest.mark.parametrize("colluding", [False, True])
def test_server_and_colluders_learn_the_sum_of_the_honest_survivors_and_nothing_else(n: int, colluding: bool) -> None:
    """With as many dropouts as declared, in two phases; weights up to the cap, counts and losses in the sum."""
    numbers = plan(n)
    helpers = colluders(n, numbers.colluders if colluding else 0)
    late, later = numbers.dropouts - numbers.dropouts // 2, numbers.dropouts // 2
    known = views_are_identical(lambda lab: with_dropouts(lab, late, later), n=n, colluding=helpers, cap=5)
    lab = Lab(n, helpers, cap=5)
    left = lab.honest[numbers.dropouts :]
    assert known.open_to() == lab.if_read(dict.fromkeys(left, 1))
    assert len(left) >= numbers.least_survivors - numbers.colluders >= (2 if n == 3 else 3)
    total = sum(words_of_update(lab.attempt().context, lab.inputs[site]) for site in left)
    assert all(known.value(terms).tobytes() == total.tobytes() for terms in known.sums)
    assert not known.both()


def test_a_vector_of_a_site_that_was_called_a_dropout_stays_under_its_own_mask() -> None:
    """It sent y, and the server denies it: its mask key is rebuilt, its self-mask seed never."""

    def denied(lab: Lab) -> None:
        whole = Story.of(*lab.names)
        attempt = lab.attempt().run(whole, "mask")
        for phase in (attempt.consent, attempt.unmask):
            phase(whole.but("site-01"))

    known = views_are_identical(denied, n=7, colluding=colluders(7, 2))
    assert known.open_to() == [dict.fromkeys(("site-02", "site-03", "site-04", "site-05"), 1)]
    (victim,) = [each for each in known.vectors if each.site == "site-01"]
    assert [mask.sites for mask in victim.unknown] == [("site-01",)]


@pytest.mark.parametrize("phase", ["advertise", "share", "mask", "consent"])
def test_an_attempt_that_ends_before_shares_are_released_shows_nothing(phase: str) -> None:
    def broken_off(lab: Lab) -> None:
        lab.attempt().run(Story.of(*lab.names), phase)

    known = views_are_identical(broken_off, n=7, colluding=colluders(7, 2))
    assert known.open_to() == []
    assert not [each for each in known.secrets if each in {a.mask_key for a in known.adverts}]


@pytest.mark.parametrize("n", [4, 5, 7, 10, 20, 100])
def test_no_session_can_be_made_in_which_a_sum_has_fewer_than_three_honest_terms(n: int) -> None:
    numbers = plan(n)
    assert numbers.least_survivors - numbers.colluders >= 3
    manifest = Consortium(n).manifest(12)
    for fewer in {numbers.least_survivors - 1, 3} - {numbers.least_survivors}:
        with pytest.raises(Misuse, match="fewest survivors"):
            replace(manifest, least_survivors=fewer)
        plain = manifest.plain()
        plain[[each.name for each in field_rules(Manifest)].index("least_survivors")] = fewer
        with pytest.raises((Malformed, Misuse), match="fewest survivors"):
            Manifest.decode(encode_plain([Manifest.TAG, *plain]))


def test_identity_keys_stolen_after_a_round_open_nothing_of_it() -> None:
    """Every site's identity key, and what every site still keeps, in the server's hands once the shares have left.

    The thief signs a quorum on another survivor set; there is nobody left who would give it a share, and no secret of
    the round is to be found at the sites. (Seeds b of survivors are public by then.)
    """
    lab = Lab(7)
    whole = Story.of(*lab.names)
    attempt = lab.attempt().run(whole)
    other = whole.but("site-01")
    keys = lab.consortium.keys
    h3 = attempt.h3(other)
    signed = (Colluder(keys[site], lab.inputs[site]).consent(attempt.context, h3) for site in other.u3)
    proof = SurvivorProof(tuple(signed))
    for name, party in lab.machines.items():
        attempt.refuses(name, proof, FaultyServer, "out of order at stage spent")
        attempt.refuses(name, SurvivorSet(attempt.survivors(other)), FaultyServer, "out of order at stage spent")
        assert party.saved is not None
        assert party.update is None
        opening = scheme_named(Lab.scheme).opening(party.context(1), party.keys, party.saved[2])
        kept = party.saved[2].replace(opening[3:], b"") if opening else party.saved[2]
        assert not [secret for secret in party.inside.values() if secret in kept]
    known = what_it_can_compute(lab.view)
    assert known.open_to() == lab.if_read(dict.fromkeys(lab.names, 1))
    assert not known.secrets.keys() & {advert.mask_key for advert in known.adverts}


# ---------------------------------------------------------------------- Sybils and tiny cohorts


def test_invented_sites_have_no_say_unless_the_root_signs_them() -> None:
    """A server that makes up sites makes up a roster; nobody whose root is another accepts it."""
    consortium = Consortium(5)
    forger = Ed25519PrivateKey.from_private_bytes(Dice("forger")(32))
    extra = replace(
        consortium.roster.sites[-1], site="site-99", identity_key=public_bytes(forger), node_key=Dice("node")(120)
    )
    padded = replace(consortium.roster, sites=(*consortium.roster.sites, extra))
    for forged in (
        padded,
        sign_roster(padded, forger),
        sign_roster(replace(padded, root_key=public_bytes(forger)), forger),
    ):
        with pytest.raises(Malformed, match="not signed by the consortium's root"):
            forged.verify(public_bytes(consortium.root), 1000)
    lab = Lab(7, colluders(7, 2))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    whole = attempt.roster(Story.of(*lab.names))
    sybil = replace(whole[-1], site="site-99")
    assert attempt.ask("site-01", KeyRoster((*whole, sybil))) is None
    assert re.search("outside the cohort|not part of this session", str(attempt.refusals["site-01"]))
    invited = attempt.opening((*lab.names, "site-99"))
    Lab(7).attempt().refuses("site-01", invited, FaultyServer, "the cohort is not this session's")


@pytest.mark.parametrize("size", range(1, 5))
def test_a_cohort_below_the_fewest_survivors_gets_no_advert_from_any_of_its_sites(size: int) -> None:
    lab = Lab(7, colluders(7, 2))
    cohort = lab.names[:size]
    with pytest.raises(TooFewSites):
        context = replace(lab.attempt().context, cohort=cohort)
        scheme_named(Lab.scheme).server(context, lab.consortium.server_keys, InMemory())
    attempt = lab.attempt()
    for name in cohort:
        attempt.refuses(name, attempt.opening(cohort), Refused, f"cohort of {size} is below 5")


def test_a_site_may_ask_for_more_survivors_and_more_declared_colluders_than_the_server_proposes() -> None:
    """Its own minimum, checked when it agrees and again whenever it builds a session of an attempt."""
    for policy, rule in (
        (Policy(least_survivors=6), "5 survivors are fewer than 6"),
        (Policy(least_threshold=6), "threshold 5 is below 6"),
        (Policy(least_colluders=3), "2 declared colluders are fewer than 3"),
    ):
        lab = Lab(7)
        lab.machines["site-03"].policy = policy
        attempt = lab.attempt()
        attempt.refuses("site-03", attempt.opening(), Refused, f"this site's policy: {rule}")


# ---------------------------------------------------------------------- beyond what is claimed


def test_all_but_one_site_and_the_server_read_that_ones_update() -> None:
    """Not defended (spec §18.2): the sum less their own terms. The laboratory sees it."""
    lab = Lab(7, colluders(7, 6))
    lab.attempt().run(Story.of(*lab.names))
    known = what_it_can_compute(lab.view)
    assert known.open_to() == [{"site-01": 1}]
    words = words_of_update(lab.attempt().context, lab.inputs["site-01"])
    assert known.value(known.sums[0]).tobytes() == words.tobytes()


def test_with_more_colluders_than_declared_two_quorums_fit_and_a_victim_is_read() -> None:
    """Six sites, one colluder declared and two at work: the bound on c is what carries the both-sets claim."""
    lab = Lab(6, colluders(6, 2))
    assert lab.manifest.colluders == 1
    whole = Story.of(*lab.names)
    attempt = lab.attempt().run(whole, "mask")
    stories = {whole: ("site-01", "site-02"), whole.but("site-01"): ("site-03", "site-04")}
    for story, told in stories.items():
        attempt.consent(story, *told)
    for story, told in stories.items():
        attempt.unmask(story, *told)
    known = what_it_can_compute(lab.view)
    assert known.both() == {"site-01"}
    assert {"site-01": 1} in known.open_to()
    with pytest.raises(AssertionError):
        views_are_identical(lambda lab: play(lab, stories), n=6, colluding=colluders(6, 2))


def play(lab: Lab, stories: dict[Story, tuple[str, ...]]) -> None:
    attempt = lab.attempt().run(Story.of(*lab.names), "mask")
    for phase in (attempt.consent, attempt.unmask):
        for story, told in stories.items():
            phase(story, *told)


def test_the_two_worlds_are_told_apart_when_a_mask_is_left_out() -> None:
    """The method is not empty: with one pair mask less on a vector, the lab's book-keeping does not come out."""
    lab = Lab(5)
    lab.attempt().run(Story.of(*lab.names))
    known = what_it_can_compute(lab.view)
    vector = known.vectors[0]
    mask, sign = next(iter(vector.unknown.items()))
    vector.unknown = {mask: -sign, **{m: s for m, s in vector.unknown.items() if m != mask}}
    with pytest.raises(AssertionError):
        assert_masked_once(vector, lab.inside(), lab.inputs)
