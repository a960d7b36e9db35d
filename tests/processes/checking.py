"""What must hold of a federation whatever was done to it: the right sum, no second answer, no round undone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from safetensors.numpy import load_file

from fedclient.store import LOG_FILE
from secagg.chain import STAGES, Answer
from secagg.config import Manifest
from secagg.initial import initial_adapter
from tests.federation.direct import PHASES, ToyLearner
from tests.processes.running import Running
from tests.sim import random_update

STAGE_OF = dict(zip(PHASES, range(1, len(STAGES) + 1), strict=True))


def manifest_of(federation: Running) -> Manifest:
    """What the sites agreed to."""
    return Manifest.decode((federation.results / "state" / "manifest.cbor").read_bytes())


def exact_adapter(federation: Running) -> tuple[np.ndarray, float]:
    """What the recorded survivors' plaintext updates make of the initial adapter, and the quantiser's error."""
    manifest, layout = manifest_of(federation), ToyLearner.layout
    values = initial_adapter(layout, manifest.nonce).astype(np.float64)
    bound, range_ = 0.0, manifest.first_range_q40 / 2.0**40
    for event in federation.events("aggregated"):
        names = event["contributors"]
        updates = [random_update((name, event["round"]), layout.size).values.astype(np.float64) for name in names]
        values += sum(updates) / len(updates)
        # a rotated value is off by less than one step; the inverse rotation keeps the L2 norm of the error
        bound += 2 * range_ / manifest.quantizer.levels * np.sqrt(layout.size)
        if event["totals"] is not None:  # a server that reads no sum knows no later range; it is not wider here
            range_ = event["totals"]["next_range"]
    return values, bound


def assert_everybody_has(federation: Running, sites: Iterable[str]) -> None:
    """Every site and the server hold the same bits, and they are the plaintext sum to the quantiser's step."""
    vectors = {site: np.fromfile(federation.folder / f"{site}.f32", "<f4") for site in sites}
    server = ToyLearner.layout.flatten(load_file(federation.results / "adapter" / "adapter_model.safetensors"))
    assert all(np.array_equal(vector, server) for vector in vectors.values())
    wanted, bound = exact_adapter(federation)
    assert np.linalg.norm(server - wanted) <= bound


def answers_of(federation: Running, site: str) -> list[Answer]:
    """The lines of the site's own durable log."""
    [log] = (federation.consortium.homes[site] / "state").glob(f"*/{LOG_FILE}")
    return [Answer.decode(bytes.fromhex(line)) for line in log.read_text().splitlines()[1:]]


def assert_nobody_answered_twice(federation: Running) -> None:
    """By the server's journal and by every site's own log; and the server heard nothing that no log stands for."""
    heard = [
        (each["site"], each["round"], each["attempt"], STAGE_OF[each["phase"]])
        for each in federation.events("answered")
    ]
    assert len(heard) == len(set(heard))
    for site in federation.sites:
        given = [(line.round, line.attempt, line.stage) for line in answers_of(federation, site)]
        assert given == sorted(set(given)), site  # ascending, and none twice
        assert {each[1:] for each in heard if each[0] == site} <= set(given), site


def assert_rounds_are_in_order(federation: Running, rounds: int) -> None:
    """Every round was finished once, and none again."""
    assert [each["round"] for each in federation.events("aggregated")] == list(range(1, rounds + 1))


def assert_all_is_well(federation: Running, rounds: int) -> None:
    """All of the above, at the end of a session at which every site took part."""
    assert_rounds_are_in_order(federation, rounds)
    assert_nobody_answered_twice(federation)
    assert_everybody_has(federation, federation.sites)


def committed(federation: Running) -> dict[str, str]:
    """Every file of a finished round, and its digest."""
    rounds = federation.results / "state" / "rounds"
    return {
        str(path.relative_to(rounds)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(rounds.glob("0*/**/*"))
        if path.is_file()
    }


def assert_still_committed(federation: Running, before: dict[str, str]) -> None:
    """No file of a round that was finished then has changed or gone."""
    assert before.items() <= committed(federation).items()
