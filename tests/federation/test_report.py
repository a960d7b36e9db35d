"""What the journal says is what the report says, and what was counted is what was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedserver.app import EVENTS
from fedserver.journal import Journal
from fedserver.report import bytes_up_per_parameter, summarise
from fedserver.round import size_of
from tests.federation.direct import Bench, Where

JUDGED = {
    "base": {"union": 30.0, "domains": {"law": 31.0}},
    "federated": {"union": 20.0, "domains": {"law": 19.0}},
    "alone": {"a": {"union": 25.0, "domains": {"law": 24.0}}, "b": {"union": 26.0, "domains": {"law": 27.0}}},
}
PHASES = ("advertise", "share", "mask", "consent", "unmask")


def toy_journal(out: Path) -> None:
    """Two finished rounds of three sites with 1,000 values; one void attempt; one dropout."""
    journal = Journal(out / EVENTS)
    journal.write("void", round=1, why="2 sites are left", code="too-few-sites", refused={})
    for round_, (contributors, dropouts, mask) in enumerate((("abc", "", 3000), ("ab", "c", 2400)), 1):
        journal.write(
            "aggregated", round=round_, attempt=1, contributors=list(contributors), dropouts=list(dropouts),
            seconds_train=10.0 * round_, seconds_total=99.0, seconds=dict.fromkeys(PHASES, 0.5),
            bytes_up=dict.fromkeys(("start", *PHASES), 30) | {"mask": mask},
            bytes_down=dict.fromkeys(("start", *PHASES), 60), size=1000, totals=None,
        )  # fmt: skip


def test_the_report_of_a_known_journal_is_right_to_the_last_figure(tmp_path: Path) -> None:
    toy_journal(tmp_path)
    report = summarise(tmp_path, "masked", ("a", "b"), JUDGED)
    assert (report["scheme"], report["rounds"], report["sites"]) == ("masked", 2, ["a", "b"])
    assert report["bytes_up_per_param"] == round(((3000 + 150) / 3 / 1000 + (2400 + 150) / 2 / 1000) / 2, 4)
    assert report["seconds"] == {"train": 30.0, "protocol": 5.0}
    assert report["dropouts"] == {"2": ["c"]}
    assert report["took_part"] == [["a", "b", "c"], ["a", "b"]]
    assert report["voids"] == 1
    assert report["phases"]["train"] == {"seconds": 15.0, "bytes_up": 30.0, "bytes_down": 60.0}
    assert report["phases"]["mask"] == {"seconds": 0.5, "bytes_up": 2700.0, "bytes_down": 60.0}
    assert report["perplexity"]["alone"] == {"a": 25.0, "b": 26.0}
    assert report["perplexity"]["per_domain"]["federated"] == {"law": 19.0}


def test_a_session_without_a_finished_round_has_a_report(tmp_path: Path) -> None:
    report = summarise(tmp_path, "masked", ("a", "b"), JUDGED)
    assert (report["rounds"], report["bytes_up_per_param"], report["dropouts"]) == (0, 0.0, {})


def test_the_bytes_counted_are_the_bytes_of_every_packet_that_left_a_site(bench: Bench) -> None:
    bench.run()
    rounds = bench.events("aggregated")
    for event in rounds:
        for phase, counted in event["bytes_up"].items():
            sent = [
                size_of(packet)
                for where, packet in bench.link.sent
                if where.phase == phase and where.round == (0 if phase == "start" else event["round"])
            ]
            assert counted == sum(sent) // (len(rounds) if phase == "start" else 1), phase
    assert bytes_up_per_parameter(rounds) == pytest.approx(
        sum(sum(each["bytes_up"].values()) for each in rounds) / 5 / 2 / rounds[0]["size"], abs=5e-5
    )  # the figure is rounded to four decimals


def test_a_dropout_is_in_the_report_and_a_site_that_took_part_is_not(bench: Bench) -> None:
    bench.link.alter_reply = lambda where, packet: None if lost(where) else packet
    bench.run()
    report = summarise(bench.journal.parent, "masked", ("a", "b"), JUDGED)
    assert report["dropouts"] == {"1": ["site-04"]}
    assert [len(each) for each in report["took_part"]] == [4, 5]


def lost(where: Where) -> bool:
    return where.site == "site-04" and where.asks("mask", 1)
