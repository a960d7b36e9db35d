"""Real servers and sites over TLS: a Ctrl-C, a port in use, and a second process where one may run."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.processes.running import running

pytestmark = pytest.mark.processes

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "6", "--train-timeout", "20")


def test_ctrl_c_ends_every_process_of_the_server_and_names_what_to_do(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation:
        server = federation.start_server(*OPTIONS)
        federation.await_event(lambda e: e["event"] == "waiting")
        server.send_signal(signal.SIGINT)
        assert federation.wait("server") == 130
        assert federation.left_running() == []
        assert federation.log("server").splitlines()[-2:] == [
            "error: stopped; every process was ended",
            "go on with: fedserver --resume --out DIR",
        ]


def test_a_port_in_use_is_a_two_line_error_and_leaves_nothing_running(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation, socket.create_server(("127.0.0.1", federation.port)):
        federation.start_server(*OPTIONS)
        assert federation.wait("server") == 1
        problem, remedy = federation.log("server").splitlines()[-2:]
        assert f"127.0.0.1:{federation.port}" in problem and "--listen" in remedy
        assert federation.left_running() == []


def test_a_second_agent_with_the_same_identity_is_refused(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation:
        federation.start_server(*OPTIONS, "--join-timeout", "30")
        federation.start_toy("site-1")
        federation.await_event(lambda e: e["event"] == "waiting")
        command = ["--site", "site-1", "--home", str(federation.consortium.homes["site-1"])]
        command += ["--server", f"127.0.0.1:{federation.port}", "--roster", str(federation.consortium.roster)]
        data = tmp_path / "data.jsonl"
        data.write_text('{"text": "some words to learn"}\n' * 20)
        federation.start("second", "-m", "fedclient.cli", *command, "--data", str(data))
        assert federation.wait("second") == 1
        assert "another fedclient is running" in federation.log("second")


def test_a_second_server_on_the_same_folder_is_refused_and_the_first_one_goes_on(tmp_path):
    sites = FIVE[:3]
    with running(tmp_path, *sites) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1")
        federation.await_event(lambda e: e["event"] == "waiting")
        federation.start_server("--resume", "--listen", "127.0.0.1:0", name="second")
        assert federation.wait("second") == 1
        assert federation.log("second").splitlines()[-2:] == [
            f"error: another fedserver is running with --out {federation.out}",
            "stop that one first",
        ]
        federation.start_toys()
        assert [federation.wait(name) for name in ("server", *sites)] == [0] * 4


def test_a_server_killed_alone_leaves_no_process_that_could_write_beside_the_next_one(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1")
        federation.start_toys(*FIVE[:2])
        federation.start_toy(FIVE[2], "hold:mask:1")
        federation.await_sign(FIVE[2], "hold:mask:1")
        federation.kill("server")
        federation.await_nothing_left()
