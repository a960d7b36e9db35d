"""Virtual sites: who plays which partition, and that any worker process may answer for any site."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock

from fedclient.learner import LearnerOptions, LoraLearner, load_records
from fedclient.settings import LocalError, LoraSettings, TrainingSettings
from fedclient.simulated import BUSY_LOCK, SharedLearner, VirtualSite, open_site, site_of
from fedserver.plan import Plan
from keys.provision import provision_consortium
from keys.store import SiteHome
from secagg.enrol import Hello, Here, require_from
from secagg.session import Packet
from tests.federation.direct import Bench

NAMES = ("amber", "birch", "cedar")


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sim") / "consortium"
    provision_consortium(folder, NAMES)
    for name in NAMES:
        (folder / "data" / name).mkdir(parents=True)
        for part in ("train", "test"):
            lines = [json.dumps({"text": f"{name} writes line {i} of its {part} notes. " * 9}) for i in range(6)]
            (folder / "data" / name / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


# ---------------------------------------------------------------------- partitions


def test_partitions_are_the_rosters_sites_in_order(consortium: Path) -> None:
    assert [site_of(consortium, partition) for partition in range(3)] == list(NAMES)


def test_a_partition_answers_with_the_signature_of_its_site(consortium: Path) -> None:
    nonce = os.urandom(32)
    for partition, name in enumerate(NAMES):
        site = open_site(consortium, partition)
        here = Here.decode(site.handle("hello", [Packet(Hello(nonce).encode())]).head)
        require_from(site._roster, name, here)
        assert here.nonce == nonce


@pytest.mark.parametrize("partition", [-1, 3, 99])
def test_a_node_beyond_the_roster_plays_nobody(consortium: Path, partition: int) -> None:
    with pytest.raises(LocalError) as raised:
        open_site(consortium, partition)
    assert "num-supernodes=3" in raised.value.remedy


# ---------------------------------------------------------------------- several processes


@dataclass
class Workers:
    """Two processes that hold the same site; the engine gives each request to the other one."""

    sites: Sequence[VirtualSite]

    def __post_init__(self) -> None:
        self._next = cycle(self.sites)

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        return next(self._next).handle(kind, packets)


def engine(bench: Bench) -> None:
    """Has every site of the bench played by two processes."""
    for name in bench.names:
        (bench.folder / name).mkdir()
        node_key = ec.generate_private_key(ec.SECP384R1())
        home = SiteHome(bench.folder / name, bench.consortium.keys[name], node_key, bench.state_key(name))
        parts = (home, bench.consortium.roster, bench.policies[name], bench.learners[name])
        bench.link.members[name] = Workers([VirtualSite(*parts), VirtualSite(*parts)])  # type: ignore[assignment]


def test_a_session_is_right_when_every_request_goes_to_another_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    engine(bench)
    bench.assert_right(bench.run(rounds=3), *[bench.names] * 3)
    assert not bench.link.refusals
    assert all(learner.trained == [1, 2, 3] for learner in bench.learners.values())


def test_two_processes_never_answer_for_one_site_at_the_same_time(
    consortium: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedclient.simulated.BUSY_S", 0.05)
    site = open_site(consortium, 0)
    with FileLock(consortium / "sites" / NAMES[0] / BUSY_LOCK), pytest.raises(LocalError):
        site.handle("hello", [Packet(Hello(bytes(32)).encode())])


# ---------------------------------------------------------------------- one model


def settings() -> dict[str, str]:
    training = TrainingSettings(local_steps=2, sequence_length=32, batch_size=2)
    paths: dict[str, Any] = {"roster": "", "keys": "", "out": ""}
    return Plan(**paths, scheme="masked", model="embedded", rounds=1, lora=LoraSettings(), training=training).settings()


def learner(kind: type[LoraLearner], consortium: Path, name: str) -> LoraLearner:
    data = consortium / "data" / name
    options = LearnerOptions(name, consortium / "sites" / name / "adapter", device="cpu", threads=1)
    return kind(options, *load_records(data / "train.jsonl", data / "test.jsonl", 0.0))


def test_sites_that_share_a_model_train_as_if_each_had_its_own(consortium: Path) -> None:
    shared = {name: learner(SharedLearner, consortium, name) for name in NAMES[:2]}
    facts = {name: each.prepare(settings(), bytes(32)) for name, each in shared.items()}
    assert shared["amber"]._model is shared["birch"]._model
    start = facts["amber"].initial_values
    first = {name: each.train(start, 1) for name, each in shared.items()}
    again = {name: shared[name].train(start, 1) for name in reversed(NAMES[:2])}
    own = learner(LoraLearner, consortium, "birch")
    own.prepare(settings(), bytes(32))
    for values, metrics in (again["birch"], own.train(start, 1)):
        assert np.array_equal(values, first["birch"][0])
        assert metrics == first["birch"][1]
    assert not np.array_equal(first["amber"][0], first["birch"][0])


def test_preparing_again_costs_nothing_until_the_session_is_another(
    consortium: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = learner(SharedLearner, consortium, "cedar")
    facts = site.prepare(settings(), bytes(32))
    monkeypatch.setattr(LoraLearner, "_blocks", lambda *_: pytest.fail("it read its texts again"))
    assert site.prepare(settings(), bytes(32)) is facts
    monkeypatch.undo()
    other = site.prepare(settings(), bytes([1]) * 32)
    assert not np.array_equal(other.initial_values, facts.initial_values)
