"""The `fedclient` command: one site's agent, from the start of a session to its adapter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import click
import typer
from click.core import ParameterSource
from filelock import FileLock, Timeout

from fedclient.settings import LocalError
from keys.console import new_app, notice, run
from keys.errors import KeyFileError
from keys.params import CA_FILE
from keys.passphrase import FromFile, passphrase_for
from secagg.errors import SecAggError

if TYPE_CHECKING:
    from fedclient.audit import OpeningOf
    from fedclient.connection import Event
    from fedclient.site import Site
    from keys.store import SiteHome
    from secagg.identity import Roster

AGENT_LOCK: Final = "agent.lock"
PROGRESS_EVERY_S: Final = 2.0
FAREWELL_S: Final = 3.0  # Flower drops the last reply of a node that leaves before the server has asked for it


class Precision(StrEnum):
    """Number formats in which a base model can be loaded."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


app = new_app("Take part in a federation as one site: train on local data, share only masked updates.")


class Fedclient(typer.core.TyperGroup):
    """A command with options of its own, of which the commands beside it need none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Asks for the required options unless another command comes first."""
        if args and args[0] in self.commands:
            for parameter in self.params:
                parameter.required = False
        return super().parse_args(ctx, args)


EPILOG = (
    "Example: fedclient --site hospital-a --data ./notes.jsonl --server fed.example.org:8443 "
    "--ca ca.pem --roster roster.json"
)


@app.callback(cls=Fedclient, invoke_without_command=True, epilog=EPILOG)
def fedclient(
    context: typer.Context,
    site: Annotated[str, typer.Option(help="This site's name, as in `fedkeys init NAME`.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where fedserver listens.")],
    roster: Annotated[Path, typer.Option(help="The roster that the consortium's root signed.")],
    data: Annotated[
        Path, typer.Option(help="A .jsonl file, or a folder of them: {text} or {prompt, completion} a line.")
    ],
    home: Annotated[Path | None, typer.Option(help="The site's key folder, if not the default.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The server's CA certificate (default: HOME/ca.pem).")] = None,
    eval_data: Annotated[Path | None, typer.Option(help="Held-out texts, in the form of --data.")] = None,
    held_out: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of --data to hold out without --eval-data.")
    ] = 0.1,
    model: Annotated[str, typer.Option(help="A local copy of the model that the server names.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where the adapter goes (default: HOME/adapter).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads for training; 0 chooses.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Of the frozen base model; the adapter is float32 always.")
    ] = Precision.FLOAT32,
    policy: Annotated[Path | None, typer.Option(help="What this site accepts (default: HOME/policy.toml).")] = None,
    retry_for: Annotated[float, typer.Option(help="Seconds to go on trying while the server is away.")] = 600.0,
    passphrase_file: FromFile = None,
) -> None:
    """Connect, train when asked, and write the federated adapter when the session ends."""
    if context.invoked_subcommand is not None:
        _require_none_given(context)
        return
    _require_address(server)
    from fedclient.learner import LearnerOptions, LoraLearner, load_records
    from fedclient.policy import POLICY_FILE, load_policy
    from fedclient.site import Site
    from keys.store import KEY_FILE, default_home, load_site

    home = home or default_home(site)
    key_file = home / KEY_FILE
    keys = load_site(home, passphrase_for(key_file, passphrase_file) if key_file.exists() else None)
    if keys.name != site:
        raise LocalError(f"{keys.home} holds the keys of {keys.name}", f"use --site {keys.name} or another --home")
    with only_agent(keys.home):
        listed = _accepted(keys, roster)
        rules = load_policy(policy or keys.home / POLICY_FILE)
        records = load_records(data, eval_data, held_out)
        out = out or keys.home / "adapter"
        options = LearnerOptions(site, out, model, device, threads, precision.value)
        learner = LoraLearner(options, *records, progress=_training_line(site))
        member = Site(
            keys.home, keys.keys, keys.state_key, listed, rules, learner, os.urandom, lambda: int(time.time()),
            lambda text: notice(f"{site}: {text}"),
        )  # fmt: skip
        _serve(member, keys, server, ca or keys.home / CA_FILE, retry_for)
    typer.echo(str(out))


@app.command("verify-round")
def verify_round(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The site's key folder.")],
    named: Annotated[str, typer.Argument(metavar="N", help="The round, or all.")],
    session: Annotated[str, typer.Option(metavar="ID", help="The session, or how its name begins.")] = "",
    vectors: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A copy of the server's OUT/state/rounds."),
    ] = None,
    roster: Annotated[Path | None, typer.Option(help="The roster that the session must have been held with.")] = None,
    passphrase_file: FromFile = None,
) -> None:
    """Check a finished round again: everything this site keeps of it, and the sum if the masked vectors are given.

    Where only sites can read the sum, this takes the site's key file, and its passphrase if it has one.

    \b
    Example, at a site:
      fedclient verify-round ~/.local/share/secagg-lora/hospital-a all
    """
    from fedclient.audit import read_fixed, unwritable, vectors_in
    from fedclient.transcript import Transcript
    from fedclient.verifying import (
        require_roster_in,
        require_session,
        rounds_named,
        session_in,
        show_fixed,
        verify_and_show,
    )
    from keys.pin import pinned_root
    from keys.public import require_roster

    transcript = Transcript(session_in(home, session), unwritable)
    fixed = read_fixed(transcript)
    require_session(transcript, fixed)
    require_roster(fixed.roster, pinned_root(home), now=0)
    if roster is not None:
        require_roster_in(roster, fixed)
    rounds = rounds_named(named, transcript)
    show_fixed(fixed, "the one that this site trusts")
    opening_of = _openings(home, transcript.folder, passphrase_file)
    vectors_of = transcript.vectors if vectors is None else vectors_in(vectors)
    shown = verify_and_show(transcript, fixed, rounds, vectors_of, opening_of)
    if not shown.is_read:
        notice(f"what opens these sums, or the key to it, is not in {home}: adapters are the survivors' word")
    if not shown.is_whole:
        notice("to have the sum made again word by word: ask the server's administrator for a copy of OUT/state/rounds")
        notice("and give it with --vectors; it shows nothing that this site does not know, but who sent wrong bytes")


def _openings(home: Path, folder: Path, passphrase_file: Path | None) -> OpeningOf:
    """What this site keeps to open the session's sums with. Raises KeyFileError if it cannot be unsealed."""
    from fedclient.audit import AuditError, no_opening
    from fedclient.store import OPENINGS, KeptSession, StoreError
    from keys.store import KEY_FILE, load_site

    key_file = home / KEY_FILE
    if not key_file.exists() or not any(folder.glob(OPENINGS)):
        return no_opening
    kept = KeptSession(folder, load_site(home, passphrase_for(key_file, passphrase_file)).state_key)

    def opening(round_: int, attempt: int) -> bytes:
        try:
            return kept.opening(round_, attempt) or b""
        except StoreError as error:
            remedy = "restore it from a copy, or move it away: the audit then takes the survivors' word for the adapter"
            raise AuditError(f"round {round_}: {error.problem}", remedy) from None

    return opening


@app.command("report")
def report(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The site's key folder.")],
    session: Annotated[str, typer.Option(metavar="ID", help="The session, or how its name begins.")] = "",
) -> None:
    """Show what each phase of the rounds cost this site: wall time, CPU time, traffic.

    \b
    Example, at a site:
      fedclient report ~/.local/share/secagg-lora/hospital-a
    """
    from fedclient.spending import show
    from fedclient.verifying import session_in

    show(home, session_in(home, session).name)


@app.command("export")
def export_round(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The site's key folder.")],
    round_: Annotated[int, typer.Argument(metavar="N", min=1, help="The last round that this site has finished.")],
    out: Annotated[Path, typer.Option(help="Where the adapter goes.")],
    session: Annotated[str, typer.Option(metavar="ID", help="The session, or how its name begins.")] = "",
    model: Annotated[str, typer.Option(help="The base model to name in it, if not as the server named it.")] = "",
) -> None:
    """Write the adapter where this site stands now, in the form that PEFT loads; needs no server.

    A site keeps the adapter of the last round that it has finished; earlier ones are not kept.

    \b
    Example, at a site that has finished round 3:
      fedclient export ~/.local/share/secagg-lora/hospital-a 3 --out ./adapter
    """
    from fedclient.audit import read_fixed, unwritable
    from fedclient.export import export
    from fedclient.store import KeptSession
    from fedclient.transcript import Transcript
    from fedclient.verifying import require_session, session_in

    transcript = Transcript(session_in(home, session), unwritable)
    fixed = read_fixed(transcript)
    require_session(transcript, fixed)
    export(KeptSession(transcript.folder), fixed, round_, out, model)
    typer.echo(str(out))


def _require_none_given(context: typer.Context) -> None:
    """Raises BadParameter for an option that stands before another command and would be ignored."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"cannot be given with {context.invoked_subcommand}", param_hint=option)


def _require_address(server: str) -> None:
    host, _, port = server.rpartition(":")
    if not host or "/" in server or not port.isdigit():
        raise typer.BadParameter("write it like fed.example.org:8443", param_hint="--server")


@contextmanager
def only_agent(home: Path) -> Iterator[None]:
    """Holds the home's lock. Raises LocalError if another agent works with these keys."""
    lock = FileLock(home / AGENT_LOCK, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LocalError(f"another fedclient is running with the keys in {home}", "stop that one first") from None
    try:
        yield
    finally:
        lock.release()


def _accepted(keys: SiteHome, path: Path) -> Roster:
    from keys.pin import accept_roster
    from secagg.identity import fingerprint

    roster = accept_roster(keys, path, int(time.time()))
    notice(f"{keys.name}: roster of {roster.consortium}, epoch {roster.epoch}, {len(roster.sites)} sites")
    notice(f"{keys.name}: root {fingerprint(roster.root_key)}")
    return roster


def _serve(site: Site, keys: SiteHome, server: str, ca: Path, retry_for_s: float) -> None:
    """Answers the server until the session is over or an operator stops it. Raises what ended it."""
    from fedclient.agent import serve
    from fedclient.app import make_app
    from fedclient.connection import Connection

    stop, failures = threading.Event(), list[Exception]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def tell(kind: str, error: Exception) -> None:
        notice(f"{keys.name}: refused {kind}: {getattr(error, 'problem', error)}")
        if isinstance(error, LocalError):
            failures.append(error)
        elif not isinstance(error, SecAggError):
            traceback.print_exception(error, file=sys.stderr)
            failures.append(LocalError(f"{type(error).__name__} while answering {kind}", "see the lines above"))

    def on_event(event: Event) -> None:
        if event.notice:
            notice(f"{keys.name}: {event.notice}")
        if event.kind in ("answered", "refused") and (site.finished or failures):
            threading.Timer(FAREWELL_S, stop.set).start()

    connection = Connection(server, ca, keys.node_key, node_file=keys.home / "node.id")
    serve(make_app(lambda _: site, tell), connection, stop=stop, retry_for_s=retry_for_s, on_event=on_event)
    if failures:
        raise failures[0]
    if not site.finished:
        raise LocalError("stopped before the session was over", "start fedclient again to go on")


def _training_line(site: str) -> Callable[[int, int, float], None]:
    """A progress callback that prints a line now and then, on stderr."""
    last = time.monotonic()

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal last
        if step == steps or time.monotonic() - last > PROGRESS_EVERY_S:
            last = time.monotonic()
            notice(f"{site}: step {step} of {steps}, loss {loss:.3f}")

    return progress


def _failures() -> tuple[type[Exception], ...]:
    from fedclient.connection import ConnectionFailed

    return KeyFileError, LocalError, ConnectionFailed


def main() -> None:
    """The console script."""
    stopped = ("stopped", "start fedclient again to go on where the session stands")
    run(app, "fedclient", failures=_failures, interrupted=stopped)


if __name__ == "__main__":
    main()
