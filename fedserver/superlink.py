"""How fedserver runs Flower's SuperLink: on loopback, in processes of its own, with nothing left behind.

Only public surface: console scripts, their options, and their environment variables; see lean.py for how the
SuperLink's is run.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fedserver.control import CommandFailed, Control
from keys.nodekey import openssh_node_key

HOST: Final = "127.0.0.1"
CONNECTION: Final = "fedserver"  # the name of our SuperLink in the private FLWR_HOME's config.toml
BIN: Final = Path(sys.executable).parent
LEAN: Final = Path(__file__).with_name("lean.py")  # runs flower-superlink
START_S: Final = 60.0
STOP_S: Final = 5.0
HEALTH_POLL_S: Final = 0.05
RUN_POLL_S: Final = 0.5
LOG_TAIL_LINES: Final = 12
COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")  # Flower logs in colour
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

# Runs `command` so that the kernel ends it when the thread that started it ends, even by SIGKILL.
BOUND_TO_PARENT: Final = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import ctypes, os, signal, sys\n"
    f"if sys.platform == 'linux': ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])",
)

RunConfig = Mapping[str, str | int | float | bool]


class SuperLinkFailed(Exception):
    """Flower's server did not start, or ended: what is wrong, and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class InternalTls:
    """The certificate of the loopback SuperLink: PEM files; the certificate must name 127.0.0.1."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands: pending, starting, running, or finished:completed, :failed, :stopped."""

    status: str
    details: str

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.status.startswith("finished")

    @property
    def is_completed(self) -> bool:
        """Whether the run has ended well."""
        return self.status == "finished:completed"


class SuperLink:
    """A running SuperLink and its SuperExec, from enter to exit.

    work: a folder of our own for FLWR_HOME, logs and the generated app; made if missing, mode 0700.
    Flower's state stays in memory, which is enough for one run.
    pythonpath: folders from which the ServerApp may also be imported.
    Enter it in the main thread: the kernel ends the children when the thread that started them ends. Turn
    SIGTERM into SystemExit, so that the exit runs.
    """

    def __init__(
        self,
        work: Path,
        tls: InternalTls,
        *,
        pythonpath: Sequence[Path] = (),
    ) -> None:
        self.work = work.resolve()
        self._tls = tls
        self._port = _free_port()
        self._env = _environment(self.work, pythonpath)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._control: Control | None = None
        self.handover, self._childs_end = socket.socketpair()  # by which the gateway's listener is handed over

    @property
    def address(self) -> str:
        """127.0.0.1:PORT of the loopback SuperLink."""
        return f"{HOST}:{self._port}"

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._start("superlink", self._superlink_command(), self._childs_end.fileno())
            self._childs_end.close()
            control = Control(self._bound(), self._env, self._log("control"))
            self._processes["control"], self._control = control.process, control
            self._await_health()
            self._start("superexec", self._superexec_command())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def register(self, node_keys: Mapping[str, bytes]) -> dict[str, int]:
        """The node id of each site, registered now.

        node_keys: site name -> P-384 public key, DER SubjectPublicKeyInfo.
        """
        return {site: self._register(site, key) for site, key in node_keys.items()}

    def _register(self, site: str, key: bytes) -> int:
        file = self.work / "node.pub"
        file.write_text(openssh_node_key(key), encoding="ascii")
        answer = self._flwr("supernode", "register", str(file), CONNECTION, "--name", site)
        return int(answer["node-id"])

    def start_run(self, *, server_app: str, client_app: str, config: RunConfig) -> int:
        """The id of a new run of two installed apps, each "module:attribute"; `config` becomes run_config."""
        folder = self.work / "app"
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").write_text(_app_toml(server_app, client_app, config), encoding="utf-8")
        return int(self._flwr("run", str(folder), CONNECTION)["run-id"])

    def status(self, run_id: int) -> RunStatus:
        """Where the run stands. Raises SuperLinkFailed if a process has ended."""
        self.check()
        [run] = self._flwr("list", CONNECTION, "--run-id", str(run_id))["runs"]
        return RunStatus(run["status"], run["status-details"])

    def wait(self, run_id: int, is_stopped: Callable[[], bool] = lambda: False) -> RunStatus:
        """The run's last status, once it has finished or `is_stopped` says so."""
        while not (status := self.status(run_id)).is_finished and not is_stopped():
            time.sleep(RUN_POLL_S)
        return status

    def log_of_run(self, run_id: int) -> str:
        """What the ServerApp has logged; its standard output goes nowhere."""
        if self._control is None:
            return ""
        with suppress(CommandFailed):
            return self._control.text("log", str(run_id), CONNECTION, "--show")
        return ""

    def stop_run(self, run_id: int) -> None:
        """Asks Flower to stop the run."""
        self._flwr("stop", str(run_id), CONNECTION)

    def check(self) -> None:
        """Raises SuperLinkFailed, with the end of its log, if a process of ours has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise self._failure(name, f"flower's {name} ended with exit code {process.returncode}")

    def stop(self) -> None:
        """Ends every process; safe to call twice."""
        for process in self._processes.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)  # the group: what a SuperExec started goes with it
            process.wait()
        self._processes.clear()
        self.handover.close()
        self._childs_end.close()

    def _prepare(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.work.chmod(0o700)
        self._secret.unlink(missing_ok=True)
        with os.fdopen(os.open(self._secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        connection = {"address": self.address, "root-certificates": str(self._tls.ca.resolve())}
        lines = [f"{key} = {_toml(value)}" for key, value in connection.items()]
        text = "\n".join(["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]", *lines, ""])
        (self.work / "config.toml").write_text(text, encoding="utf-8")

    @property
    def _secret(self) -> Path:
        return self.work / "superexec.secret"

    def _log(self, name: str) -> Path:
        return self.work / f"{name}.log"

    def _bound(self) -> tuple[str, ...]:
        return (*BOUND_TO_PARENT, str(os.getpid()))

    def _superlink_command(self) -> list[str]:
        tls = self._tls
        command = [sys.executable, "-P", str(LEAN), str(self._childs_end.fileno())]
        command += ["--host", HOST, "--port", str(self._port)]
        command += ["--ssl-certfile", str(tls.cert), "--ssl-keyfile", str(tls.key)]
        command += ["--ssl-ca-certfile", str(tls.ca), "--enable-supernode-auth", "--isolation", "process"]
        command += ["--superexec-auth-secret-file", str(self._secret)]
        return [*command, "--disable-runtime-dependency-installation"]

    def _superexec_command(self) -> list[str]:
        command = [str(BIN / "flower-superexec"), "--runtime-api-address", self.address]
        command += ["--root-certificates", str(self._tls.ca), "--parent-pid", str(os.getpid())]
        return [*command, "--superexec-auth-secret-file", str(self._secret)]

    def _start(self, name: str, command: Sequence[str], *inherited: int) -> None:
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self._bound(), *command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )

    def _await_health(self) -> None:
        context = ssl.create_default_context(cafile=self._tls.ca)
        deadline = time.monotonic() + START_S
        while not _is_healthy(f"https://{self.address}/health", context):
            self.check()
            if time.monotonic() > deadline:
                raise self._failure("superlink", f"flower's superlink did not start within {START_S:.0f} s")
            time.sleep(HEALTH_POLL_S)

    def _flwr(self, *command: str) -> dict[str, Any]:
        if self._control is None:
            raise SuperLinkFailed("the superlink is not running", "enter it first: with SuperLink(...) as link")
        try:
            return self._control(*command)
        except CommandFailed as error:
            self.check()
            raise self._failure("superlink", f"flwr {command[0]}: {error}") from error

    def _failure(self, name: str, problem: str) -> SuperLinkFailed:
        log = self._log(name)
        with suppress(OSError):
            plain = COLOURS.sub("", log.read_text(errors="replace")).splitlines()
            lines = [line for line in plain if not line.startswith("INFO")][-LOG_TAIL_LINES:]
            problem = "\n".join([problem, *(f"  {line}" for line in lines)])
        return SuperLinkFailed(problem, f"read {log}, then go on with fedserver --resume")


def _environment(work: Path, pythonpath: Sequence[Path]) -> dict[str, str]:
    """The children's environment: no telemetry, no update check, nothing installed, our own FLWR_HOME."""
    path = [str(folder.resolve()) for folder in pythonpath] + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "FLWR_HOME": str(work),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "UV_OFFLINE": "1",
    }


def _app_toml(server_app: str, client_app: str, config: RunConfig) -> str:
    """The pyproject.toml of an app that holds no code, only names of what is installed."""
    lines = ["[build-system]", 'requires = ["hatchling"]', 'build-backend = "hatchling.build"', ""]
    lines += ["[project]", 'name = "secagg-lora-app"', 'version = "1.0.0"', 'license = "Apache-2.0"']
    lines += ['description = "names of installed apps, no code"', 'dependencies = ["flwr>=1.40,<1.43"]', ""]
    lines += ["[tool.flwr.app]", 'publisher = "secagg-lora"', "", "[tool.flwr.app.components]"]
    lines += [
        f"serverapp = {_toml(server_app)}",
        f"clientapp = {_toml(client_app)}",
        "",
        "[tool.flwr.app.config]",
    ]
    return "\n".join([*lines, *(f"{key} = {_toml(value)}" for key, value in config.items()), ""])


def _toml(value: str | float | bool) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML's basic strings, numbers and booleans are JSON's


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_healthy(url: str, context: ssl.SSLContext) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
