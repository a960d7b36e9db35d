"""kill -9 of a site before, in and after every phase: it costs at most that site's update of that round.

One session of a round per case, each round another site: the one that died is started again at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from tests.federation.direct import PHASES
from tests.processes.checking import assert_all_is_well
from tests.processes.running import Running, running
from tests.processes.stories import Stories

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "3.5", "--train-timeout", "20")
WHENS = ("kill-before", "kill-in", "kill-after")


@dataclass(frozen=True)
class Case:
    """One death."""

    when: str
    phase: str
    round: int

    @property
    def site(self) -> str:
        """The one that dies."""
        return FIVE[self.round % len(FIVE)]

    @property
    def fault(self) -> str:
        """For the site's command line."""
        return f"{self.when}:{self.phase}:{self.round}"

    def __str__(self) -> str:
        return f"{self.when}-{self.phase}"


SESSIONS = {
    "some": [Case(WHENS[i % 3], phase, 1 + i) for i, phase in enumerate(PHASES)],
    "all": [Case(when, phase, 1 + i) for i, (phase, when) in enumerate(product(PHASES, WHENS))],
}
MARKS = {"some": (), "all": pytest.mark.slow}


@dataclass
class Story:
    """What was seen."""

    federation: Running
    exit_codes: dict[str, int] = field(default_factory=dict)  # by fault


@contextmanager
def tell(folder: Path, cases: list[Case]) -> Iterator[Story]:
    """A session of a round per death, to its end."""

    def start(site: str, after_round: int = 0) -> None:
        due = [case.fault for case in cases if case.site == site and case.round > after_round]
        federation.start_toy(site, *due[:1], train_s=0.0)

    with running(folder, *FIVE) as federation:
        found = Story(federation)
        federation.start_server(*OPTIONS, "--rounds", str(len(cases)))
        for site in FIVE:
            start(site)
        for case in cases:
            found.exit_codes[case.fault] = federation.wait(case.site)
            if case.when == "kill-after":  # Flower forgets the reply of a node that comes anew before it was read
                federation.await_one("answered", site=case.site, round=case.round, phase=case.phase)
            start(case.site, case.round)
        for name in ("server", *FIVE):
            found.exit_codes[name] = federation.wait(name)
        yield found


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A session by name, told when first asked for."""
    with Stories(lambda name: tell(tmp_path_factory.mktemp("killed-sites"), SESSIONS[name])) as stories:
        yield stories


each_session = pytest.mark.parametrize("session", [pytest.param(name, marks=MARKS[name]) for name in SESSIONS])


@pytest.mark.parametrize(
    ("session", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case}", marks=MARKS[name])
        for name, cases in SESSIONS.items()
        for case in cases
    ],
)
def test_a_site_killed_around_a_phase_costs_at_most_its_own_update_of_that_round(told, session, case):
    story = told[session]
    assert story.exit_codes[case.fault] == -9
    events = [each for each in story.federation.events() if each.get("round") == case.round]
    answered = [each["phase"] for each in events if each["event"] == "answered" and each["site"] == case.site]
    [aggregated] = [each for each in events if each["event"] == "aggregated"]
    if aggregated["attempt"] > 1:
        assert case.site in str([each["why"] for each in events if each["event"] == "void"])
        return  # a busy machine made another site late as well: the round was tried again, with everybody
    phases = list(PHASES)
    until = phases.index(case.phase) + (case.when == "kill-after")
    assert answered[:until] == phases[:until]
    assert case.when == "kill-after" or answered == phases[:until]
    # its masked vector was in time, or it came back with the state of its last answer and went on
    contributes = case.when == "kill-after" or until > phases.index("mask")
    assert aggregated["dropouts"] == ([] if contributes else [case.site])


@each_session
def test_after_every_death_the_adapter_is_the_mean_of_the_recorded_survivors_and_nobody_answered_twice(told, session):
    story = told[session]
    assert [story.exit_codes[name] for name in ("server", *FIVE)] == [0] * 6, story.federation.logs()
    assert_all_is_well(story.federation, len(SESSIONS[session]))


@each_session
def test_the_operator_is_told_who_did_not_answer_what(told, session):
    log = told[session].federation.log("server")
    # silent, or known to be away: whichever Flower notices first
    assert "did not answer keys" in log or "refused: gone" in log
    assert "Traceback" not in log
