"""Real servers and sites on loopback: they answer, refuse, die, come back, and leave nothing behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from flwr.supernode import node_auth_http_interceptor

from fedclient.agent import serve
from fedclient.connection import ConnectionFailed, Event
from fedserver.gateway import Gateway
from fedserver.superlink import LEAN, InternalTls, SuperLink, SuperLinkFailed
from tests.flower import pki
from tests.flower.federation import ROOT, SITES, Federation, wait_until
from tests.flower.toy_client import app

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def link(federation: Federation) -> Iterator[SuperLink]:
    with federation.server() as running:
        yield running


def test_packets_go_there_and_back_and_a_refusal_carries_no_text(federation: Federation, link: SuperLink) -> None:
    types = "query.echo query.refuse query.crash query.accuse query.unknown query.echo"
    with federation.agents(SITES) as events:
        status, report = federation.run(link, types, words=1000)
    assert status.is_completed, link.log_of_run(1)
    codes = ["right", "faulty-site", "error", "faulty-server", "error", "right"]
    assert [set(step["answers"].values()) for step in report] == [{code} for code in codes]
    assert all(step["answers"].keys() == set(SITES) for step in report)
    seen = [event for event in events if event.kind in {"answered", "refused"}]
    assert len(seen) == len(codes) * len(SITES)
    for log in link.work.glob("*.log"):
        assert "SECRET-IN-AN-EXCEPTION" not in log.read_text()


def test_a_killed_site_drops_out_and_takes_its_place_back_at_once(federation: Federation, link: SuperLink) -> None:
    victim = federation.site_process("hospital-a")
    with federation.agents(SITES[1:]):
        run_id = federation.start(link, "query.die query.echo query.echo query.echo", timeout=3.0)
        assert victim.wait(20) == 9
        again = federation.site_process("hospital-a")
        try:
            assert link.wait(run_id).is_completed
        finally:
            again.send_signal(signal.SIGTERM)
    assert again.wait(10) == 0
    steps = [step["answers"] for step in federation.report()]
    assert steps[0] == {"hospital-b": "right", "hospital-c": "right"}
    assert steps[-1] == dict.fromkeys(SITES, "right")


def test_a_serverapp_that_fails_is_told_apart_from_one_that_ends(federation: Federation, link: SuperLink) -> None:
    run_id = federation.start(link, "query.echo", sites=(), crash=True)
    status = link.wait(run_id)
    assert status.status == "finished:failed"
    assert "told to crash" in status.details
    assert "told to crash" in link.log_of_run(run_id)


TRICKS = [
    "/",
    "/docs",
    "/openapi.json",
    "/v1/control/list-nodes",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/no-such-call",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/../control/list-nodes",
    "/v1/fleet/..",
    "/v1/fleet/%2e%2e/control/list-nodes",
    "/v1/fleet%2f..%2fcontrol/list-nodes",
    "/v1/fleet/..%2fcontrol/list-nodes",
    "/v1/fleet//pull-messages",
    "//v1/fleet/pull-messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages?x=/v1/control/list-nodes",
    "/v1/fleet/pull-messages;x",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/PULL-MESSAGES",
    "/V1/fleet/pull-messages",
    "/v1\\fleet\\pull-messages",
    "/health/",
    "/health/../v1/control/list-nodes",
    "/health?x",
    "https://127.0.0.1/v1/control/list-nodes",
]


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_public_port_answers_404_to_every_other_path(
    federation: Federation, link: SuperLink, path: str, method: str
) -> None:
    assert _status(federation, f"{method} {path} HTTP/1.1") in {400, 404}


def test_the_public_port_lets_fleet_and_health_through(federation: Federation, link: SuperLink) -> None:
    assert _status(federation, "GET /health HTTP/1.1") == 200
    assert _status(federation, "POST /v1/fleet/pull-messages HTTP/1.1") == 415  # the SuperLink's own answer


@pytest.mark.parametrize("line", ["POST /health", "GET /v1/fleet/pull-messages", "PUT /v1/fleet/push-object"])
def test_the_public_port_refuses_other_methods(federation: Federation, link: SuperLink, line: str) -> None:
    assert _status(federation, f"{line} HTTP/1.1") == 405


def test_no_stranger_writes_into_the_superlinks_log(federation: Federation, link: SuperLink) -> None:
    log = link.work / "superlink.log"
    before = log.read_text()
    for line in ("GET / HTTP/9.9", "nonsense", "GET /health HTTP/1.1\r\nUpgrade: websocket\r\nX:"):
        with suppress(IndexError):
            _status(federation, line)
    assert _status(federation, "POST /v1/fleet/push-bundle HTTP/1.1") == 400
    assert _status(federation, "POST /v1/fleet/pull-bundle HTTP/1.1") == 400
    assert log.read_text() == before


def test_a_public_answer_says_nothing_of_the_server_and_its_clock(federation: Federation, link: SuperLink) -> None:
    trust = ssl.create_default_context(cafile=federation.pki.ca)
    with httpx.Client(base_url=f"https://{federation.address}", verify=trust, trust_env=False) as web:
        for answer in (web.get("/health"), web.post("/v1/fleet/pull-messages"), web.get("/")):
            assert not {"server", "date"} & set(answer.headers)


def test_nobody_but_the_superlink_holds_the_public_port_and_the_way_to_hand_one_over(
    federation: Federation, link: SuperLink
) -> None:
    superlink = psutil.Process(link._processes["superlink"].pid)
    command = superlink.cmdline()
    descriptor = command[command.index(str(LEAN)) + 1]
    handed = os.readlink(f"/proc/{superlink.pid}/fd/{descriptor}")  # noqa: PTH115
    flags = Path(f"/proc/{superlink.pid}/fdinfo/{descriptor}").read_text().partition("flags:")[2].split()[0]
    assert int(flags, 8) & os.O_CLOEXEC
    with federation.agents(["hospital-a"]):
        run_id = federation.start(link, "query.slow", sites=["hospital-a"])
        wait_until(lambda: any(thread.name == "fleet-app" for thread in threading.enumerate()))
        children = psutil.Process().children(recursive=True)
        assert len(children) >= 4  # the ServerApp among them
        listening = {child.pid for child in children if federation.port in _listening(child)}
        holding = {child.pid for child in children if handed in _descriptors(child)}
        link.stop_run(run_id)
    assert (listening, holding) == ({superlink.pid}, {superlink.pid})
    assert federation.port not in _listening(psutil.Process())


def test_a_wrong_ca_a_strange_key_and_a_closed_port_are_told_apart(
    federation: Federation, link: SuperLink, tmp_path: Path
) -> None:
    right = federation.connection("hospital-a")
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    cases = {
        "not from the CA": replace(right, ca=pki.issue(tmp_path / "other").ca),
        "node key": replace(right, node_key=pki.node_key(), node_file=None),
        "cannot reach": replace(right, server=closed),
        "no readable CA": replace(right, ca=tmp_path / "missing.pem"),
    }
    for words, connection in cases.items():
        if connection is not None:
            with pytest.raises(ConnectionFailed) as failure:
                serve(app, connection, stop=threading.Event(), retry_for_s=0.5)
            assert words in failure.value.problem
            assert failure.value.remedy


@pytest.mark.parametrize("skew", [timedelta(days=-1), timedelta(days=1), timedelta(seconds=20)], ids=str)
def test_clocks_apart_end_in_a_clear_error_after_a_few_tries(
    federation: Federation, link: SuperLink, skew: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: datetime.now(UTC) + skew)
    started = time.monotonic()
    with pytest.raises(ConnectionFailed) as failure:
        serve(app, federation.connection("hospital-a"), stop=threading.Event())
    assert time.monotonic() - started < 15
    problem, remedy = str(failure.value).splitlines()
    assert "clock differs" in problem
    assert "NTP" in remedy


def test_a_site_whose_key_is_in_use_waits_and_says_so(federation: Federation, link: SuperLink) -> None:
    stop, events = threading.Event(), list[Event]()
    with federation.agents(["hospital-a"]):
        twin = replace(federation.connection("hospital-a"), node_file=None)
        arguments = {"stop": stop, "on_event": events.append}
        waiting = threading.Thread(target=serve, args=(app, twin), kwargs=arguments)
        waiting.start()
        wait_until(lambda: any(event.kind == "waiting" for event in events))
    wait_until(lambda: any(event.kind == "connected" for event in events))
    stop.set()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_stop_during_the_apps_work_does_not_wait_for_it(federation: Federation, link: SuperLink) -> None:
    with federation.agents(["hospital-a"]):
        run_id = federation.start(link, "query.slow", sites=["hospital-a"])
        wait_until(lambda: any(thread.name == "fleet-app" for thread in threading.enumerate()))
        link.stop_run(run_id)
    assert link.wait(run_id).status == "finished:stopped"


def test_sites_come_back_to_a_server_that_was_started_anew(tmp_path: Path) -> None:
    federation, before = Federation(tmp_path), _descendants()
    with federation.server():
        agents = federation.agents(SITES[:2])
        events = agents.__enter__()
    try:
        with federation.server() as link:
            wait_until(lambda: sum(event.kind == "connected" for event in events) == 4)
            status, report = federation.run(link, "query.echo", sites=SITES[:2])
    finally:
        agents.__exit__(None, None, None)
    assert status.is_completed
    assert report[0]["answers"] == dict.fromkeys(SITES[:2], "right")
    assert _descendants() <= before


def test_a_superlink_that_cannot_start_says_why(tmp_path: Path) -> None:
    issued = pki.issue(tmp_path / "pki")
    issued.key.write_text("not a key")
    with (
        pytest.raises(SuperLinkFailed) as failure,
        SuperLink(tmp_path / "link", InternalTls(issued.cert, issued.key, issued.ca)),
    ):
        pass
    assert "superlink ended" in failure.value.problem
    assert "superlink.log" in failure.value.remedy


def test_a_killed_server_leaves_no_process_and_no_port_behind(tmp_path: Path) -> None:
    issued = pki.issue(tmp_path)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from fedserver.gateway import *; from fedserver.superlink import *\n"
        "cert, key, ca, work = map(Path, sys.argv[1:])\n"
        "with SuperLink(work, InternalTls(cert, key, ca)) as link:\n"
        "    with Gateway(link.handover, host='127.0.0.1', port=0, cert=cert, key=key) as gateway:\n"
        "        print(gateway.port, flush=True); time.sleep(60)"
    )
    files = [str(path) for path in (issued.cert, issued.key, issued.ca, tmp_path / "link")]
    server = subprocess.Popen([sys.executable, "-c", code, *files], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    socket.create_connection(("127.0.0.1", port)).close()
    children = psutil.Process(server.pid).children(recursive=True)
    assert len(children) >= 3
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_more_connections_than_a_shell_allows_leave_the_superlink_reachable(tmp_path: Path) -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 128
    federation, strangers = Federation(tmp_path), list[socket.socket]()
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    with ExitStack() as stack:
        try:
            link = stack.enter_context(federation.server())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
        for _ in range(2 * few):
            strangers.append(stack.enter_context(socket.create_connection(("127.0.0.1", federation.port))))
        superlink = psutil.Process(link._processes["superlink"].pid)
        wait_until(lambda: superlink.num_fds() > len(strangers))
        with federation.agents(SITES[:1]):
            status, report = federation.run(link, "query.echo", sites=SITES[:1])
    assert status.is_completed
    assert report[0]["answers"] == {SITES[0]: "right"}


def test_a_superlink_ends_when_its_fedserver_has_gone_although_no_signal_came(tmp_path: Path) -> None:
    issued = pki.issue(tmp_path / "pki")
    with SuperLink(tmp_path / "link", InternalTls(issued.cert, issued.key, issued.ca)) as link:
        gateway = Gateway(link.handover, host="127.0.0.1", port=0, cert=issued.cert, key=issued.key)
        with gateway:
            assert gateway._channel is not None
            gateway._channel.close()  # both as the kernel does at the end of a process
            link.handover.close()
            assert link._processes["superlink"].wait(20) == 0
        with pytest.raises(SuperLinkFailed, match="superlink ended"):
            link.check()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port))


def test_a_superlink_that_is_told_to_stop_takes_the_public_port_with_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with federation.server() as link, federation.agents(SITES[:1]):
        link._processes["superlink"].terminate()
        assert link._processes["superlink"].wait(20) == -signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", federation.port))


def _descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _listening(process: psutil.Process) -> set[int]:
    found = process.net_connections(kind="tcp")
    return {connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN}


def _descriptors(process: psutil.Process) -> set[str]:
    """What its descriptors stand for, as the kernel names it."""
    found = set[str]()
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(entry))  # noqa: PTH115
    return found


def _status(federation: Federation, request_line: str) -> int:
    """The HTTP status that the public port gives to this request line, sent as it stands."""
    context = ssl.create_default_context(cafile=federation.pki.ca)
    with (
        socket.create_connection(("127.0.0.1", federation.port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as channel,
    ):
        channel.sendall(f"{request_line}\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return int(channel.recv(64).split()[1])
