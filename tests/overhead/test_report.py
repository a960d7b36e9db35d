"""The report's files: what stands in them, that nothing is missing or odd, and that nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report import app
from fedserver.overhead.blocks import Bars
from fedserver.overhead.record import FAMILIES
from fedserver.overhead.run import Run, from_benchmarks
from fedserver.overhead.write import report_of, write_report
from tests.overhead.samples import MODELS, everything, run_of, saved, total

ODD = re.compile(r"\b(nan|none|inf|null)\b|\{|\}", re.IGNORECASE)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """What the tests ask about a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags, self.ids = Counter[str](), Counter[str]()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.ids.update([given["id"]] if given.get("id") else [])
        self.links += [str(given[name]) for name in ("src", "href", "xlink:href", "action") if given.get(name)]
        self.labels += [str(given["aria-label"])] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)


@pytest.fixture(scope="module")
def run() -> Run:
    return from_benchmarks(saved(everything()), MODELS)


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(report_of(run, run), out)
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_with_every_figure_and_every_section(page: Page, run: Run) -> None:
    assert (page.unbalanced, page.open) == ([], [])
    assert [name for name, count in page.ids.items() if count > 1] == []
    figures = report_of(run).figures()
    assert page.tags["svg"] == page.tags["figure"] == len(figures) > 4
    assert page.labels == [each.alt for each in figures]
    sections = {"answer", "round", "stages", "growth", "peers", "models", "accuracy", "memory", "upload", "method"}
    assert sections | {"changes", "missing"} <= page.ids.keys()


def test_the_page_takes_nothing_from_anywhere_and_runs_nothing(page: Page, folder: Path) -> None:
    assert {link[0] for link in page.links} == {"#"}
    assert {link[1:] for link in page.links} <= page.ids.keys()
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "url(http" not in text and "@import" not in text and "default-src 'none'" in text


def test_no_text_of_the_report_is_a_missing_number(page: Page, folder: Path) -> None:
    assert [text for text in page.texts if ODD.search(text.replace("none of them", ""))] == []
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"\bnan\b|\bNone\b|\binf\b", markdown) == []
    assert "NaN" not in (folder / "overhead.json").read_text()


def test_what_a_record_says_is_text_and_never_markup(page: Page, folder: Path) -> None:
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    assert any("A <b>fast</b> processor" in text for text in page.texts)
    assert "host-of-somebody" not in (folder / "report.html").read_text()


def test_the_answer_has_five_lines_at_most_with_the_figures_of_the_run(run: Run) -> None:
    lines = report_of(run).plain["answer"]
    assert isinstance(lines, list) and len(lines) == 5
    assert lines[0].startswith("masked adds 300 ms (294 to 309 ms) and 390 kB a site to a round of 500,000 values and")
    assert "ckks takes a site 2.40 s of CPU time a round (4 million values and 10 sites)" in lines[1]
    assert lines[2] == "CPU time at a site, 1 million values and 10 sites: Flower SecAgg+ takes 9.00x that of masked."
    assert lines[3].startswith("Llama-3-8B with LoRA r = 16 on all-linear, 20 sites, masked (extrapolated): 83.8 MB up")
    assert lines[4] == "Perplexity of the demo's adapter: 24.98 with masked at 8 bits."


def test_the_figures_are_files_too(folder: Path, run: Run) -> None:
    for each in report_of(run).figures():
        assert (folder / "figures" / f"{each.name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (folder / "figures" / f"{each.name}.svg").read_text()
        assert "var(--" not in svg and "<svg" in svg
        assert f"figures/{each.name}.svg" in (folder / "report.md").read_text()


def test_every_axis_of_every_figure_names_its_unit(page: Page, run: Run) -> None:
    for each in report_of(run).figures():
        for axis in (each.axis,) if isinstance(each, Bars) else (each.across, each.up):
            assert axis.endswith(("(s)", "(d)", "(n)")) and axis in page.texts, each.name


def test_the_markdowns_tables_are_whole(folder: Path) -> None:
    tables = re.findall(r"(?:^\|.*\|$\n?)+", (folder / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(tables) > 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_json_has_the_keys_that_its_description_lists(folder: Path) -> None:
    plain = json.loads((folder / "overhead.json").read_text())
    described = (Path(__file__).parents[2] / "benchmarks" / "OVERHEAD.md").read_text(encoding="utf-8")
    schema = described[described.index("## overhead.json") :]
    assert set(re.findall(r"^\| `(\w+)` \|", schema, re.MULTILINE)) == set(plain)
    for key in ("records", "growth", "ratios", "models", "rounds"):
        listed = re.search(rf"^\| `{key}` \|.*$", schema, re.MULTILINE)
        assert listed
        for field in {name for row in plain[key] for name in row}:
            assert f"`{field}`" in schema, (key, field)
    assert len(plain["records"]) == len(everything())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_run_of_one_family_has_a_report(family: str) -> None:
    report = report_of(run_of(*(each for each in everything() if each["family"] == family)))
    keys = [section.key for section in report.sections]
    assert keys[0] == "answer" and keys[-2:] == ["method", "missing"]
    assert report.plain["not_measured"]


def test_an_empty_run_says_so(tmp_path: Path) -> None:
    report = report_of(run_of())
    write_report(report, tmp_path)
    assert "holds no figure of any scheme" in (tmp_path / "report.md").read_text()
    missing = report.plain["not_measured"]
    assert isinstance(missing, list) and len(missing) > 9


def test_a_scheme_that_one_family_lacks_is_named(run: Run) -> None:
    missing = report_of(run).plain["not_measured"]
    assert isinstance(missing, list)
    assert "whole rounds of real processes under ckks" in missing
    assert "skipped, or not installed: TenSEAL 4096, TenSEAL 8192" in missing
    assert any(each.startswith("1 figures are extrapolated") for each in missing)


def test_the_command_renders_a_file_and_compares_it_with_an_older_one(tmp_path: Path) -> None:
    def write(name: str, cpu_s: float) -> str:
        records = [total("masked", "site", 10**6, 10, cpu_s)]
        (tmp_path / name).write_text(json.dumps(saved(records)))
        return str(tmp_path / name)

    options = [write("new.json", 2.0), "--out", str(tmp_path / "out"), "--compare", write("old.json", 1.0)]
    done = CliRunner().invoke(app, options)
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "out" / "report.html")), done.output
    plain = json.loads((tmp_path / "out" / "overhead.json").read_text())
    assert [(each["what"], each["ratio"]) for each in plain["changes"]["changed"]] == [("CPU time", 2.0)]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"benchmarks": [{"extra_info": {"records": [{"family": "x"}]}}]}']
)
def test_a_file_that_is_no_run_is_refused_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    done = CliRunner().invoke(app, [str(tmp_path / "bad.json"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "holds no run" in str(getattr(done.exception, "problem", ""))


def test_a_file_that_is_not_there_is_two_lines_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    problem, remedy = done.stderr.splitlines()
    assert problem.startswith("error: cannot read")
    assert remedy == "give a file that `make bench` has written"
