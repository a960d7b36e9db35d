"""kill -9 of the server in every phase, between rounds, at the end, and of each of its parts; then `--resume`.

Several deaths a session: a site is held each time, so that the server is surely where the case says when it is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.federation.direct import PHASES
from tests.processes.checking import assert_all_is_well, assert_nobody_answered_twice, assert_still_committed, committed
from tests.processes.running import Running, running
from tests.processes.stories import Stories

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "40", "--train-timeout", "60")
HELD = FIVE[-1]
BEFORE_RELEASE = tuple(phase for phase in PHASES if phase not in ("unmask", "check"))
WHOLE, FEDSERVER = "its machine", "fedserver.cli"
PARTS = ("flower-superlink", "flower-superexec", "control.py")  # by words of the command line


@dataclass(frozen=True)
class Case:
    """One death: `what` is killed while the held site has the phase's request of a round before it."""

    phase: str
    round: int
    what: str = WHOLE

    def __str__(self) -> str:
        return f"{self.what} in {self.phase}".replace(" ", "-")


@dataclass
class Story:
    """What was seen."""

    federation: Running
    ends: dict[str, tuple[int, list[str]]] = field(default_factory=dict)  # by case: exit code, last two lines
    committed: list[dict[str, str]] = field(default_factory=list)  # at each death
    exit_codes: dict[str, int] = field(default_factory=dict)

    def play(self, case: Case) -> None:
        """Waits for the moment, kills, and resumes."""
        federation = self.federation
        hold = f"hold:{case.phase}:{case.round}"
        federation.await_sign(HELD, hold)
        others = set(FIVE) - {HELD}
        if case.phase in PHASES:  # everybody else has answered: the server waits for the held site alone
            for site in others:
                federation.await_one("answered", phase=case.phase, round=case.round, site=site)
        self.committed.append(committed(federation))
        if case.what == WHOLE:
            federation.kill_server()
        else:
            federation.part_of_server(case.what).kill()
        self.ends[str(case)] = federation.wait("server"), federation.log("server").splitlines()[-2:]
        federation.await_nothing_left()
        federation.let_go(HELD)
        federation.start_server("--resume")


@contextmanager
def tell(folder: Path, cases: list[Case]) -> Iterator[Story]:
    """A session in which these deaths happen, to its end."""
    with running(folder, *FIVE) as federation:
        story = Story(federation)
        federation.start_server(*OPTIONS, "--rounds", str(cases[-1].round))
        federation.start_toys(*FIVE[:-1], train_s=0.0)
        federation.start_toy(HELD, *(f"hold:{case.phase}:{case.round}" for case in cases), train_s=0.0)
        for case in cases:
            story.play(case)
        story.exit_codes = {name: federation.wait(name) for name in ("server", *FIVE)}
        yield story


LAST = 1 + len(BEFORE_RELEASE)
SESSIONS = {
    "some phases": [
        Case("mask", 1, FEDSERVER),
        Case("train", 2),
        Case("check", 2),
    ],
    "every phase": [
        *(Case(phase, 1 + i, FEDSERVER if i % 2 else WHOLE) for i, phase in enumerate(BEFORE_RELEASE)),
        Case("train", LAST),  # the round before is committed, the next one has not begun
        Case("check", LAST),  # shares have left and the sum is held: the round is ended, not repeated
        Case("finish", LAST),  # every round is committed, the adapter is not written
    ],
    "parts": [Case(BEFORE_RELEASE[i], 1 + i, part) for i, part in enumerate(PARTS)],
}
FAST = "some phases"


def each_session(*names: str):  # type: ignore[no-untyped-def]
    """These sessions as parameters, those that take long marked so."""
    return [pytest.param(name, id=name, marks=() if name == FAST else pytest.mark.slow) for name in names]


def each_case(*names: str):  # type: ignore[no-untyped-def]
    """Every case of these sessions."""
    return [
        pytest.param(name, case, id=f"{name}: {case}", marks=() if name == FAST else pytest.mark.slow)
        for name in names
        for case in SESSIONS[name]
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A session by name, told when first asked for."""
    with Stories(lambda name: tell(tmp_path_factory.mktemp("killed-server"), SESSIONS[name])) as stories:
        yield stories


@pytest.mark.parametrize(("session", "case"), each_case("some phases", "every phase"))
def test_a_server_killed_in_any_phase_goes_on_with_resume(told, session, case):
    story = told[session]
    assert story.ends[str(case)][0] == -9
    attempts = [each["attempt"] for each in story.federation.events("aggregated") if each["round"] == case.round]
    assert attempts == [2 if case.phase in BEFORE_RELEASE else 1]


@pytest.mark.parametrize("session", each_session(*SESSIONS))
def test_after_every_death_of_the_server_no_round_is_lost_and_nobody_answered_twice(told, session):
    story = told[session]
    assert set(story.exit_codes.values()) == {0}, story.federation.logs()
    assert_all_is_well(story.federation, SESSIONS[session][-1].round)
    for before in story.committed:
        assert_still_committed(story.federation, before)
    done = [len({path.split("/")[0] for path in before}) for before in story.committed]
    assert [each["rounds"] for each in story.federation.events("resumed")] == [each for each in done if each]


@pytest.mark.parametrize("session", each_session(*SESSIONS))
def test_sites_say_that_the_server_is_lost_and_found_again(told, session):
    log = told[session].federation.log("site-1")
    deaths = len(SESSIONS[session])
    assert log.count("lost the server") >= deaths
    assert log.count("connected to 127.0.0.1") == 1 + deaths
    assert "Traceback" not in log


@pytest.mark.parametrize(("session", "case"), each_case("parts"))
def test_a_dead_part_ends_the_server_with_two_lines_that_say_how_to_go_on(told, session, case):
    code, (problem, remedy) = told[session].ends[str(case)]
    assert code == 1
    assert problem.startswith("error: flower's ") and "ended with exit code -9" in problem
    assert remedy.startswith("read ") and remedy.endswith("then go on with fedserver --resume")


@pytest.mark.slow
def test_a_server_app_that_dies_is_noticed_within_flowers_heartbeat_and_the_session_goes_on(tmp_path):
    sites = FIVE[:3]
    with running(tmp_path, *sites) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1")
        federation.start_toys(*sites[:2])
        federation.start_toy(sites[2], "hold:mask:1")
        federation.await_sign(sites[2], "hold:mask:1")
        federation.part_of_server("flwr-serverapp").kill()
        assert federation.wait("server") == 1
        problem, remedy = federation.log("server").splitlines()[-2:]
        assert "the server's process ended" in problem and "fedserver --resume" in remedy
        federation.let_go(sites[2])
        federation.start_server("--resume")
        assert federation.wait("server") == 0
        assert all(federation.wait(site) == 0 for site in sites)
        assert_all_is_well(federation, 1)


@pytest.mark.slow
def test_a_server_killed_when_unmask_shares_have_left_says_why_the_round_cannot_be_repeated_and_keeps_the_rest(
    tmp_path,
):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "3")
        federation.start_toys(*FIVE[:-1], train_s=0.0)
        federation.start_toy(HELD, "hold:unmask:2", train_s=0.0)
        for site in FIVE[:-1]:
            federation.await_one("answered", phase="unmask", round=2, site=site)
        before = committed(federation)
        federation.kill_server()
        federation.let_go(HELD)
        federation.start_server("--resume")
        assert federation.wait("server") == 1
        problem, remedy = federation.log("server").splitlines()[-2:]
        assert problem.startswith("error: round 2 cannot be tried again: site-1, site-2, site-3")
        assert "unmask shares of an earlier attempt have left them" in problem
        assert "begin a new session with another --out" in remedy
        assert [each["round"] for each in federation.events("aggregated")] == [1]
        assert_still_committed(federation, before)
        assert len(before) >= 3
        assert_nobody_answered_twice(federation)


@pytest.mark.slow
def test_after_a_power_cut_everywhere_before_any_unmask_share_left_the_round_is_repeated(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1")
        for site in FIVE:
            federation.start_toy(site, "kill-before:unmask:1", train_s=0.0)
        assert [federation.wait(site) for site in FIVE] == [-9] * 5
        federation.kill_server()
        federation.start_server("--resume")
        federation.start_toys(train_s=0.0)
        assert federation.wait("server") == 0
        assert [federation.wait(site) for site in FIVE] == [0] * 5
        assert [each["attempt"] for each in federation.events("aggregated")] == [2]
        assert_all_is_well(federation, 1)
