"""The page as a browser shows it: figures drawn, no number missing, nothing cut off, light and dark, wide and narrow.

The copy that is opened has a script added that looks at the page and writes down what it saw; the report has none.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from fedserver.overhead.run import from_benchmarks
from fedserver.overhead.write import PAGE, report_of, write_report
from tests.overhead.samples import MODELS, everything, saved

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian's package is chromium")
PROBE = """
<script>addEventListener("load", () => {
  const box = each => each.getBoundingClientRect();
  const seen = {
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    width: innerWidth, needed: document.documentElement.scrollWidth,
    figures: [...document.querySelectorAll("figure svg")].map(svg => ({
      width: box(svg).width, height: box(svg).height,
      shapes: [...svg.querySelectorAll("path, use")].filter(each => box(each).width + box(each).height > 0).length,
      letters: Math.min(...[...svg.querySelectorAll("text")].map(each => box(each).height)),
      ink: getComputedStyle(svg.querySelector("text")).fill,
      outside: [...svg.querySelectorAll("text")].filter(each =>
        box(each).right > box(svg).right + 1 || box(each).left < box(svg).left - 1).map(each => each.textContent),
    })),
    text: document.body.innerText,
  };
  parent.postMessage(JSON.stringify(seen), "*");
});</script>
"""
FRAME = """<!DOCTYPE html><style>:root { color-scheme: light dark }</style>
<pre id="seen"></pre>
<script>addEventListener("message", event => { document.getElementById("seen").textContent = event.data; });</script>
<iframe src="probed.html" width="WIDTH" height="3000" style="border: 0"></iframe>
"""  # a frame can be as narrow as a phone, a window cannot
WIDE, PHONE = 1200, 390
LIGHT, DARK = 1, 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report with the probe, and without the rule that forbids it."""
    run = from_benchmarks(saved(everything()), MODELS)
    file = write_report(report_of(run, run), tmp_path_factory.mktemp("report"))
    text, rules = re.subn(r"<meta http-equiv=[^>]*>", "", file.read_text(encoding="utf-8"))
    assert rules == 1
    probed = file.with_name("probed.html")
    probed.write_text(text.replace("</head>", PROBE + "</head>"), encoding="utf-8")
    return probed


def seen(page: Path, width: int, colours: int, profile: Path) -> dict[str, Any]:
    """What the probe saw at this width."""
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--window-size=1300,2000", f"--blink-settings=preferredColorScheme={colours}",
        "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-1000:]
    return dict(json.loads(unescape(found[1])))


@pytest.mark.parametrize(("width", "colours"), [(WIDE, LIGHT), (PHONE, DARK)])
def test_a_browser_shows_every_figure_and_no_missing_number(
    page: Path, tmp_path: Path, width: int, colours: int
) -> None:
    found = seen(page, width, colours, tmp_path)
    assert found["width"] == width
    assert found["needed"] <= width, "the page is wider than the screen"
    assert len(found["figures"]) == page.read_text().count("<figure ") > 4
    for each in found["figures"]:
        assert each["shapes"] > 10
        assert each["width"] >= min(0.8 * width, 360)
        assert each["height"] > 100
        assert each["letters"] >= 9  # pixels of a line: small print, and still print
        assert each["outside"] == []
    assert not re.search(r"\bNaN\b|\bNone\b|\bundefined\b|\bInfinity\b", found["text"])
    lightness = [sum(map(int, re.findall(r"\d+", found[name])[:3])) / 765 for name in ("background", "ink")]
    assert (lightness[0] > lightness[1]) == (colours == LIGHT)
    assert abs(lightness[0] - lightness[1]) > 0.6
    assert {each["ink"] for each in found["figures"]} == {found["ink"]}


def test_the_page_alone_shows_its_answer_under_the_rule_that_forbids_scripts(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}", "--window-size=1200,2400", f"--screenshot={shot}",
        page.with_name(PAGE).as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert shot.stat().st_size > 50_000  # an empty page of this size has a tenth of it
    assert "Refused to" not in done.stderr
