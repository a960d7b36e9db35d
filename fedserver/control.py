"""Many `flwr` commands for the price of one import: a child that runs them one after another.

Each start of `flwr` takes a second of imports. The child loads the console script's entry point once and
answers commands from its standard input, so registering 50 sites costs little more than registering one.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


class CommandFailed(Exception):
    """A `flwr` command failed; the text is what it printed."""


class Control:
    """The `flwr` command as a function that returns what `--format json` prints."""

    def __init__(self, prefix: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._lock = threading.Lock()
        with log.open("ab") as stderr:
            self._child = subprocess.Popen(
                [*prefix, sys.executable, "-P", __file__],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child, for whoever ends it."""
        return self._child

    def __call__(self, *command: str) -> dict[str, Any]:
        """What the command prints as JSON. Raises CommandFailed."""
        code, out = self._run([*command, "--format", "json"])
        try:
            answer = json.loads(out)
        except ValueError:
            answer = None
        if code != 0 or not isinstance(answer, dict) or not answer.get("success"):
            message = answer.get("error-message") if isinstance(answer, dict) else None
            raise CommandFailed(str(message or out.strip() or f"flwr {command[0]} failed"))
        return answer

    def text(self, *command: str) -> str:
        """What the command prints. Raises CommandFailed."""
        code, out = self._run(list(command))
        if code != 0:
            raise CommandFailed(out.strip())
        return out

    def _run(self, command: list[str]) -> tuple[int, str]:
        stdin, stdout = self._child.stdin, self._child.stdout
        if stdin is None or stdout is None:
            raise CommandFailed("the flwr child has no pipes")
        with self._lock:
            try:
                stdin.write(json.dumps(command).encode() + b"\n")
                stdin.flush()
                line = stdout.readline()
            except OSError as error:
                raise CommandFailed("the flwr child has ended") from error
        if not line:
            raise CommandFailed("the flwr child has ended")
        code, out = json.loads(line)
        return int(code), str(out)


def _run_command(flwr: Any, command: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    for stream in ("stdout", "stderr", "__stdout__", "__stderr__"):  # flwr prints JSON past a redirection
        setattr(sys, stream, out)
    try:
        flwr(args=command, standalone_mode=False, prog_name="flwr")
    except SystemExit as ended:
        return (0 if ended.code in (None, 0) else 1), out.getvalue()
    except Exception as error:  # noqa: BLE001 - a command line reports any failure the same way
        return 1, out.getvalue() or str(error)
    return 0, out.getvalue()


def main() -> None:
    """Answers one command a line, as [exit code, output], until standard input ends."""
    [script] = entry_points(group="console_scripts", name="flwr")
    flwr = script.load()
    answers = sys.stdout
    for line in sys.stdin:
        answers.write(json.dumps(_run_command(flwr, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
