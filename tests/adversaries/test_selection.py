"""Can a server have two sums on one adapter whose survivor sets differ by few sites, and subtract them?

Within a session it gets at most one sum for each adapter, whatever it tries (spec §16.1 rule 2, B.3): so there is
nothing to subtract. Across sessions it gets none on an adapter that was trained before: one nonce, one session.
What is left is the comparison of rounds and of sessions on other adapters, which spec §18.2 names.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import combinations

import pytest

from fedserver.checkpoint import Checkpoint
from fedserver.plan import ServerError
from secagg.config import Manifest
from secagg.enrol import Proposal
from secagg.errors import FaultyServer, Refused
from secagg.masked.messages import SurvivorProof
from secagg.session import Packet
from secagg.thresholds import plan
from tests.adversaries.ending import Ending
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.federation.direct import Bench, Where
from tests.masked.stage import swapped
from tests.sim import Dice, site_name

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
WHOLE = Story.of(*(site_name(i) for i in range(1, 8)))
HONEST = tuple(site_name(i) for i in range(1, 6))
SOME = [chosen for size in range(6) for chosen in combinations(HONEST, size)]


def opened_as_far_as_may_be(lab: Lab, released: Sequence[str]) -> None:
    """These release shares for the whole set; then everybody is asked into attempt 2, for the set without site-01."""
    whole = Story.of(*lab.names)
    first = lab.attempt(1).run(whole, "consent")
    if released:
        first.unmask(whole, *released)
    second = lab.attempt(2)
    second.advertise(*lab.honest)
    here = Story.of(*second.adverts, *COLLUDING)
    for phase in (second.share, second.mask):
        phase(here)
    for phase in (second.consent, second.unmask):
        phase(here.but("site-01"))
    first.unmask(whole, *lab.honest)


@pytest.mark.parametrize("released", SOME[::3], ids=lambda released: "+".join(released) or "nobody")
def test_whoever_released_shares_in_one_attempt_no_other_attempt_of_the_round_opens_beside_it(
    released: Sequence[str],
) -> None:
    """The sums of all and of all but one would give that one's update. Whatever the server tries, it has one."""
    known = views_are_identical(lambda lab: opened_as_far_as_may_be(lab, released), n=7, colluding=COLLUDING)
    assert len(known.open_to()) <= 1
    assert not known.both()


def test_the_two_sums_of_one_round_are_never_both_there_for_any_number_of_sites_and_colluders() -> None:
    """B.3 by numbers: those that released in one attempt and those that release in a later one are not the same."""
    for n in range(3, 101):
        for c in range(max(1, (n - 1) // 3) + 1):
            t = plan(n, c).threshold
            assert 2 * (t - c) > n - c


def test_a_site_that_signed_in_a_later_attempt_releases_nothing_for_an_earlier_one() -> None:
    """All signed U3 in attempt 1, and a smaller one in attempt 2: the server must choose one before shares leave."""
    lab = Lab(7, COLLUDING)
    whole = Story.of(*lab.names)
    first = lab.attempt(1).run(whole, "consent")
    second = lab.attempt(2).run(whole.but("site-01"))
    proof = first.proof(whole)
    assert proof is not None
    for name in lab.honest:
        first.refuses(name, proof, Refused, "this attempt is not after the last one|holds no update|unmask shares")
    assert set(second.shares) == set(HONEST) - {"site-01"}
    assert what_it_can_compute(lab.view).open_to() == [dict.fromkeys(HONEST[1:], 1)]


def test_an_update_is_not_masked_again_once_a_share_has_left_and_no_new_one_is_trained_for_the_round() -> None:
    lab = Lab(7, COLLUDING)
    lab.attempt(1).run(Story.of(*lab.names))
    for number in (2, 3, 1000):
        attempt = lab.attempt(number)
        for name in lab.honest:
            attempt.refuses(name, attempt.opening(), Refused, "unmask shares already left for this round")
        assert all(lab.machines[name].update is None for name in lab.honest)


def test_the_real_sites_keep_to_it_when_the_server_loses_shares_and_tries_for_another_set(bench: Bench) -> None:
    """Two sites release shares, the server calls the attempt void, and tries again without one of the others."""
    tried: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        if where.asks("unmask") and where.site in ("site-01", "site-02", "site-03"):
            return None
        if where.attempt > 1:
            tried.append(where.phase)
        return packets

    bench.link.alter_request = request
    with pytest.raises(ServerError, match="server"):
        bench.run()
    assert tried and set(tried) == {"advertise"}
    assert {code for phase, code in bench.codes("site-04") if phase == "advertise"} == {"refused"}
    assert all(learner.trained == [1] for learner in bench.learners.values())


def one_round_two_records(lab: Lab) -> None:
    """Both records are true and name the same sum; they hold other signatures, so the sites' chains part."""
    attempt = lab.attempt(1).run(WHOLE)
    first = Ending(attempt, WHOLE)
    second = copy(first)
    second.record = replace(first.record, signatures=first.record.signatures[:-1])
    few = HONEST[3:]
    for name in lab.honest:
        ending = second if name in few else first
        assert attempt.finish(name, ending.packet(ending.record, ending.sum, ()))
        lab.machines[name].update = lab.inputs[name]
    for group in (HONEST[:3], few):
        story = Story.of(*group, *COLLUDING)
        next_ = Attempt(lab, lab.machines[group[0]].context(1))
        next_.run(story, machines=group)
        next_.run(WHOLE, machines=group)


def test_of_groups_on_one_adapter_that_were_given_different_true_records_at_most_one_gives_a_sum() -> None:
    """The adapter is the same in both, so two sums on it would be one too many; two groups of m sites do not fit."""
    lab = Lab(7, COLLUDING)
    one_round_two_records(lab)
    assert len({party.position.adapter for party in lab.machines.values()}) == 1
    assert len({party.position for party in lab.machines.values()}) == 2
    known = what_it_can_compute(lab.view)
    rounds = [known.vectors[min(terms)].context.header.round for terms in known.sums]
    assert sorted(rounds) == [1, 2]
    assert known.open_to()[rounds.index(2)] == dict.fromkeys(HONEST[:3], 1)
    assert not known.both()


# ---------------------------------------------------------------------- across sessions


def smaller(manifest: Manifest, gone: str) -> Manifest:
    """The same session without one site: same nonce, hence same adapter."""
    sites = tuple(each for each in manifest.sites if each != gone)
    numbers = plan(len(sites), manifest.colluders)
    return replace(
        manifest, sites=sites, dropouts=numbers.dropouts, threshold=numbers.threshold, quorum=numbers.quorum,
        least_survivors=numbers.least_survivors,
    )  # fmt: skip


def test_a_second_session_on_the_same_adapter_with_one_site_less_is_refused_by_every_site(bench: Bench) -> None:
    """Even where policies allow sessions without the whole roster, after a restart, and after the first one ended."""
    for name in bench.names:
        bench.policies[name] = replace(bench.policies[name], whole_roster=False)
    bench.restart(*bench.names)
    bench.run()
    manifest = Checkpoint(bench.folder / "out" / "state").manifest()
    assert manifest is not None
    again = smaller(manifest, "site-05")
    for restarted in (False, True):
        if restarted:
            bench.restart(*bench.names)
        for name in again.sites:
            site = bench.link.members[name]
            before = bench.state(name)
            site.handle("propose", [Packet(Proposal(1, "masked", again.nonce, again.roster, again.settings).encode())])
            with pytest.raises(Refused, match="another session used this nonce"):
                site.handle("consent", [Packet(again.encode())])
            assert bench.state(name) == before


def test_a_signature_for_one_session_counts_in_no_other() -> None:
    lab = Lab(7, COLLUDING)
    other = Lab(7, COLLUDING, nonce=Dice("another")(32))
    whole = Story.of(*lab.names)
    here, there = lab.attempt().run(whole, "consent"), other.attempt().run(whole, "consent")
    proof = here.proof(whole)
    assert proof is not None
    mixed = swapped(proof.signatures, "site-02", there.signatures["site-02"])
    here.refuses("site-01", SurvivorProof(mixed), FaultyServer, "on another survivor set")
