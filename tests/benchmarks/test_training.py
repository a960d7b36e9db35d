"""The decoder whose training step is timed on a CUDA device has the adapter that the model table counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.models import Model, adapter_size

SMALL = Model(
    "small", "nowhere", layers=2, hidden=256, query=256, key_value=64, intermediate=320, parameters=1,
)  # fmt: skip


def test_the_timed_decoder_trains_the_adapter_of_the_table() -> None:
    pytest.importorskip("torch")
    from benchmarks.bench_training import RANK, decoder, step_of

    network = decoder(SMALL, "cpu")
    trained = [each for each in network.parameters() if each.requires_grad]
    assert sum(each.numel() for each in trained) == adapter_size(SMALL, RANK, "all-linear")
    before = [each.detach().float().numpy().copy() for each in trained]
    step_of(network, words=100, batch=1, length=8)()
    moved = [not np.array_equal(old, new.detach().float().numpy()) for old, new in zip(before, trained, strict=True)]
    assert any(moved)
