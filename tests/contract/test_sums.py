"""Every scheme: sites open the exact mean of the survivors, or the attempt is void and reveals nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.chain import Position
from secagg.errors import TooFewSites
from secagg.session import Metrics, Update
from tests.contract.phases import PHASES, VECTOR, after_vector, each_phase, needed, schemes
from tests.sim import Consortium, Dice, Round, federation, plain_mean

GRID_BITS = 8
GRID_RANGE = ((1 << GRID_BITS) - 1) << 32  # one quantiser step is then 2^-7, and grid points are float32 values


def on_grid(seed: object, size: int, weight: int = 1) -> Update:
    """An update whose values are points of the quantiser's grid, so that rounding changes nothing."""
    steps = np.frombuffer(Dice(("grid", seed))(size), np.uint8).astype(np.float32)
    values = (2 * steps - 255) * np.float32(2.0**-8)
    return Update(values, weight, Metrics(examples=3, train_loss=1.5, eval_loss=2.0, eval_tokens=7))


def exact(scheme: str, n: int, size: int = 24, cap: int = 1, **options: object) -> Round:
    """A federation whose mean is known to the last bit."""
    consortium = Consortium(n)
    weights = {name: 1 + i % cap for i, name in enumerate(consortium.names)}
    updates = {name: on_grid(name, size, weights[name]) for name in consortium.names}
    manifest = {"scheme": scheme, "rotate": 0, "first_range_q40": GRID_RANGE, "weight_cap": cap}
    return federation(n, size, consortium=consortium, updates=updates, manifest=manifest, **options)


def assert_exact(round_: Round) -> None:
    aggregate = round_.server.result()
    mean = round_.mean(aggregate)
    assert mean.contributors == aggregate.contributors
    expected = plain_mean(round_.updates, mean.contributors).astype(np.float32)
    assert mean.values.tobytes() == expected.tobytes()
    assert mean.totals.sites == len(mean.contributors)
    assert mean.totals.weight == sum(round_.updates[site].weight for site in mean.contributors)
    assert mean.totals.examples == 3 * len(mean.contributors)
    assert mean.totals.train_loss == 1.5
    assert mean.totals.eval_loss == 2.0


@schemes
@pytest.mark.parametrize("n", [3, 4, 5, 7, 10, 20])
def test_the_sum_is_exact_when_every_site_survives(scheme: str, n: int) -> None:
    round_ = exact(scheme, n, cap=5)
    round_.run()
    assert_exact(round_)
    assert round_.server.result().contributors == round_.consortium.names
    assert not round_.refusals
    assert not round_.server.faults


@each_phase()
@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_sum_is_exact_when_as_many_sites_as_declared_vanish_in_one_phase(scheme: str, n: int, phase: str) -> None:
    round_ = exact(scheme, n)
    gone = round_.consortium.names[: round_.context.manifest.dropouts]
    round_.drop = {phase: gone}
    round_.run()
    assert_exact(round_)
    contributors = set(round_.server.result().contributors)
    assert contributors & set(gone) == (set(gone) if phase in after_vector(scheme) else set())


@st.composite
def vanishings(draw: st.DrawFn, scheme: str) -> tuple[int, Mapping[str, str], set[str]]:
    """n, in which phase which site vanishes, and for whom of these the last answer is lost on its way."""
    n = draw(st.integers(3, 8))
    sites = draw(st.lists(st.integers(1, n), unique=True, max_size=4))
    when = {f"site-{i:02d}": draw(st.sampled_from(PHASES[scheme])) for i in sites}
    late = set(draw(st.lists(st.sampled_from(sorted(when)), unique=True))) if when else set()
    return n, when, late


def expected_survivors(round_: Round, when: Mapping[str, str]) -> set[str] | None:
    """U3 as the thresholds have it, or None where the attempt must be void."""
    manifest, scheme = round_.context.manifest, round_.scheme.name
    alive, survivors = set(manifest.sites), set()
    for phase in PHASES[scheme]:
        alive -= {site for site, its in when.items() if its == phase}
        if len(alive) < needed(manifest, phase):
            return None
        if phase == VECTOR[scheme]:
            survivors = set(alive)
    return survivors


@schemes
@settings(max_examples=60)
@given(st.data())
def test_whoever_vanishes_and_whenever_the_sum_is_exact_or_the_attempt_is_void(
    scheme: str, data: st.DataObject
) -> None:
    n, when, late = data.draw(vanishings(scheme))
    round_, phases = exact(scheme, n, size=8), PHASES[scheme]
    round_.drop = {phase: [s for s, its in when.items() if its == phase and s not in late] for phase in phases}
    round_.lose = {phase: [s for s, its in when.items() if its == phase and s in late] for phase in phases}
    survivors = expected_survivors(round_, when)
    if survivors is not None:
        round_.run()
        assert set(round_.server.result().contributors) == survivors
        assert_exact(round_)
        return
    with pytest.raises(TooFewSites):
        round_.run()
    heard = round_.released() - {site for site in late if when[site] == "unmask"}
    assert len(heard) < round_.context.manifest.threshold
    assert not round_.released() or round_.server.phase == "unmask"
    assert not round_.server.done


@each_phase("unmask", "check")
def test_with_one_site_too_few_no_unmask_share_leaves_any_site(scheme: str, phase: str) -> None:
    round_ = exact(scheme, 7)
    manifest = round_.context.manifest
    least = needed(manifest, phase)
    round_.drop = {phase: round_.consortium.names[: 7 - least + 1]}
    with pytest.raises(TooFewSites) as caught:
        round_.run()
    assert (caught.value.alive, caught.value.threshold) == (least - 1, least)
    assert round_.released() == set()


@each_phase("check")
def test_of_three_sites_every_one_must_survive(scheme: str, phase: str) -> None:
    round_ = exact(scheme, 3)
    round_.drop = {phase: ["site-02"]}
    with pytest.raises(TooFewSites):
        round_.run()


@schemes
@pytest.mark.parametrize(("rotate", "bits", "cap"), [(0, 8, 1), (1, 8, 1), (1, 12, 9), (0, 4, 3), (1, 20, 1)])
def test_the_mean_is_within_the_quantisers_step(scheme: str, rotate: int, bits: int, cap: int) -> None:
    round_ = federation(5, 300, manifest={"scheme": scheme, "rotate": rotate, "bits": bits, "weight_cap": cap})
    mean = round_.mean(round_.run())
    assert mean.totals.clipped == 0.0
    error = mean.values.astype(np.float64) - plain_mean(round_.updates, mean.contributors)
    step = 2.0 / ((1 << bits) - 1)  # of the range -1..1; a site's rounded value errs by less than one step
    slack = 2.0**-22  # float32: the rotation at the site, and the rounding of the mean
    if rotate:  # the rotation keeps lengths, so the bound on every rotated entry bounds the length
        assert float(np.linalg.norm(error)) < (step + slack) * math.sqrt(error.size)
    else:
        assert float(np.abs(error).max()) < step + slack


@schemes
def test_all_sites_open_identical_bits(scheme: str) -> None:
    round_ = federation(5, 5000, manifest={"scheme": scheme})
    aggregate = round_.run()
    opened = [round_.mean(aggregate, site) for site in round_.consortium.names]
    assert len({mean.values.tobytes() for mean in opened}) == 1
    assert len({(mean.transcript, mean.next_range_q40, mean.contributors) for mean in opened}) == 1


@schemes
def test_a_round_follows_on_the_mean_of_the_one_before(scheme: str) -> None:
    first = federation(4, 30, manifest={"scheme": scheme})
    mean = first.mean(first.run())
    manifest = first.context.manifest
    start = first.consortium.context(manifest).header
    position = Position.start(manifest).after(mean, bytes(32))
    context = first.consortium.context(manifest, position=position)
    assert (context.header.round, context.header.previous) == (2, mean.transcript)
    assert context.header.range_q40 == mean.next_range_q40 != start.range_q40
    second = Round(first.consortium, context, first.updates)
    again = second.mean(second.run())
    assert again.transcript != mean.transcript


@pytest.mark.slow
@schemes
def test_a_hundred_sites_of_which_a_third_vanish_open_the_exact_mean(scheme: str) -> None:
    round_ = exact(scheme, 100)
    round_.drop = {VECTOR[scheme]: round_.consortium.names[: round_.context.manifest.dropouts]}
    round_.run()
    assert_exact(round_)
    assert len(round_.server.result().contributors) == 67
