"""The report of a real federation: the journal's figures, and what sites gave of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedclient.cli
import fedserver.cli
from fedclient.timings import MOST_BYTES, TIMINGS, Laps, Timing, keep, kept
from fedserver.journal import Journal
from fedserver.overhead.rounds import TRAIN
from fedserver.overhead.session import session_run
from fedserver.overhead.write import report_of
from fedserver.plan import ServerError
from secagg.config import Policy
from tests.federation.direct import PHASES, Bench


def told(bench: Bench) -> Path:
    """The --out of a session that has run."""
    bench.run()
    out = Path(bench.plan.out)
    bench.plan.save(out / "plan.json")
    return out


def timings(bench: Bench, *sites: str) -> list[Path]:
    return [bench.folder / site / TIMINGS for site in sites]


def invoke(cli: object, *options: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, [str(each) for each in options])  # type: ignore[attr-defined]
    return done.exit_code, done.output, str(getattr(done.exception, "problem", done.exception))


def test_the_run_of_a_session_has_every_phase_of_every_round(bench: Bench) -> None:
    run = session_run(told(bench))
    phases = {each.stage: each for each in run.records if each.role == "server"}
    assert tuple(phases) == (TRAIN, *PHASES, "commit")
    events = bench.events("aggregated")
    for name, record in phases.items():
        assert record.wall_s is not None and len(record.wall_s) == len(events) == bench.plan.rounds
        assert record.cpu_s is not None and len(record.cpu_s) == len(events)
        assert all(0 <= cpu <= 60 for cpu in record.cpu_s), name
    (whole,) = (each for each in run.records if each.stage == "whole")
    a_site = [sum(each["bytes_up"].values()) / len(each["contributors"]) for each in events]
    assert whole.bytes_up == pytest.approx(sum(a_site) / len(a_site), rel=0.01)
    assert (whole.scheme, whole.sites, whole.values) == ("masked", 5, events[0]["size"])
    assert [each.round for each in run.rounds] == [1, 2]


def test_the_phases_of_a_round_add_up_to_no_more_than_the_round(bench: Bench) -> None:
    for each in session_run(told(bench)).rounds:
        assert each.protocol_s > 0
        assert each.train_s + each.protocol_s <= each.total_s


def test_the_report_of_a_session_says_what_it_cost(bench: Bench) -> None:
    out = told(bench)
    code, printed, problem = invoke(fedserver.cli, "report", out)
    assert (code, printed.strip()) == (0, str(out / "report" / "report.html")), problem
    plain = json.loads((out / "report" / "overhead.json").read_text())
    assert plain["kind"] == "session"
    assert plain["answer"][0].startswith("masked took ")
    assert plain["answer"][-1] == "2 rounds ended, none of them without some site; no attempts gave no sum."
    assert plain["facts"]["scheme"] == f"masked, {bench.plan.bits} bits a value"
    markdown = (out / "report" / "report.md").read_text()
    assert "nan" not in markdown.lower().split() and str(bench.folder) not in markdown


def test_the_report_says_what_the_session_did_not_protect(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"scheme": "ckks", "server_reads_sum": True})
    bench.policies = {name: Policy(server_reads_sum=True) for name in bench.names}
    bench.restart(*bench.names)
    run = session_run(told(bench))
    assert run.facts["caution"].endswith("the server reads the sum of every round, and so the adapter")
    assert run.facts["caution"] in report_of(run).about


def test_what_sites_gave_is_in_the_report_and_other_sessions_are_not(bench: Bench) -> None:
    out = told(bench)
    files = timings(bench, "site-01", "site-02")
    whole = "f" * 64
    keep(files[0].parent, Timing(0, whole, 1, "answer", {"mask": 999.0}, {"mask": 999.0}, 1, 1))
    run = session_run(out, files)
    given = {each.stage: each for each in run.records if each.role == "site"}
    assert set(given) == {"open", "train", *PHASES}
    assert given["mask"].wall_s is not None and len(given["mask"].wall_s) == 2 * bench.plan.rounds
    assert max(given["mask"].wall_s) < 999
    report = report_of(run)
    assert "sites" in {section.key for section in report.sections}
    assert any(line.startswith("Sites that gave their record spent ") for line in report.plain["answer"])  # type: ignore[attr-defined]


def test_a_site_shows_its_own_record(bench: Bench) -> None:
    told(bench)
    code, printed, problem = invoke(fedclient.cli, "report", bench.folder / "site-01")
    assert code == 0, problem
    rows = {line.split("  ")[0]: line.split()[-5:] for line in printed.splitlines()[1:-1]}
    assert set(rows) >= {"train", "quantise and protect", "check the sum"}
    assert {row[0] for row in rows.values()} == {str(bench.plan.rounds)}
    up = int(rows["quantise and protect"][3].replace(",", ""))
    sent = {each["bytes"] for each in bench.events("answered") if each["phase"] == "mask" and each["site"] == "site-01"}
    assert min(sent) <= up <= max(sent)
    assert re.search(r"protection took [0-9.]+ s of CPU time a round", printed)


def test_no_answer_of_a_site_holds_its_record_and_nobody_else_may_read_it(bench: Bench) -> None:
    told(bench)
    (file,) = timings(bench, "site-01")
    assert file.stat().st_mode & 0o777 == 0o600
    sent = b"".join(packet.head for _, packet in bench.link.sent)
    assert b"cpu" not in sent
    for line in kept(file):
        assert repr(line.cpu).encode() not in sent


def test_a_record_that_cannot_be_kept_costs_the_site_nothing_else(bench: Bench) -> None:
    (bench.folder / "site-01").mkdir(exist_ok=True)
    (bench.folder / "site-01" / TIMINGS).mkdir()
    bench.run()
    assert len(bench.events("aggregated")) == bench.plan.rounds


def test_the_record_stops_growing_however_often_the_server_asks(tmp_path: Path) -> None:
    with (tmp_path / TIMINGS).open("wb") as file:
        file.truncate(MOST_BYTES)
    keep(tmp_path, Timing(0, "", 1, "start", {}, {}, 0, 0))
    assert (tmp_path / TIMINGS).stat().st_size == MOST_BYTES


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"time": 1}', b'{"time": 1, "session": "", "round": -1, "kind": "", "seconds": {}, '
             b'"cpu": {}, "bytes_down": 0, "bytes_up": 0}', b"[" * 10**5]
)  # fmt: skip
def test_a_line_that_is_no_timing_is_passed_over(tmp_path: Path, line: bytes) -> None:
    good = Timing(1, "ab", 2, "start", {"train": 0.5}, {"train": 0.25}, 3, 4)
    (tmp_path / TIMINGS).write_bytes(line + b"\n")
    keep(tmp_path, good)
    assert list(kept(tmp_path / TIMINGS)) == [good]


def test_laps_share_a_requests_time_among_its_parts() -> None:
    laps = Laps()
    laps.lap("open")
    sum(range(10**5))
    laps.lap("train")
    first = laps.seconds["train"]
    laps.lap("train")
    assert set(laps.seconds) == set(laps.cpu) == {"open", "train"}
    assert laps.seconds["train"] >= first > 0
    laps.begin()
    assert laps.seconds == {}


def refused(out: Path, *files: Path) -> str:
    """Why there is no report."""
    with pytest.raises(ServerError) as caught:
        session_run(out, files)
    return caught.value.problem


def journal(out: Path, *events: tuple[str, dict[str, object]]) -> None:
    written = Journal(out / "events.jsonl")
    for name, facts in events:
        written.write(name, **facts)


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ((), "no round of the session"),
        ((("void", {"round": 1}),), "no round of the session"),
        ((("aggregated", {"round": 1}),), "is not as fedserver writes it"),
    ],
)  # fmt: skip
def test_a_session_without_a_finished_round_is_refused_in_words(
    bench: Bench, events: Sequence[tuple[str, dict[str, object]]], problem: str
) -> None:  # fmt: skip
    out = Path(bench.plan.out)
    out.mkdir(parents=True, exist_ok=True)
    bench.plan.save(out / "plan.json")
    journal(out, *events)
    assert problem in refused(out)


def test_folders_and_files_that_hold_nothing_are_refused_in_words(bench: Bench) -> None:
    assert "holds no session" in refused(bench.folder / "nothing")
    out = told(bench)
    assert "cannot read" in refused(out, bench.folder / "nothing")
    (bench.folder / "empty").touch()
    assert "holds nothing of this session" in refused(out, bench.folder / "empty")
    (bench.folder / "site-01" / TIMINGS).unlink()
    code, _, problem = invoke(fedclient.cli, "report", bench.folder / "site-01")
    assert (code, "cannot read" in problem) == (1, True)
