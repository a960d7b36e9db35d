"""The demo: a consortium, its server and its four sites on this machine, and what the federation gained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fedclient.demo import LORA, ROUNDS, TRAINING
from fedclient.settings import TrainingSettings
from fedserver.live import View
from fedserver.plan import Plan, ServerError
from fedserver.rehearsal import allow, require_no_adapter, shared_key_of
from fedserver.report import summarise
from fedserver.supervise import PLAN_FILE, own_tls, supervise, terminated_as_exit
from secagg.schemes import cautions

EMBEDDED: Final = "embedded"
MARKER: Final = ".demo"
STOP_S: Final = 10.0
TAIL_LINES: Final = 12


@dataclass
class Children:
    """Processes of the demo, each with a log; every one is ended with it."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Starts a Python command under this interpreter."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )  # fmt: skip
        self.running[name] = process
        return process

    def wait(self, name: str) -> None:
        """Waits for a child to end well. Raises ServerError with the end of its log."""
        if self.running[name].wait() != 0:
            raise self.failure(name)

    def failure(self, name: str) -> ServerError:
        """What to say of a child that ended badly."""
        log = self.logs / f"{name}.log"
        tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ServerError(f"{name} failed:\n{tail}", f"read {log}, and run the demo again")

    def check(self) -> None:
        """Raises ServerError if a child has ended badly."""
        for name, process in self.running.items():
            if process.poll() not in (None, 0):
                raise self.failure(name)

    def stop(self) -> None:
        """Ends every child."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def children(logs: Path) -> Iterator[Children]:
    """Children that do not outlive the block, however it is left."""
    group = Children(logs)
    try:
        yield group
    finally:
        group.stop()


def run_demo(out: Path, scheme: str, training: TrainingSettings = TRAINING, rounds: int = ROUNDS) -> None:
    """Runs the demo from nothing to its table; what an earlier run left in `out` is replaced.

    Raises ServerError, or what a part raised; every child is ended first.
    """
    started = time.monotonic()
    out = _emptied(out.resolve())
    with terminated_as_exit(), View() as view, children(out / "logs") as group:
        view.line("demo: provisioning a consortium: offline root, four sites, a server")
        sites = _prepare(group, out, scheme)
        plan = _plan(out, scheme, training, rounds)
        plan.save(out / PLAN_FILE)
        for caution in cautions(scheme, plan.options()):
            view.line(f"demo: CAUTION: {caution}")
        session = time.monotonic()
        _federate(plan, group, view, sites, out)
        session_s = time.monotonic() - session
        view.line("demo: training each site alone, for comparison, and judging every adapter")
        judged = _judge(group, plan, sites)
    summary = summarise(out, scheme, sites, judged)
    summary["seconds"] |= {"session": round(session_s, 2), "total": round(time.monotonic() - started, 2)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _show(summary, judged, out)


def _emptied(out: Path) -> Path:
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise ServerError(f"{out} is not empty and holds no earlier demo", "choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    try:
        out.mkdir(parents=True)
        (out / MARKER).write_text("made by fedserver --demo, which replaces this folder every time\n")
    except OSError as error:
        raise ServerError(f"cannot write {out}: {error.strerror}", "choose another --out") from None
    return out


def _prepare(group: Children, out: Path, scheme: str) -> list[str]:
    """Texts, keys, and policies that allow the scheme; gives the sites' names."""
    group.start("texts", "-m", "fedclient.demo.texts", str(out / "data"))
    group.wait("texts")
    sites = sorted(each.name for each in (out / "data").iterdir())
    named = [part for site in sites for part in ("--site", site)]
    group.start("provision", "-m", "keys.provision", "--out", str(out / "consortium"), "--secagg", scheme, *named)
    group.wait("provision")
    allow(scheme, [out / "consortium" / "sites" / site for site in sites])
    return sites


def _plan(out: Path, scheme: str, training: TrainingSettings, rounds: int) -> Plan:
    consortium = out / "consortium"
    return Plan(
        roster=str(consortium / "roster.json"), keys=str(consortium / "server"), out=str(out), scheme=scheme,
        shared_key=shared_key_of(consortium, scheme),
        model=EMBEDDED, rounds=rounds, lora=LORA, training=training, join_timeout=120.0, phase_timeout=60.0,
    )  # fmt: skip


def _federate(plan: Plan, group: Children, view: View, sites: Sequence[str], out: Path) -> None:
    consortium = out / "consortium"
    tls = own_tls(Path(plan.keys))

    def start_sites(port: int) -> None:
        view.line(f"demo: fedserver on 127.0.0.1:{port} over TLS, and four fedclient processes")
        for site in sites:
            group.start(
                f"site-{site}", "-m", "fedclient.cli", "--site", site, "--home", str(consortium / "sites" / site),
                "--server", f"127.0.0.1:{port}", "--ca", str(tls.ca), "--roster", plan.roster,
                "--data", str(out / "data" / site / "train.jsonl"),
                "--eval-data", str(out / "data" / site / "test.jsonl"),
                "--out", str(out / "sites" / site / "adapter"), "--device", "cpu",
            )  # fmt: skip

    def show(event: dict[str, Any]) -> None:
        group.check()
        view.show(event)

    supervise(plan, "127.0.0.1", 0, tls, show, start_sites, group.check)
    for site in sites:
        group.wait(f"site-{site}")


def _adapter(out: Path, sites: Sequence[str]) -> Path:
    """The federated adapter: the server's copy, or a site's if only sites can read the sum."""
    return out / "adapter" if (out / "adapter").exists() else out / "sites" / sites[0] / "adapter"


def _judge(group: Children, plan: Plan, sites: Sequence[str]) -> dict[str, Any]:
    """Runs the comparisons as processes, as many at a time as there are cores."""
    out = Path(plan.out)
    results, settings = out / "judged", out / "settings.json"
    results.mkdir()
    settings.write_text(json.dumps({"lora": plan.lora.to_plain(), "training": plan.training.to_plain()}) + "\n")
    common = ["--data", str(out / "data"), "--settings", str(settings)]
    tasks = {f"alone-{site}": ["alone", "--site", site, "--rounds", str(plan.rounds)] for site in sites}
    tasks["federated"] = ["federated", "--adapter", str(_adapter(out, sites))]

    def judge(name: str) -> dict[str, Any]:
        file = results / f"{name}.json"
        group.start(f"judge-{name}", "-m", "fedclient.demo.evaluate", *tasks[name], *common, "--out", str(file))
        group.wait(f"judge-{name}")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        try:
            found = dict(zip(tasks, pool.map(judge, tasks), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            group.stop()  # or the pool would wait for children that nobody wants any more
            raise
    alone = {site: found[f"alone-{site}"]["alone"][site] for site in sites}
    return found["federated"] | {"alone": alone}


def _show(summary: dict[str, Any], judged: dict[str, Any], out: Path) -> None:
    console = Console(highlight=False)
    console.print(_quality_table(judged, summary["sites"]))
    console.print(_cost_table(summary))
    for caution in summary["cautions"]:
        console.print(f"CAUTION: {caution}", markup=False)
    for round_, names in enumerate(summary["took_part"], 1):
        console.print(f"round {round_}: {len(names)} sites took part: {', '.join(names)}", markup=False)
    site, text = next(iter(judged["continuations"].items()))
    console.print(f"\nthe federated adapter continues a text of {site}:", markup=False)
    console.print(f"{text['prompt']}[{text['continuation']}]\n", markup=False)
    seconds, adapter = summary["seconds"], _adapter(out, summary["sites"])
    console.print(
        f"{seconds['total']:.0f} s in all: the session {seconds['session']:.0f} s, of which training "
        f"{seconds['train']:.1f} s and protocol {seconds['protocol']:.1f} s; the rest is the comparison\n"
        f"{summary['bytes_up_per_param']:.2f} bytes up per parameter, site and round\n"
        f"adapter: {adapter}{_blind(out, adapter)}\nsummary: {out / 'summary.json'}", markup=False,
    )  # fmt: skip


def _blind(out: Path, adapter: Path) -> str:
    if (out / "adapter").exists():
        return ""
    files = require_no_adapter(out, adapter)
    return f" (a site's)\nthe server never saw a sum: no piece of the adapter is in any of the {files} files it wrote"


def _quality_table(judged: dict[str, Any], sites: Sequence[str]) -> Table:
    table = Table(title="Held-out perplexity (lower is better)")
    for heading in ("adapter", "all texts", *sites):
        table.add_column(heading, justify="left" if heading == "adapter" else "right")
    rows = {"none (base model)": judged["base"]}
    rows |= {f"{site} alone": judged["alone"][site] for site in sites}
    rows["federated"] = judged["federated"]
    for name, found in rows.items():
        domains = (f"{found['domains'][site]:.1f}" for site in sites)
        table.add_row(name, f"{found['union']:.1f}", *domains, style="bold" if name == "federated" else None)
    return table


def _cost_table(summary: dict[str, Any]) -> Table:
    table = Table(title="Cost of one round (mean over rounds; bytes of all sites together)")
    for heading in ("phase", "seconds", "bytes up", "bytes down"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, cost in summary["phases"].items():
        table.add_row(phase, f"{cost['seconds']:.2f}", f"{cost['bytes_up']:,.0f}", f"{cost['bytes_down']:,.0f}")
    return table
