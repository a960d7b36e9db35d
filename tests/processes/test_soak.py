"""Fifty rounds in a row with a fault in nearly every one: the result is right, and nothing has leaked."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field

import psutil
import pytest

from tests.federation.direct import PHASES
from tests.processes.checking import assert_all_is_well, assert_still_committed, committed
from tests.processes.proxy import Proxy, bad_network
from tests.processes.running import Running, running

# ten minutes on two quiet cores; three times that on busy ones
pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1800)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "6", "--train-timeout", "30")
ROUNDS, SEED = 50, 3
RESTARTS = (4, 8, 12)  # rounds before which the server is killed and resumed
CALM, FAR, *VICTIMS = FIVE  # the first two live all along; the second is behind a bad network
SETTLED = 15  # from this round on, processes that live are compared with themselves
WINDOW = 5  # rounds whose median is compared
SPARE_FILES = 8  # open connections come and go: a pool of TRANSFERS and one poll at each site


@dataclass
class Soak:
    """The faults by round, drawn once, and what was measured."""

    federation: Running
    proxy: Proxy
    draw: random.Random
    kills: dict[int, tuple[str, str]] = field(default_factory=dict)  # round -> site, fault
    troubles: dict[int, tuple[str, str]] = field(default_factory=dict)  # round -> phase, what the network does
    samples: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)  # process -> round -> RSS, files

    def __post_init__(self) -> None:
        phases = list(PHASES)
        before = ""
        for round_ in range(1, ROUNDS, 2):
            site = self.draw.choice([each for each in VICTIMS if each != before])
            when = self.draw.choice(["kill-before", "kill-in", "kill-after"])
            self.kills[round_] = site, f"{when}:{self.draw.choice(phases)}:{round_}"
            before = site
        for round_ in range(2, ROUNDS, 2):
            self.troubles[round_] = self.draw.choice(phases[:4]), self.draw.choice(["stall", "cut", "repeat"])

    def start_victim(self, site: str, after: int = 0) -> None:
        """Starts it with the next death that is due to it."""
        due = [fault for round_, (each, fault) in self.kills.items() if each == site and round_ > after]
        self.federation.start_toy(site, *due[:1], train_s=0.0)

    def play(self) -> None:
        """Every round's fault, and a sample at its end."""
        for round_ in range(1, ROUNDS + 1):
            if round_ in RESTARTS:
                self._restart_server(round_)
            if round_ in self.kills:
                self._await_death(round_)
            if round_ in self.troubles:
                self._trouble(round_)
            self.federation.await_one("aggregated", round=round_)
            self._sample(round_)

    def _restart_server(self, round_: int) -> None:
        self.federation.await_sign(CALM, f"hold:train:{round_}")
        before = committed(self.federation)
        self.federation.kill_server()
        self.federation.let_go(CALM)
        self.federation.start_server("--resume")
        self.federation.await_event(lambda each: each["event"] == "resumed" and each["rounds"] == round_ - 1)
        assert_still_committed(self.federation, before)

    def _await_death(self, round_: int) -> None:
        site, fault = self.kills[round_]
        assert self.federation.wait(site) == -9
        when, phase, _ = fault.split(":")
        if when == "kill-after":
            self.federation.await_one("answered", site=site, round=round_, phase=phase)
        self.start_victim(site, round_)

    def _trouble(self, round_: int) -> None:
        phase, what = self.troubles[round_]
        self.federation.await_sign(FAR, f"hold-in:{phase}:{round_}")
        {"stall": self.proxy.stall, "cut": self.proxy.cut, "repeat": self.proxy.repeat_next}[what]()
        self.federation.let_go(FAR)
        {"stall": self.proxy.await_held, "cut": lambda: None, "repeat": self.proxy.await_repeated}[what]()
        self.proxy.flow()

    def _sample(self, round_: int) -> None:
        processes = {" ".join(each.cmdline())[-40:]: each for each in self.federation.server_processes()}
        processes |= {site: psutil.Process(self.federation.processes[site].pid) for site in (CALM, FAR)}
        for name, process in processes.items():
            memory, files = process.memory_info().rss, process.num_fds()
            self.samples.setdefault(name, {})[round_] = memory, files


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    """The whole session."""
    folder = tmp_path_factory.mktemp("soak")
    with running(folder, *FIVE) as federation, bad_network(federation.port) as proxy:
        found = Soak(federation, proxy, random.Random(SEED))  # noqa: S311 - the same faults in every run
        federation.start_server(*OPTIONS, "--rounds", str(ROUNDS))
        federation.start_toy(CALM, *(f"hold:train:{each}" for each in RESTARTS), train_s=0.0)
        holds = [f"hold-in:{phase}:{round_}" for round_, (phase, _) in found.troubles.items()]
        federation.start_toy(FAR, *holds, port=proxy.port, train_s=0.0)
        for site in VICTIMS:
            found.start_victim(site)
        found.play()
        for name in ("server", *FIVE):
            assert federation.wait(name) == 0, federation.logs()
        yield found


def change(soak: Soak, which: int) -> dict[str, tuple[float, float]]:
    """For each process that lived from SETTLED to the end: the medians of its first and of its last rounds."""
    found = {}
    for name, samples in soak.samples.items():
        if SETTLED in samples and ROUNDS in samples:
            first = [samples[round_][which] for round_ in range(SETTLED, SETTLED + WINDOW)]
            last = [samples[round_][which] for round_ in range(ROUNDS - WINDOW + 1, ROUNDS + 1)]
            found[name] = statistics.median(first), statistics.median(last)
    return found


def test_fifty_rounds_with_faults_give_the_right_adapter_and_nobody_answers_twice(soak):
    assert_all_is_well(soak.federation, ROUNDS)
    assert "Traceback" not in soak.federation.logs()


def test_memory_of_what_lived_all_along_is_flat(soak):
    measured = change(soak, 0)
    assert len(measured) >= 6, measured  # two sites; SuperLink, SuperExec, ServerApp, control, fedserver itself
    print({name: f"{before / 2**20:.1f} -> {after / 2**20:.1f} MiB" for name, (before, after) in measured.items()})
    assert {name: pair for name, pair in measured.items() if pair[1] > 1.1 * pair[0]} == {}


def test_open_files_of_what_lived_all_along_do_not_add_up(soak):
    measured = change(soak, 1)
    print(measured)
    assert {name: pair for name, pair in measured.items() if pair[1] > pair[0] + SPARE_FILES} == {}


def test_no_process_and_no_file_is_left_over(soak):
    federation = soak.federation
    federation.await_nothing_left()
    assert list(federation.temporary.iterdir()) == []
    states = [federation.out / "state", *(home / "state" for home in federation.consortium.homes.values())]
    halves = [path for state in states for path in state.rglob(".*") if path.is_file()]
    assert halves == []  # every file under its first name was given its last
    for home in federation.consortium.homes.values():
        secrets = [path for path in (home / "state").rglob("*") if path.name.startswith(("update-", "client."))]
        assert secrets == []
