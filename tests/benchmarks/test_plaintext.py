"""The unprotected scheme of the benchmarks gives the true mean, and exists for nobody but the benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.plaintext import PHASE, PlainScheme
from secagg.config import Policy
from secagg.errors import FaultyServer, Refused, TooFewSites
from secagg.schemes import SCHEMES
from secagg.session import Packet
from tests.contract.test_sums import assert_exact, exact
from tests.sim import federation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMES, "plain", PlainScheme())


def test_the_product_refuses_a_plain_session(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedserver.cli", "--secagg", "plain", "--demo", "--out", str(tmp_path / "out")]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "there is no scheme plain" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("registered")
def test_a_site_with_the_product_s_policy_refuses_a_plain_session() -> None:
    with pytest.raises(Refused, match="scheme plain is not allowed"):
        federation(3, manifest={"scheme": "plain"}, policy=Policy())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("dropped", [0, 1])
def test_the_plain_mean_is_that_of_the_sites_that_answered(dropped: int) -> None:
    round_ = exact("plain", 5, size=100, cap=5)
    round_.drop = {PHASE: round_.context.cohort[:dropped]}
    aggregate = round_.run()
    assert aggregate.contributors == round_.context.cohort[dropped:]
    assert_exact(round_)


@pytest.mark.usefixtures("registered")
def test_plain_words_are_the_update_in_clear() -> None:
    sent = exact("plain", 3, size=100)
    sent.run()
    total = np.add.reduce([sent.sent[site] for site in sent.context.cohort])
    assert np.array_equal(total, sent.server.result().payload.words)


@pytest.mark.usefixtures("registered")
def test_a_plain_attempt_with_too_few_sites_is_void() -> None:
    round_ = exact("plain", 5)
    round_.drop = {PHASE: round_.context.cohort[:2]}
    with pytest.raises(TooFewSites):
        round_.run()


@pytest.mark.usefixtures("registered")
def test_a_plain_sum_of_another_round_is_not_opened() -> None:
    round_, other = exact("plain", 3), exact("plain", 3)
    aggregate = round_.run()
    context = other.consortium.context(round_.context.manifest, attempt=2)
    with pytest.raises(FaultyServer, match="another round"):
        round_.scheme.open(context, Packet(aggregate.payload.head, aggregate.payload.words))
