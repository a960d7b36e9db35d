"""What quantising and protection cost in quality: the demo's perplexity by scheme and bits, beside the float mean.

The demo's model, texts, settings and evaluation, its four sites' training in one process, and real sessions of each
scheme that turn the updates into the mean. Every way starts from the same adapter and trains on from its own means, so
a difference has all rounds to grow. The quick profile takes fewer rounds of fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import tell
from benchmarks.profile import of_profile
from benchmarks.records import Record
from fedclient.adapter import AdapterModel
from fedclient.base_model import EMBEDDED_NAME
from fedclient.data import read_records, to_blocks
from fedclient.demo import INITIAL_SEED, LORA, ROUNDS, TRAINING
from fedclient.demo.evaluate import held_out_blocks, quality
from fedclient.demo.texts import write_texts
from fedclient.training import Trainer
from fedserver.enrolment import first_range_of
from fedserver.plan import Plan
from secagg.initial import initial_adapter
from secagg.schemes import SCHEMES
from secagg.session import Metrics, Update
from secagg.vector import Vector
from tests.sim import federation

FLOAT: Final = "fedavg"
QUICK_BITS: Final = {"masked": (4, 8), "ckks": (8,)}
FULL_BITS: Final = (4, 6, 8, 12, 16)
OTHER_BITS: Final = (8,)  # of a scheme that is not named: its mean has the same bits as masked mode's
METRICS: Final = Metrics(examples=100, train_loss=1.0, eval_loss=1.0, eval_tokens=100)

Average = Callable[[Sequence[Vector]], Vector]


@pytest.mark.timeout(7200)
def test_perplexity_by_scheme_and_bits(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    training = of_profile(replace(TRAINING, max_blocks=32), TRAINING)
    rounds = of_profile(2, ROUNDS)
    sites = write_texts(tmp_path)
    model = AdapterModel.load(EMBEDDED_NAME, LORA)
    blocks = {
        site: to_blocks(read_records(tmp_path / site / "train.jsonl"), model.tokenizer, training.sequence_length)
        for site in sites
    }
    trainers = [Trainer(model, training, blocks[site], site=site) for site in sites]
    held_out = held_out_blocks(tmp_path, model.tokenizer, training.sequence_length)
    initial = initial_adapter(model.layout, INITIAL_SEED)
    first_updates = [each.train(initial, 1).update for each in trainers]
    first_range = first_range_of(Plan("", "", "", "masked", "embedded", rounds, lora=LORA, training=training))
    found: dict[tuple[str, int | None], float] = {}

    def run_all() -> None:
        for (scheme, bits), average in _ways(model.layout.size, len(sites), first_range).items():
            adapter = initial + average(first_updates)
            for round_ in range(2, rounds + 1):
                adapter = adapter + average([each.train(adapter, round_).update for each in trainers])
            model.write(adapter)
            found[scheme, bits] = quality(model.network, held_out)["union"]

    benchmark.pedantic(run_all, rounds=1)
    model.write(initial)
    base = quality(model.network, held_out)["union"]
    what = f"the demo's model and texts, {rounds} rounds of {trainers[0].steps} steps; base model {base:.2f}"
    for (scheme, bits), perplexity in found.items():
        record = Record(
            family="accuracy", values=model.layout.size, sites=len(sites), weight=1, scheme=scheme, bits=bits,
            stage="perplexity", value=perplexity, unit="perplexity", note=what,
        )  # fmt: skip
        beside = "" if scheme == FLOAT else f", {perplexity - found[FLOAT, None]:+.3f} beside the float mean"
        named = scheme if bits is None else f"{scheme}, {bits} bits"
        tell(benchmark, f"perplexity, {named}: {perplexity:.3f}{beside}", record)
    assert all(perplexity < base for perplexity in found.values())


def _ways(size: int, n: int, first_range: int) -> Mapping[tuple[str, int | None], Average]:
    """The float mean, and real rounds of every scheme."""
    ways: dict[tuple[str, int | None], Average] = {(FLOAT, None): _float_mean}
    for scheme in SCHEMES:
        for bits in of_profile(QUICK_BITS.get(scheme, OTHER_BITS), FULL_BITS):
            ways[scheme, bits] = _Sessions(scheme, bits, size, n, first_range)
    return ways


def _float_mean(updates: Sequence[Vector]) -> Vector:
    return np.asarray(np.mean(updates, axis=0, dtype=np.float64), np.float32)


class _Sessions:
    """One round of real sessions after the other, each with the range that the one before it gave."""

    def __init__(self, scheme: str, bits: int, size: int, n: int, first_range: int) -> None:
        self._manifest = {"scheme": scheme, "bits": bits}
        self._size, self._n, self._range_q40 = size, n, first_range

    def __call__(self, updates: Sequence[Vector]) -> Vector:
        manifest = {**self._manifest, "first_range_q40": self._range_q40}
        round_ = federation(self._n, self._size, manifest=manifest, updates=_named(updates))
        mean = round_.mean(round_.run())
        self._range_q40 = mean.next_range_q40
        return mean.values


def _named(updates: Sequence[Vector]) -> dict[str, Update]:
    return {f"site-{number:02d}": Update(values, 1, METRICS) for number, values in enumerate(updates, 1)}
