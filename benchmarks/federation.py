"""Real federations as processes on loopback TLS, whose rounds begin when a benchmark says so, one federation at a time.

`SETUPS` is how a session of each scheme is started: ours by fedserver and toy sites, Flower's FedAvg by its stock
SuperLink and SuperNodes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.turns import VARIABLE, Turns
from fedserver.journal import read_events
from fedserver.superlink import BOUND_TO_PARENT
from keys.provision import Consortium, provision_consortium
from secagg.schemes import SCHEMES

ROOT: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent
HOST: Final = "127.0.0.1"
CONNECTION: Final = "bench"
FEDAVG: Final = "flower-fedavg"
ROUND_S: Final = 300.0  # the most that one round may take, and the most that a federation may take to be ready
LOOK_S: Final = 0.02
PULSE_S: Final = 20.0  # after this long a frozen federation wakes for a moment: Flower gives a silent part up after 60
AWAKE_S: Final = 0.5
STOP_S: Final = 10.0
SILENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "UV_OFFLINE": "1",
}


class SessionFailed(Exception):
    """A process of a federation ended, or a round took too long; the text is the end of its server's log."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One session. drops: the last site drops out of every round whose number this divides; 0 = of none.

    colluders: as fedserver's option; four sites can lose one only if none of them works with the server.
    """

    scheme: str
    sites: tuple[str, ...]
    size: int
    rounds: int
    drops: int = 0
    colluders: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One round: its event in the server's journal, and the CPU seconds of every process meanwhile."""

    event: Mapping[str, Any]
    cpu_s: float


@dataclass
class Federation:
    """The processes of one session, started; a round runs in `turn` alone. `close` ends them."""

    setting: Setting
    folder: Path
    setups: Mapping[str, Callable[[Federation], None]] | None = None  # by scheme; SETUPS if they are not given
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._turns = Turns(self.folder / "turns")
        self._done = self._read = 0
        self._awake = time.monotonic()  # when it last was
        try:
            (self.setups or SETUPS).get(self.setting.scheme, _start_ours)(self)
        except BaseException:
            self.close()
            raise

    @property
    def journal(self) -> Path:
        """Where the server writes its events."""
        return self.folder / "out" / "events.jsonl"

    @property
    def turns(self) -> Path:
        """The file that lets rounds begin."""
        return self._turns.path

    def turn(self, others: Sequence[Federation] = ()) -> Turn:
        """Runs the next round. others: frozen, woken for a moment now and then. Raises SessionFailed."""
        self._done += 1
        spent = self._cpu_seconds()
        self._turns.allow(self._done)
        deadline = time.monotonic() + ROUND_S
        while True:
            for event in self._events():
                if event["event"] == "aggregated" and event["round"] == self._done:
                    return Turn(event, self._cpu_seconds() - spent)
            if any(each.poll() for each in self.processes) or time.monotonic() > deadline:
                raise SessionFailed(f"round {self._done} of {self.setting}\n{self._log()}")
            for other in others:
                other.pulse()
            time.sleep(LOOK_S)

    def freeze(self) -> None:
        """Stops every process where it is, so that an idle federation takes no time from another's round."""
        self._signal(signal.SIGSTOP)
        self._awake = time.monotonic()

    def thaw(self) -> None:
        """Lets every process go on."""
        self._signal(signal.SIGCONT)

    def pulse(self) -> None:
        """Lets every process go on for a moment if it is time."""
        if time.monotonic() - self._awake > PULSE_S:
            self.thaw()
            time.sleep(AWAKE_S)
            self.freeze()

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Starts a process of this federation, which ends with this one; what it prints is in `name`.log.

        command: begins with the absolute path of a program.
        """
        variables = {**os.environ, **SILENT, "PYTHONPATH": str(ROOT), VARIABLE: str(self.turns), **environment}
        variables["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*BOUND_TO_PARENT, str(os.getpid()), *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=variables,
            )
        self.processes.append(process)

    def await_port(self, port: int) -> None:
        """Returns once somebody listens there. Raises SessionFailed."""
        deadline = time.monotonic() + ROUND_S
        while True:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
                return
            if any(each.poll() is not None for each in self.processes) or time.monotonic() > deadline:
                raise SessionFailed(self._log())
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Ends every process."""
        everything = self._tree()
        self.thaw()
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(everything, STOP_S)
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        for process in self.processes:
            process.wait()

    def _events(self) -> list[dict[str, Any]]:
        events, self._read = read_events(self.journal, self._read) if self.journal.exists() else ([], self._read)
        return events

    def _log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))

    def _tree(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                first = psutil.Process(process.pid)
                found += [first, *first.children(recursive=True)]
        return found

    def _signal(self, number: signal.Signals) -> None:
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _cpu_seconds(self) -> float:
        """Of every process that is there, and of those that they have waited for."""
        spent = 0.0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                spent += sum(process.cpu_times()[:4])
        return spent


@contextmanager
def federations(
    folder: Path, settings: Sequence[Setting], setups: Mapping[str, Callable[[Federation], None]] | None = None
) -> Iterator[list[Federation]]:
    """A federation for each setting, past its first round; all frozen but while one starts."""
    made: list[Federation] = []
    try:
        for setting in settings:
            made.append(Federation(setting, folder / setting.scheme, setups))
            made[-1].turn(made[:-1])
            made[-1].freeze()
        yield made
    finally:
        for each in made:
            each.close()


def in_turn(made: Sequence[Federation], rounds: int) -> dict[str, list[Turn]]:
    """`rounds` rounds of every federation by scheme, one round of one federation after the other."""
    turns: dict[str, list[Turn]] = {each.setting.scheme: [] for each in made}
    for _ in range(rounds):
        for each in made:
            each.thaw()
            turns[each.setting.scheme].append(each.turn([other for other in made if other is not each]))
            each.freeze()
    return turns


def _start_ours(made: Federation) -> None:
    """fedserver with its SuperLink and gateway, and toy sites with real keys, stores and TLS."""
    setting = made.setting
    keys, address = _provisioned(made), f"{HOST}:{free_port()}"
    options = ["--secagg", setting.scheme, "--model", "toy", "--rounds", str(setting.rounds)]
    options += ["--first-range", "0.06", "--colluders", str(setting.colluders), "--out", str(made.journal.parent)]
    options += ["--listen", address, "--roster", str(keys.roster), "--keys", str(keys.server)]
    if keys.shared_key.exists():
        options += ["--shared-key", str(keys.shared_key)]
    made.start("server", sys.executable, "-m", "benchmarks.server", *options)
    for site in setting.sites:
        options = [str(keys.homes[site]), address, str(keys.tls.ca), str(keys.roster), str(setting.size)]
        made.start(site, sys.executable, "-m", "benchmarks.toy_site", *options, str(_drops(setting, site)))


def _start_flower(made: Federation) -> None:
    """A stock SuperLink and stock SuperNodes, with TLS and everything else as Flower has it by default."""
    setting, keys, home = made.setting, _provisioned(made), made.folder / "flwr"
    control, runtimes = free_port(), [free_port() for _ in setting.sites]
    made.journal.parent.mkdir()
    tls = ["--ssl-certfile", str(keys.tls.certificate), "--ssl-keyfile", str(keys.tls.key)]
    tls += ["--ssl-ca-certfile", str(keys.tls.ca)]
    listen = ["--host", HOST, "--port", str(control)]
    made.start("superlink", str(BIN / "flower-superlink"), *listen, *tls, FLWR_HOME=str(home))
    _await_health(f"https://{HOST}:{control}/health", keys.tls.ca)
    for site, port in zip(setting.sites, runtimes, strict=True):
        options = ["--superlink", f"{HOST}:{control}", "--root-certificates", str(keys.tls.ca), "--port", str(port)]
        options += ["--node-config", f"drops={_drops(setting, site)}"]
        made.start(site, str(BIN / "flower-supernode"), *options, FLWR_HOME=str(made.folder / f"flwr-{site}"))
    _write_flower_app(made, home, control, keys.tls.ca)
    made.start("run", str(BIN / "flwr"), "run", str(made.folder / "app"), CONNECTION, FLWR_HOME=str(home))


def _write_flower_app(made: Federation, home: Path, control: int, ca: Path) -> None:
    """The app's pyproject.toml, and the connection by which `flwr run` finds the SuperLink."""
    setting, app = made.setting, made.folder / "app"
    app.mkdir()
    home.mkdir(exist_ok=True)
    config: dict[str, object] = {"sites": len(setting.sites), "size": setting.size, "rounds": setting.rounds}
    config |= {"journal": str(made.journal), "turns": str(made.turns)}
    sections: dict[str, dict[str, object]] = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {
            "name": "fedavg", "version": "1.0.0", "license": "Apache-2.0", "description": "FedAvg",
            "dependencies": ["flwr>=1.40,<1.43"],
        },
        "tool.flwr.app": {"publisher": "benchmark"},
        "tool.flwr.app.components": {
            "serverapp": "benchmarks.flower_fedavg:server", "clientapp": "benchmarks.flower_fedavg:client",
        },
        "tool.flwr.app.config": config,
    }  # fmt: skip
    (app / "pyproject.toml").write_text(_toml(sections))
    connection: dict[str, dict[str, object]] = {
        "superlink": {"default": CONNECTION},
        f"superlink.{CONNECTION}": {"address": f"{HOST}:{control}", "root-certificates": str(ca)},
    }
    (home / "config.toml").write_text(_toml(connection))


SETUPS: Final[Mapping[str, Callable[[Federation], None]]] = {FEDAVG: _start_flower}


def _provisioned(made: Federation) -> Consortium:
    """Keys and certificates, and what else the scheme needs."""
    known = SCHEMES.get(made.setting.scheme)
    needs = frozenset[str]() if known is None else known.needs
    return provision_consortium(made.folder / "consortium", made.setting.sites, needs=needs)


def _drops(setting: Setting, site: str) -> int:
    return setting.drops if site == setting.sites[-1] else 0


def _toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """JSON's strings, numbers and lists of them are TOML's."""
    lines: list[str] = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def _await_health(url: str, ca: Path) -> None:
    context, deadline = ssl.create_default_context(cafile=ca), time.monotonic() + ROUND_S
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    while True:
        try:
            with urllib.request.build_opener(*handlers).open(url, timeout=2.0):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise SessionFailed("Flower's SuperLink did not start") from None
            time.sleep(LOOK_S)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
