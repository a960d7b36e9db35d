"""A federation of virtual sites on this machine, run by Flower's simulation engine.

    python -m fedserver.simulate --sites 5 --rounds 2 --out out/sim          # prepare, print the flwr command
    python -m fedserver.simulate --sites 5 --rounds 2 --out out/sim --run    # prepare, run it, clean up

The ServerApp, the ClientApp and the protocol are those of a real federation; TLS, node keys and separate
machines are not there, and one person holds every key.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from fedclient.settings import LocalError, LoraSettings, TrainingSettings
from fedserver.plan import Plan, ServerError
from fedserver.rehearsal import allow, shared_key_of
from keys.console import new_app, notice, run
from keys.errors import KeyFileError

APP: Final = Path(__file__).resolve().parent.parent  # the folder of our pyproject.toml, in a checkout
PLAN_FILE: Final = "plan.json"
RUN_CONFIG: Final = "run.toml"
CONSORTIUM: Final = "consortium"
FLOWER: Final = "flower"  # FLWR_HOME of --run
LOG: Final = "flower.log"
PIECE: Final = 1000  # characters: small enough for 100 sites to have texts to train on and to hold out
JOIN_S: Final = 300.0  # Ray's start included
PHASE_S: Final = 300.0  # sites take turns on a few workers, and a worker's first request loads the model
LOOK_S: Final = 0.1
END_S: Final = 30.0
STOP_S: Final = 10.0
KILL_S: Final = 1.0
TAIL_LINES: Final = 12
PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
NO_INSTALLATION: Final = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"  # else Flower installs torch for every run

OnEvent = Callable[[dict[str, Any]], None]


# ---------------------------------------------------------------------- what a run needs


def prepare(out: Path, sites: int, rounds: int, max_blocks: int, scheme: str = "masked") -> Plan:
    """Keys, texts and a plan under `out`; what an earlier simulation left there is replaced. Raises ServerError.

    Writes run.toml (Flower's run config; it marks the folder as ours), consortium/ with data/<site>/ in it, and
    plan.json.
    """
    out = _emptied(out.absolute())
    consortium = out / CONSORTIUM
    config = {"plan": str(out / PLAN_FILE), "consortium": str(consortium)}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
    (out / RUN_CONFIG).write_text("".join(lines), encoding="utf-8")
    names = site_names(sites)
    named = [part for name in names for part in ("--site", name)]
    _python("-m", "keys.provision", "--out", str(consortium), "--consortium", "simulation", "--secagg", scheme, *named)
    allow(scheme, [consortium / "sites" / name for name in names])
    _python("-m", "fedclient.demo.texts", str(out / "texts"))
    deal_texts(out / "texts", consortium / "data", names)
    shutil.rmtree(out / "texts")
    plan = Plan(
        roster=str(consortium / "roster.json"), keys=str(consortium / "server"), out=str(out), scheme=scheme,
        shared_key=shared_key_of(consortium, scheme),
        model="embedded", rounds=rounds, lora=LoraSettings(), training=TrainingSettings(max_blocks=max_blocks),
        join_timeout=JOIN_S, phase_timeout=PHASE_S,
    )  # fmt: skip
    plan.save(out / PLAN_FILE)
    return plan


def _emptied(out: Path) -> Path:
    is_ours = (out / RUN_CONFIG).exists() or (out.is_dir() and not any(out.iterdir()))
    if out.exists() and not is_ours:
        raise ServerError(f"{out} is not empty and holds no earlier simulation", "choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def site_names(sites: int) -> list[str]:
    """site-01, site-02, ...: in the order of their names, which is the roster's and the partitions'."""
    return [f"site-{number:0{max(2, len(str(sites)))}d}" for number in range(1, sites + 1)]


def _python(*command: str) -> None:
    """Runs a Python command of ours. Raises ServerError with what it said."""
    done = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerError(f"python {' '.join(command[:2])} failed:\n{done.stderr.strip()}", "choose other options")


def deal_texts(texts: Path, data: Path, names: Sequence[str]) -> None:
    """Deals every domain's texts among the sites, piece by piece, none twice: <data>/<site>/train.jsonl, test.jsonl.

    texts: <domain>/train.jsonl and test.jsonl. Raises ServerError if a site would get none.
    """
    dealt = set[str]()
    for part in ("test.jsonl", "train.jsonl"):  # a piece that stands in both is held out
        found = dict.fromkeys(piece for file in sorted(texts.glob(f"*/{part}")) for piece in _pieces(file))
        pieces = [piece for piece in found if piece not in dealt]
        dealt.update(pieces)
        if len(pieces) < len(names):
            raise ServerError(f"the texts are too few for {len(names)} sites", "choose fewer --sites")
        for number, name in enumerate(names):
            (data / name).mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"text": piece}) + "\n" for piece in pieces[number :: len(names)]]
            (data / name / part).write_text("".join(lines), encoding="utf-8")


def _pieces(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        yield from (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def flwr_command(out: Path, sites: int, workers: int) -> list[str]:
    """The command that runs what `prepare` wrote; in another folder than the checkout it names the checkout."""
    federation = f"num-supernodes={sites} client-resources-num-cpus=1 init-args-num-cpus={workers}"
    config = str(out.absolute() / RUN_CONFIG)
    app = "." if Path.cwd() == APP else str(APP)
    return ["flwr", "run", app, "local", "--run-config", config, "--federation-config", federation, "--stream"]


# ---------------------------------------------------------------------- the run


def simulate(plan: Plan, command: Sequence[str], on_event: OnEvent) -> None:
    """Runs the command in a Flower home of its own and passes the journal on. Raises ServerError.

    Flower's SuperLink, which `flwr run` leaves running, Ray and its workers are ended, however this ends.
    """
    if find_spec("ray") is None:
        raise ServerError("the simulation engine is not installed", "pip install 'secagg-lora[sim]'")
    if not (APP / "pyproject.toml").exists():
        raise ServerError(f"{APP} is not a checkout of secagg-lora", "run it in one: the app is its pyproject.toml")
    out = Path(plan.out)
    with tempfile.TemporaryDirectory(prefix="ray-") as ray, descendants_ended(), (out / LOG).open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]], env=_environment(out / FLOWER, Path(ray)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _follow(process, out, on_event)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


def _environment(home: Path, ray: Path) -> Mapping[str, str]:
    """No telemetry, no update check, nothing installed; ports of our own, so that no other SuperLink is used."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        NO_INSTALLATION: "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(_free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(_free_port()),
        "RAY_TMPDIR": str(ray),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _follow(process: subprocess.Popen[bytes], out: Path, on_event: OnEvent) -> None:
    """Passes the journal on until the session is done. Raises ServerError if it failed or Flower ended."""
    from fedserver.app import EVENTS
    from fedserver.journal import read_events

    start = 0
    while True:
        has_ended = process.poll() is not None  # before the journal is read, so that its last lines are seen
        lines, start = read_events(out / EVENTS, start)
        for event in lines:
            on_event(event)
            if event["event"] == "done":
                return
            if event["event"] == "failed":
                raise ServerError(event["problem"], event["remedy"])
        if has_ended:
            tail = (out / LOG).read_text(errors="replace").splitlines()[-TAIL_LINES:]
            raise ServerError("\n  ".join(["flower ended before the session was done:", *tail]), f"read {out / LOG}")
        time.sleep(LOOK_S)


@contextmanager
def descendants_ended() -> Iterator[None]:
    """Ends every process begun in the block, and all that descend from it, detached ones included.

    Linux; elsewhere a process whose parent has ended is not found.
    """
    import psutil

    def begun() -> list[Any]:
        return [each for each in psutil.Process().children(recursive=True) if each not in spared]

    spared = psutil.Process().children(recursive=True)
    _adopt_orphans(True)
    try:
        yield
    finally:
        _end(begun(), "terminate", STOP_S)
        while left := begun():
            _end(left, "kill", KILL_S)
        _adopt_orphans(False)


def _adopt_orphans(adopt: bool) -> None:
    """Whether processes that lose their parent become children of this one, not of init."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


def _end(processes: Sequence[Any], how: str, wait_s: float) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            getattr(process, how)()
    psutil.wait_procs(processes, timeout=wait_s)


# ---------------------------------------------------------------------- the command

app = new_app("Run a federation of virtual sites on Flower's simulation engine.")

EPILOG: Final = "Example: python -m fedserver.simulate --sites 5 --rounds 2 --out out/sim --run"


@app.command(epilog=EPILOG)
def main(
    sites: Annotated[int, typer.Option(min=3, max=100, help="Virtual sites.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 2,
    out: Annotated[Path, typer.Option(help="A folder for everything.")] = Path("out/sim"),
    max_blocks: Annotated[int, typer.Option(help="Most blocks a site trains on in a round; 0 = all.")] = 16,
    workers: Annotated[int, typer.Option(help="Processes that play the sites; 0 = one a core.")] = 0,
    secagg: Annotated[str, typer.Option(help="How updates are protected, as for fedserver.")] = "masked",
    run_it: Annotated[bool, typer.Option("--run", help="Run it, not only prepare it.")] = False,
) -> None:
    """Prepare keys, texts and a plan, and print the command that runs them; with --run, run it and clean up."""
    from fedserver.live import View
    from secagg.schemes import cautions

    plan = prepare(out, sites, rounds, max_blocks, _known(secagg))
    command = flwr_command(out, sites, workers or min(sites, os.cpu_count() or 1))
    if not run_it:
        notice("run it with the next command; it leaves Flower's SuperLink running, which --run would end:")
        typer.echo(f"{NO_INSTALLATION}=1 {shlex.join(command)}")
        return
    with View() as view:
        view.line(f"simulate: {sites} virtual sites; flower's log is {Path(plan.out) / LOG}")
        for caution in cautions(plan.scheme, plan.options()):
            view.line(f"simulate: CAUTION: {caution}")
        simulate(plan, command, view.show)
    typer.echo(str(_adapter(Path(plan.out))))


def _known(scheme: str) -> str:
    from secagg.errors import Refused
    from secagg.schemes import scheme_named

    try:
        return scheme_named(scheme).name
    except Refused as error:
        raise typer.BadParameter(str(error), param_hint="--secagg") from None


def _adapter(out: Path) -> Path:
    """The server's adapter; the first site's if only sites can read the sum."""
    own = out / "adapter"
    return own if own.exists() else min(out.glob(f"{CONSORTIUM}/sites/*/adapter"), default=own)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that every process is ended
    run(
        app, "python -m fedserver.simulate", failures=lambda: (KeyFileError, LocalError),
        interrupted=("stopped; every process was ended", "run the command again"),
    )  # fmt: skip
