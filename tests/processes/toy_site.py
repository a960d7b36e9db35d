"""A site's process whose learner is a fixed function of site and round, so that the right sum is known.

Everything else is fedclient's own: keys, policy, store, agent, TLS, the two lines of an error.
Usage: python -m tests.processes.toy_site HOME SERVER CA ROSTER OUT [--fault F ...], see faults.py
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedclient import agent, app, connection  # noqa: F401 - loaded once, in the process that sites are forked from
from fedclient.cli import _serve, only_agent
from fedclient.connection import ConnectionFailed
from fedclient.policy import POLICY_FILE, load_policy
from fedclient.settings import LocalError
from keys.console import new_app, notice, run
from keys.errors import KeyFileError
from keys.pin import accept_roster
from keys.store import load_site
from secagg.vector import Vector
from tests.federation.direct import ToyLearner
from tests.processes.faults import Fault, InjuredSite, Injuries, injure_pushes

command = new_app("A site that trains nothing.")


@dataclass
class SavingLearner(ToyLearner):
    """Trains for a moment and writes the final adapter as raw float32."""

    out: Path = Path()
    train_s: float = 0.1

    def train(self, adapter: Vector, round_: int):  # type: ignore[no-untyped-def]
        time.sleep(self.train_s)
        return super().train(adapter, round_)

    def save(self, adapter: Vector) -> None:
        np.asarray(adapter, "<f4").tofile(self.out)


def set_clock(off_s: float) -> None:
    """Has this process read another time than it is: our own calls, and those with which Flower signs requests."""
    import datetime

    import flwr.app.message.message
    import flwr.supernode.node_auth_http_interceptor as signing

    right = time.time
    time.time = lambda: right() + off_s
    for module in (signing, flwr.app.message.message):
        module.now = lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=off_s)


@command.command()
def toy(
    home: Path,
    server: str,
    ca: Path,
    roster: Path,
    out: Path,
    fault: Annotated[list[str] | None, typer.Option()] = None,
    clock_off_s: Annotated[float, typer.Option()] = 0.0,
    train_s: Annotated[float, typer.Option()] = 0.1,
    retry_for_s: Annotated[float, typer.Option()] = 60.0,
) -> None:
    """Takes part until the session is over."""
    if clock_off_s:
        set_clock(clock_off_s)
    keys = load_site(home)
    injuries = Injuries([Fault.parse(each) for each in fault or ()], out.with_suffix(".sign"))
    with only_agent(home):
        now = lambda: int(time.time())  # noqa: E731
        listed = accept_roster(keys, roster, now())
        learner = SavingLearner(keys.name, out=out, train_s=train_s)
        tell = lambda text: notice(f"{keys.name}: {text}")  # noqa: E731
        rules = load_policy(keys.home / POLICY_FILE)
        site = InjuredSite(home, keys.keys, keys.state_key, listed, rules, learner, os.urandom, now, tell)
        site.injuries = injuries
        injure_pushes(injuries)
        _serve(site, keys, server, ca, retry_for_s)


def main(arguments: list[str] | None = None) -> None:
    """As `fedclient` ends: 0, or 1 and two lines."""
    stopped = ("stopped", "start fedclient again to go on where the session stands")
    run(
        command,
        "toy_site",
        arguments,
        failures=lambda: (KeyFileError, LocalError, ConnectionFailed),
        interrupted=stopped,
    )


if __name__ == "__main__":
    main()
