"""Can anything that was sent once be used again: in another phase, attempt, round or session, or for another site?

A real attempt is recorded whole: every request and every reply. Then each of it is tried where it does not belong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest

from secagg.errors import FaultyPeerOrServer, FaultyServer, Malformed, Refused
from secagg.masked import masks
from secagg.masked.messages import KeyRoster, SurvivorProof, SurvivorSet
from secagg.primitives.prg import Stream
from secagg.session import Packet
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.masked.stage import swapped
from tests.sim import Dice

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
WHOLE = Story.of(*(f"site-{i:02d}" for i in range(1, 8)))
PHASES = ("advertise", "share", "mask", "consent", "unmask")
ME, PEER = "site-02", "site-03"
NOBODY_IS_PERSUADED = (FaultyServer, FaultyPeerOrServer, Malformed, Refused)


def recorded(**manifest: object) -> Lab:
    """A lab whose first attempt is over up to the unmask shares, which nobody was asked for."""
    lab = Lab(7, COLLUDING, **manifest)  # type: ignore[arg-type]
    lab.attempt(1).run(WHOLE, "consent")
    return lab


def elsewhere(kind: str) -> tuple[Lab, Attempt, Attempt]:
    """The laboratory, the recorded attempt, and another one that is about to begin."""
    lab = Lab(7, COLLUDING)
    old = lab.attempt(1).run(WHOLE, "consent")
    if kind == "attempt":
        return lab, old, lab.attempt(2)
    if kind == "round":
        return lab, old, lab.attempt(1, lab.next_round())
    other = Lab(7, COLLUDING, nonce=Dice("another session")(32))
    return other, old, other.attempt(1)


@pytest.mark.parametrize("kind", ["attempt", "round", "session"])
def test_no_recorded_request_is_answered_at_any_stage_of_another(kind: str) -> None:
    """At each stage each site is sent every request it ever got: no byte leaves, and the honest attempt goes on."""
    lab, old, new = elsewhere(kind)
    requests = {(each.site, each.request) for each in old.view.heard}
    for phase in PHASES:
        for site, request in sorted(requests):
            assert new.ask(site, Packet(request)) is None, f"{site} answered a replay before {phase}"
            assert isinstance(new.refusals[site], NOBODY_IS_PERSUADED)
        if phase == "advertise":
            new.advertise(*lab.honest)
        else:
            getattr(new, phase)(WHOLE)
    assert set(new.shares) == set(lab.honest)
    assert not what_it_can_compute(lab.view).both()


REPLAYED: dict[str, Callable[[Attempt, Attempt], object]] = {
    "share": lambda old, new: KeyRoster(swapped(new.roster(WHOLE), PEER, old.adverts[PEER])),
    "mask": lambda old, new: replace(
        new.bundle(WHOLE, ME),
        statements=swapped(new.statements(WHOLE), PEER, old.sealed[PEER].statement),
    ),
    "consent": lambda old, new: SurvivorSet(swapped(new.survivors(WHOLE), PEER, old.vectors[PEER])),
    "unmask": lambda old, new: SurvivorProof(swapped(proof(new), PEER, old.signatures[PEER])),
}


def proof(attempt: Attempt) -> tuple[object, ...]:
    found = attempt.proof(WHOLE)
    assert found is not None
    return found.signatures


@pytest.mark.parametrize("kind", ["attempt", "round", "session"])
@pytest.mark.parametrize("phase", REPLAYED)
def test_a_peers_recorded_reply_does_not_count_in_another(kind: str, phase: str) -> None:
    """In a message that is right but for this one entry."""
    lab, old, new = elsewhere(kind)
    for each in PHASES[: PHASES.index(phase)]:
        if each == "advertise":
            new.advertise(*lab.honest)
        else:
            getattr(new, each)(WHOLE)
    message = REPLAYED[phase](old, new)
    assert new.ask(ME, message) is None  # type: ignore[arg-type]
    assert isinstance(new.refusals[ME], FaultyServer | FaultyPeerOrServer)
    getattr(new, phase)(WHOLE, ME)
    assert ME not in new.refusals


def test_a_box_of_another_attempt_does_not_open() -> None:
    _, old, new = elsewhere("attempt")
    new.run(WHOLE, "share")
    bundle = new.bundle(WHOLE, ME)
    box = next(each for each in old.bundle(WHOLE, ME).boxes if each.site == PEER)
    error = new.refuses(ME, replace(bundle, boxes=swapped(bundle.boxes, PEER, box)), FaultyPeerOrServer, "not open")
    assert error.site == PEER  # type: ignore[attr-defined]


@pytest.mark.parametrize("phase", REPLAYED)
def test_a_sites_reply_under_another_sites_name_does_not_count(phase: str) -> None:
    """Across sites: what PEER signed, with only the name changed, in the place of a third site's."""
    lab = Lab(7, COLLUDING)
    attempt = lab.attempt()
    for each in PHASES[: PHASES.index(phase)]:
        if each == "advertise":
            attempt.advertise(*lab.honest)
        else:
            getattr(attempt, each)(WHOLE)
    third = "site-04"
    of = {"share": attempt.adverts, "consent": attempt.vectors, "unmask": attempt.signatures}
    signed = attempt.sealed[PEER].statement if phase == "mask" else of[phase][PEER]
    renamed = replace(signed, site=third)  # type: ignore[type-var]
    lists = {
        "share": lambda: KeyRoster(swapped(attempt.roster(WHOLE), third, renamed)),
        "mask": lambda: replace(
            attempt.bundle(WHOLE, ME), statements=swapped(attempt.statements(WHOLE), third, renamed)
        ),
        "consent": lambda: SurvivorSet(swapped(attempt.survivors(WHOLE), third, renamed)),
        "unmask": lambda: SurvivorProof(swapped(proof(attempt), third, renamed)),
    }
    error = attempt.refuses(ME, lists[phase](), FaultyPeerOrServer, f"{third}: .* is not signed for this attempt")
    assert error.site == third  # type: ignore[attr-defined]


def test_no_recorded_request_gets_a_second_answer_in_its_own_attempt() -> None:
    lab = recorded()
    attempt = lab.attempt(1)
    for each in list(lab.view.heard):
        attempt.refuses(each.machine, Packet(each.request), FaultyServer, "out of order at stage signed|or twice")


def everything_twice(lab: Lab) -> None:
    """Two attempts and a third that is opened, with every request of all of them sent to every site throughout."""
    for number in (1, 2, 3):
        attempt = lab.attempt(number)
        for phase in PHASES[: 3 if number == 2 else 5]:
            for site, request in sorted({(each.site, each.request) for each in lab.view.heard}):
                attempt.ask(site, Packet(request))
            if phase == "advertise":
                attempt.advertise(*lab.honest)
            elif number < 3 and phase == "unmask":
                continue
            else:
                getattr(attempt, phase)(WHOLE)


def test_a_server_that_repeats_everything_to_everybody_learns_the_one_sum() -> None:
    known = views_are_identical(everything_twice, n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(WHOLE.u1[:5], 1)]


def test_no_mask_is_ever_used_for_a_second_vector() -> None:
    """Over three attempts and two rounds: each self mask is expanded once, each pair's mask once at each end."""
    expanded: Counter[bytes] = Counter()

    class Counted(Stream):
        def __init__(self, seed: bytes, start: int = 0) -> None:
            super().__init__(seed, start)
            expanded[seed] += 1

    lab = Lab(7, COLLUDING)
    with mock.patch.object(masks, "Stream", Counted):
        for number in (1, 2):
            lab.attempt(number).run(WHOLE, "consent")
        lab.attempt(3).run(WHOLE)
        lab.attempt(1, lab.next_round()).run(WHOLE)
    vectors, honest, helpers = 4, len(lab.honest), len(COLLUDING)
    own, pairs, with_helpers = honest, honest * (honest - 1) // 2, honest * helpers
    pads = honest + helpers if lab.form.blind else 0
    assert Counter(expanded.values()) == {1: vectors * (own + with_helpers + pads), 2: vectors * pairs}
    assert {len(seed) for seed in expanded} == {48}
