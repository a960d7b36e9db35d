"""The Flower ServerApp: runs the federation that the plan file describes, over whatever Grid it is given."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedserver.checkpoint import Checkpoint
from fedserver.federation import Federation
from fedserver.journal import Journal
from fedserver.link import FlowerLink
from fedserver.output import save_adapter
from fedserver.plan import Plan, ServerError
from keys.console import notice
from keys.public import KeyFileError, read_roster, require_roster
from keys.server import load_server

PLAN = "plan"  # run-config key: path of the plan file
EVENTS = "events.jsonl"
STATE = "state"
LOOK_S: Final = 0.2

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs one session and writes its result; a failure goes to the journal and ends the run as failed."""
    _end_with_parent()
    plan = _plan(str(context.run_config[PLAN]))
    journal = Journal(Path(plan.out) / EVENTS)
    try:
        _run(plan, grid, journal)
    except (ServerError, KeyFileError) as error:
        notice(f"fedserver: {error.problem}; {error.remedy}")
        _tell_failure(journal, error.problem, error.remedy)
        raise
    except Exception as error:
        _tell_failure(journal, f"{type(error).__name__}: {error}", "read the ServerApp's log")
        raise


def _tell_failure(journal: Journal, problem: str, remedy: str) -> None:
    """Writes it to the journal; if the disk does not take that, raises it: Flower's status of the run has it then."""
    try:
        journal.write("failed", problem=problem, remedy=remedy)
    except ServerError:
        raise RuntimeError(f"{problem}; {remedy}") from None


def _end_with_parent() -> None:
    """Ends this process at once when the one that started it is gone, even by SIGKILL.

    Else it would go on beside the server that `--resume` starts, and write to the same journal and checkpoint.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _plan(path: str) -> Plan:
    try:
        return Plan.load(Path(path))
    except ServerError as error:
        notice(f"fedserver: {error.problem}; {error.remedy}")
        raise


def _run(plan: Plan, grid: Grid, journal: Journal) -> None:
    now = int(time.time())
    roster = read_roster(Path(plan.roster))
    require_roster(roster, roster.root_key, now)
    out = Path(plan.out)
    federation = Federation(
        plan,
        roster,
        load_server(Path(plan.keys)).keys,
        FlowerLink(grid, roster),
        journal,
        Checkpoint(out / STATE),
        lambda: int(time.time()),
    )
    save_adapter(out / "adapter", federation.run(), plan.lora, plan.model)
    journal.write("done")
