"""Counts and losses travel as words whose sums are exact and cannot wrap."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import FaultyServer, Misuse
from secagg.session import Metrics
from secagg.tally import LOSS_UNIT, MAX_COUNT, MAX_LOSS, MAX_PEAK, WORDS, Tally

metrics = st.builds(
    Metrics, st.integers(1, MAX_COUNT), st.floats(0, MAX_LOSS), st.floats(0, MAX_LOSS), st.integers(0, MAX_COUNT)
)


def summed(tallies: list[Tally]) -> np.ndarray:
    return np.sum([each.words() for each in tallies], axis=0, dtype=np.uint64)


@given(st.lists(metrics, min_size=1, max_size=8))
def test_the_totals_are_the_weighted_means_to_the_rounding_of_a_loss(parts: list[Metrics]) -> None:
    size = 10
    tallies = [Tally.of(each, weight, 2, 5) for weight, each in enumerate(parts, 1)]
    total = Tally.from_sum(summed(tallies), len(parts), size, weight_cap=8)
    totals = total.totals(size)
    examples, tokens = sum(m.examples for m in parts), sum(m.eval_tokens for m in parts)
    assert (totals.sites, totals.examples, totals.eval_tokens) == (len(parts), examples, tokens)
    assert totals.weight == sum(range(1, len(parts) + 1))
    assert totals.clipped == pytest.approx(0.2)
    loss = math.fsum(m.train_loss * m.examples for m in parts) / examples
    unit = len(parts) / LOSS_UNIT / examples  # each site rounds its word once, by half a unit
    assert totals.train_loss == pytest.approx(loss, rel=1e-12, abs=unit)
    held_out = math.fsum(m.eval_loss * m.eval_tokens for m in parts) / tokens if tokens else 0.0
    assert totals.eval_loss == pytest.approx(held_out, rel=1e-12, abs=len(parts) / LOSS_UNIT / max(tokens, 1))


def test_the_largest_tallies_of_a_hundred_sites_do_not_wrap() -> None:
    most = Tally.of(Metrics(MAX_COUNT, float(MAX_LOSS), float(MAX_LOSS), MAX_COUNT), 1 << 28, 1 << 31, 2**60)
    assert most.peak == MAX_PEAK
    words = most.words()
    assert all(100 * int(word) < 1 << 63 for word in words)
    assert Tally.from_sum(words * np.uint64(100), 100, 1 << 31, 1 << 28).sites == 100


@pytest.mark.parametrize(
    "bad",
    [Metrics(0, 1.0, 1.0, 1), Metrics(MAX_COUNT + 1, 1.0, 1.0, 1), Metrics(1, 1.0, 1.0, -1),
     Metrics(1, 1.0, 1.0, MAX_COUNT + 1), Metrics(1, math.nan, 1.0, 1), Metrics(1, 1.0, math.inf, 1),
     Metrics(1, -0.1, 1.0, 1), Metrics(1, 1.0, MAX_LOSS + 1.0, 1)],
)  # fmt: skip
def test_a_count_or_loss_out_of_range_is_our_own_mistake(bad: Metrics) -> None:
    with pytest.raises(Misuse):
        Tally.of(bad, 1, 0, 0)


@pytest.mark.parametrize("at", range(len(WORDS)))
def test_no_summed_word_may_exceed_what_the_survivors_could_make(at: int) -> None:
    words = summed([Tally.of(Metrics(1, 1.0, 1.0, 1), 1, 0, 0)] * 3)
    Tally.from_sum(words, 3, 10, 2)
    words[at] = np.uint64(2**64 - 1)
    with pytest.raises(FaultyServer):
        Tally.from_sum(words, 3, 10, 2)


def test_the_words_are_the_fields_in_order_and_print_without_values() -> None:
    assert tuple(field.name for field in fields(Tally)) == WORDS
    tally = Tally.of(Metrics(77, 1.0, 1.0, 1), 1, 0, 0)
    assert "77" not in repr(tally).partition(" at ")[0]
