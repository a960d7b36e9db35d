"""Can a server give the sites another sum than that of the vectors its survivors signed?

Alone it cannot: every site refuses before it touches its adapter. With a colluder among the survivors it can shift the
sum by as much as that colluder could have sent, chosen late, and give different sites different shifts; an audit of the
kept vectors names the colluder. Neither teaches it anything about an honest update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from secagg.errors import FaultyServer, Refused
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import masked_words_digest
from secagg.masked.payload import project_vector
from secagg.session import Metrics, Packet, Words
from tests.adversaries.ending import Ending
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.parties import grid_update
from tests.adversaries.worlds import views_are_identical

pytestmark = pytest.mark.usefixtures("scheme")

COLLUDING = ("site-06", "site-07")
HONEST = tuple(f"site-{i:02d}" for i in range(1, 6))
WHOLE = Story.of(*(f"site-{i:02d}" for i in range(1, 8)))
WITHOUT = WHOLE.but("site-01")


def word(at: int, value: int, like: Words) -> Words:
    """Zeros, but for one word."""
    zeros = np.zeros_like(like)
    zeros[at] = value
    return zeros


LIES: dict[str, Callable[[Ending], Words]] = {
    "adds one to a value": lambda e: e.sum + word(1, 1, e.sum),
    "adds an update of its own": lambda e: e.sum + word(1, 77 << 12, e.sum),
    "drops a survivor": lambda e: e.sum - e.term("site-02"),
    "counts a survivor twice": lambda e: e.sum + e.term("site-02"),
    "scales the sum": lambda e: e.sum * np.uint64(2),
    "publishes zeros": lambda e: np.zeros_like(e.sum),
    "flips the lowest bit of a word": lambda e: e.sum ^ word(0, 1, e.sum),
    "flips the highest bit of a word": lambda e: e.sum ^ word(2, 1 << 63, e.sum),
    "swaps two words": lambda e: e.sum[[1, 0, *range(2, e.sum.size)]],
    "inflates a count": lambda e: e.sum + word(e.payload.words - 6, 100, e.sum),
    "widens the next range": lambda e: e.sum + word(e.payload.words - 1, 1 << 40, e.sum),
    "raises a value by five levels": lambda e: e.raised(1, 5),
    "changes the last number": lambda e: e.sum + word(-1, 1, e.sum),
}


def ended(lab: Lab, story: Story = WHOLE) -> Ending:
    """An attempt in which every survivor released its shares."""
    attempt = lab.attempt().run(WHOLE, "mask")
    attempt.consent(story)
    attempt.unmask(story)
    return Ending(attempt, story)


NOT_PROVED = r"the sum is not|projections are of another record|are not those it signed"


def refused_by(ending: Ending, sites: Iterable[str], packets: Mapping[str, Packet], says: str = NOT_PROVED) -> None:
    """These sites refuse each of the packets, and neither their place in the chain nor their adapter changes."""
    for name in sites:
        party = ending.attempt.lab.machines[name]
        before = party.position, party.adapter.tobytes()
        for packet in packets.values():
            with pytest.raises(FaultyServer, match=says):
                party.finish(1, packet)
        assert (party.position, party.adapter.tobytes()) == before, name


@cache
def alone(story: Story, scheme: str) -> Ending:
    """A round of honest sites and a server, up to its record."""
    return ended(Lab(7, scheme=scheme), story)


def all_that_can_be_made_of(ending: Ending, words: Words) -> dict[str, Packet]:
    """Every way to publish a false sum when all sites have signed: for the true record, or for the false one."""
    false = ending.record_of(words)
    for_truth, for_lie = (
        [ending.projections(site, record, ending.words[site]) for site in ending.survivors]
        for record in (ending.record, false)
    )
    return {
        "the lie, all of them signed": ending.packet(false, words, for_lie),
        "the lie, some of them fell silent": ending.packet(false, words, for_lie[:3]),
        "the lie, all fell silent": ending.packet(false, words, ()),
        "the lie, signatures on the truth": ending.packet(false, words, for_truth),
        "the true record, another sum": ending.packet(ending.record, words, for_truth),
    }


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("story", [WHOLE, WITHOUT], ids=["no dropout", "a dropout"])
def test_a_server_that_alters_the_sum_is_caught_before_anybody_uses_it(lie: str, story: Story, scheme: str) -> None:
    """Whether the sites signed for the true record or for the false one, or fell silent so that their words travel."""
    ending = alone(story, scheme)
    words = LIES[lie](ending)
    assert words.tobytes() != ending.sum.tobytes()
    refused_by(ending, ("site-02",), all_that_can_be_made_of(ending, words))


def test_every_site_refuses_even_the_record_that_it_signed_projections_for() -> None:
    """A site cannot know that a record's sum is false when it is asked; it knows once all projections are there."""
    ending = ended(Lab(7))
    words = ending.sum + word(1, 1, ending.sum)
    false = ending.record_of(words)
    ending.attempt.check(false)
    signed = ending.attempt.projections
    assert signed == {site: ending.projections(site, false, ending.words[site]) for site in WHOLE.u1}
    packets = all_that_can_be_made_of(ending, words)
    refused_by(ending, WHOLE.u1, packets)
    mixed = {"signatures on the truth": packets["the lie, signatures on the truth"]}
    refused_by(ending, ("site-01",), mixed, "projections are of another record")


def test_the_true_sum_brings_every_site_to_one_adapter_whoever_gave_projections() -> None:
    for asked in ((), ("site-01",), ("site-02", "site-03", "site-05"), WHOLE.u1):
        lab = Lab(7)
        ending = ended(lab)
        if asked:
            ending.attempt.check(ending.record, *asked)
        packet = ending.packet(ending.record, ending.sum, ending.attempt.projections.values())
        means = {party.finish(1, packet).values.tobytes() for party in lab.machines.values()}
        assert len(means) == len({party.position for party in lab.machines.values()}) == 1


def test_words_in_place_of_projections_are_those_that_their_site_signed() -> None:
    """Shifting a silent survivor's words with the sum is caught by the digest in its signed vector."""
    lab = Lab(7)
    ending = ended(lab)
    false = ending.sum + word(0, 1, ending.sum)
    ending.words["site-03"] = ending.words["site-03"] + word(0, 1, ending.words["site-03"])
    packet = ending.packet(ending.record_of(false), false, ())
    refused_by(ending, WHOLE.u1, {"shifted": packet})


def test_a_site_signs_one_record_of_one_survivor_set() -> None:
    lab = Lab(7)
    ending = ended(lab)
    attempt = ending.attempt
    false = ending.record_of(ending.sum + word(0, 1, ending.sum))
    attempt.check(false, "site-01")
    for record in (ending.record, false):
        attempt.refuses("site-01", record, FaultyServer, "out of order at stage checked")
    others = replace(ending.record, vectors=ending.record.vectors[1:], seeds=ending.record.seeds[1:])
    attempt.refuses("site-02", others, FaultyServer, "another survivor set|outside the survivor set")


def test_a_machine_that_lost_its_words_refuses_the_check_and_they_travel() -> None:
    lab = Lab(7)
    ending = ended(lab)
    lost = lab.machines["site-02"]
    lost.client, lost.sent = None, {}
    ending.attempt.refuses("site-02", ending.record, Refused, "words are lost")
    ending.attempt.check(ending.record)
    packet = ending.packet(ending.record, ending.sum, ending.attempt.projections.values())
    assert {party.finish(1, packet).transcript for party in lab.machines.values()} == {ending.record.transcript()}


# ---------------------------------------------------------------------- with a colluder


def with_lies_and_checks(lab: Lab) -> None:
    """Everything the last trip has to offer: a false record to some, the true one to others, and the round ended."""
    ending = ended(lab)
    shift = word(0, 5, ending.sum)
    ending.attempt.check(ending.record_of(ending.sum + shift), "site-01", "site-02")
    ending.attempt.check(ending.record, "site-03", "site-04", "site-05")


def test_records_and_projections_teach_the_server_nothing_that_the_vectors_did_not() -> None:
    known = views_are_identical(with_lies_and_checks, n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(("site-01", "site-02", "site-03", "site-04", "site-05"), 1)]
    assert not known.both()


def shifted_colluder(levels: int) -> Lab:
    """A lab in which a colluder honestly sends an update that is this many levels larger in its second value."""
    lab = Lab(7, COLLUDING)
    colluder = lab.view.colluders["site-07"]
    q = np.full(lab.size, 100.0)
    q[1] += levels
    colluder.update = grid_update(q, 1, Metrics(1, 0.0, 0.0, 1))
    return lab


def test_with_a_colluder_the_sum_becomes_one_that_the_colluder_could_have_caused_by_its_own_vector() -> None:
    """Bit for bit the mean of the round in which it sent what the server wished: it chose late, and that is all."""
    ending = ended(shifted_colluder(0))
    packet = ending.with_a_colluder(ending.raised(1, 60), "site-07")
    late = ending.attempt.lab.machines["site-01"].finish(1, packet)
    sent = ended(shifted_colluder(60))
    early = sent.attempt.lab.machines["site-01"].finish(1, sent.packet(sent.record, sent.sum, ()))
    assert late.values.tobytes() == early.values.tobytes()
    assert late.totals == early.totals


@pytest.mark.parametrize("lie", ["scales the sum", "publishes zeros", "flips the highest bit of a word"])
def test_with_a_colluder_a_sum_that_no_updates_have_is_still_refused(lie: str) -> None:
    ending = ended(Lab(7, COLLUDING))
    words = LIES[lie](ending)
    rule = "count every survivor once|larger than its survivors|bit above its lanes|exceeds the total weight"
    rule += "|is zero at every site|no sum of the survivors' keys|does not decrypt"
    refused_by(ending, HONEST, {lie: ending.with_a_colluder(words, "site-07")}, rule)


def test_a_colluder_outside_the_survivor_set_is_of_no_use() -> None:
    ending = ended(Lab(7, COLLUDING), WHOLE.but("site-07"))
    words = ending.sum + word(0, 1, ending.sum)
    record = ending.record_of(words)
    signed = ending.projections("site-07", record, ending.words["site-06"])
    refused_by(ending, HONEST, {"by a dropout": ending.packet(record, words, [signed])}, "outside the survivor set")


def test_the_audit_finds_the_colluder_and_nobody_else() -> None:
    """Spec §15.3, with the vectors that the server keeps: its signed projections are not of the words it signed."""
    ending = ended(Lab(7, COLLUDING))
    words = ending.raised(1, 5)
    record = ending.record_of(words)
    ending.attempt.check(record, "site-01", "site-02", "site-03")
    false = ending.fitting("site-07", record, words)
    given = {each.site: each for each in (*ending.attempt.projections.values(), false)}
    ending.attempt.lab.machines["site-04"].finish(1, ending.packet(record, words, given.values()))
    seed = challenge_seed(ending.context, record.transcript())
    for vector in record.vectors:
        kept = ending.words[vector.site]
        assert masked_words_digest(ending.context.digest, kept) == vector.words
        if vector.site in given:
            true = project_vector(ending.payload, seed, kept).astype("<u8").tobytes()
            assert (given[vector.site].values == true) == (vector.site != "site-07")


def test_sites_that_a_colluder_helped_to_give_different_sums_are_in_no_round_together() -> None:
    """It costs the server them: the next headers differ, and a sum takes m sites under one of them."""

    ending = ended(Lab(7, COLLUDING))
    lab = ending.attempt.lab
    for site, steps in (("site-01", 1), ("site-02", 2)):
        lab.machines[site].finish(1, ending.with_a_colluder(ending.raised(1, steps), "site-07"))
    for site in ("site-03", "site-04", "site-05"):
        lab.machines[site].finish(1, ending.packet(ending.record, ending.sum, ()))
    for machine in lab.machines.values():
        machine.update = lab.inputs[machine.keys.site]
    places = [lab.machines[site].position for site in lab.honest]
    assert len(set(places)) == 3
    attempts = [Attempt(lab, lab.machines[site].context(1)) for site in ("site-01", "site-03")]
    for attempt, group in zip(attempts, (("site-01",), ("site-03", "site-04", "site-05")), strict=True):
        attempt.run(Story.of(*group, *COLLUDING), machines=group)
    assert set(attempts[0].refusals) == {"site-01"}
    assert attempts[0].sealed == {}
    assert set(attempts[1].shares) == {"site-03", "site-04", "site-05"}
