"""The fedserver process: SuperLink on loopback, gateway in front, one run, and what its journal says."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from fedserver.app import EVENTS, PLAN, STATE
from fedserver.gateway import Gateway
from fedserver.journal import read_events
from fedserver.plan import Plan, ServerError
from fedserver.superlink import InternalTls, SuperLink
from keys.public import node_keys, read_roster, require_roster
from keys.server import TLS_FOLDER, TlsPaths, load_tls
from keys.tls import issue_tls

__all__ = ["PLAN_FILE", "STATE", "only_server", "own_tls", "supervise", "terminated_as_exit"]

PLAN_FILE: Final = "plan.json"
LOCK: Final = "fedserver.lock"
WORK: Final = "run"  # Flower's own files of this start: logs, loopback certificate
LOOK_S: Final = 0.1
STATUS_EVERY_S: Final = 3.0
SERVER_APP: Final = "fedserver.app:app"
CLIENT_APP: Final = "fedclient.app:app"

OnEvent = Callable[[dict[str, Any]], None]


@contextmanager
def only_server(out: Path) -> Iterator[None]:
    """Holds the folder's lock, until the end of the process at the latest. Raises ServerError if another has it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, mode=0o600)
        lock.acquire(timeout=0)
    except Timeout:
        raise ServerError(f"another fedserver is running with --out {out}", "stop that one first") from None
    except OSError as error:
        raise ServerError(f"cannot write {out}: {error.strerror}", "choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def supervise(
    plan: Plan,
    host: str,
    port: int,
    tls: TlsPaths,
    on_event: OnEvent,
    on_listening: Callable[[int], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs one session from start to end. Raises ServerError, or what a part raised; every child is ended.

    on_listening: called with the public port once sites can connect. on_event: every line of the journal.
    check: called again and again; what it raises ends the session.
    """
    out = Path(plan.out)
    roster = read_roster(Path(plan.roster))
    require_roster(roster, roster.root_key, int(time.time()))
    work = _fresh(out / WORK)
    loopback = issue_tls(work / "tls", ("127.0.0.1",), int(time.time()))
    internal = InternalTls(cert=loopback.certificate, key=loopback.key, ca=loopback.ca)
    _, start = read_events(out / EVENTS)
    with terminated_as_exit(), ExitStack() as stack:
        link = stack.enter_context(SuperLink(work, internal))
        link.register(node_keys(roster))  # before anybody can connect: a site that comes first would be refused
        gateway = stack.enter_context(Gateway(link.handover, host=host, port=port, cert=tls.certificate, key=tls.key))
        on_listening(gateway.port)
        run = link.start_run(server_app=SERVER_APP, client_app=CLIENT_APP, config={PLAN: str(out / PLAN_FILE)})
        _follow(link, run, out / EVENTS, start, on_event, check)


def _follow(link: SuperLink, run: int, events: Path, start: int, on_event: OnEvent, check: Callable[[], None]) -> None:
    """Passes the journal on until the session is done. Raises ServerError if it failed or its process ended."""
    looked = time.monotonic()
    while True:
        check()
        lines, start = read_events(events, start)
        for event in lines:
            on_event(event)
            if event["event"] == "done":
                return
            if event["event"] == "failed":
                raise ServerError(event["problem"], event["remedy"])
        if not lines and time.monotonic() - looked > STATUS_EVERY_S:
            looked = time.monotonic()
            status = link.status(run)
            if status.is_finished and not read_events(events, start)[0]:
                raise ServerError(
                    f"the server's process ended: {status.status} {status.details}",
                    f"read {events.parent / WORK}/*.log, then go on with fedserver --resume",
                )
        time.sleep(LOOK_S)


def _fresh(work: Path) -> Path:
    """The folder for this start; nothing in it from an earlier one is worth keeping."""
    import shutil

    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise ServerError(f"cannot make {work}: {error.strerror}", "choose another --out") from None
    return work


@contextmanager
def terminated_as_exit() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that every child is ended on the way out."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def own_tls(keys: Path) -> TlsPaths:
    """The server's certificate under its key folder, present and valid. Raises KeyFileError."""
    return load_tls(keys / TLS_FOLDER, int(time.time()))
