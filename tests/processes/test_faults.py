"""Real servers and sites over TLS: what a kill -9, a restart, a Ctrl-C and a clumsy operator do."""

from __future__ import annotations

import signal
import socket

import numpy as np
import pytest

from secagg.config import Manifest
from tests.federation.direct import ToyLearner
from tests.processes.running import Running, running
from tests.sim import random_update

pytestmark = pytest.mark.processes

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "6", "--train-timeout", "20")


@pytest.mark.parametrize(("killed_after", "missing_in"), [("share", "mask"), ("consent", "unmask")])
def test_a_site_killed_between_two_phases_costs_its_own_update_and_nothing_else(tmp_path, killed_after, missing_in):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "2")
        for site in FIVE:
            federation.start_toy(site)
        federation.await_event(
            lambda e: e["event"] == "answered" and e["phase"] == killed_after and e["site"] == "site-3"
        )
        federation.kill("site-3")
        federation.await_event(lambda e: e["event"] == "aggregated" and e["round"] == 1)
        federation.start_toy("site-3")
        assert federation.wait("server") == 0, federation.log("server")
        assert all(federation.wait(site) == 0 for site in FIVE), federation.log("site-3")
        first = federation.events("aggregated")[0]
        assert ("site-3" in first["contributors"]) == (killed_after == "consent")
        assert any(e["site"] == "site-3" and e["phase"] == missing_in for e in federation.events("silent"))
        answered = [
            (e["round"], e["attempt"], e["phase"]) for e in federation.events("answered") if e["site"] == "site-3"
        ]
        assert len(answered) == len(set(answered))
        assert_everybody_has(federation, FIVE)


def test_a_round_below_the_threshold_is_void_and_tried_again_when_the_site_is_back(tmp_path):
    sites = FIVE[:3]  # three sites: all must survive
    with running(tmp_path, *sites) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1", "--join-timeout", "40")
        for site in sites:
            federation.start_toy(site)
        federation.await_event(lambda e: e["event"] == "answered" and e["phase"] == "advertise")
        federation.kill("site-2")
        federation.await_event(lambda e: e["event"] == "void")
        federation.start_toy("site-2")
        assert federation.wait("server") == 0, federation.log("server")
        void = federation.events("void")[0]
        assert "site-2" in void["why"]
        assert federation.events("aggregated")[0]["attempt"] >= 2
        assert all(federation.wait(site) == 0 for site in sites)
        assert_everybody_has(federation, sites)


def test_a_server_killed_between_rounds_goes_on_with_resume_and_loses_no_round(tmp_path):
    sites = FIVE[:3]
    with running(tmp_path, *sites) as federation:
        federation.start_server(*OPTIONS, "--rounds", "3")
        for site in sites:
            federation.start_toy(site)
        federation.await_event(lambda e: e["event"] == "aggregated" and e["round"] == 1)
        federation.kill("server")
        federation.start_server("--resume", name="server")
        assert federation.wait("server") == 0, federation.log("server")
        assert all(federation.wait(site) == 0 for site in sites), federation.log("site-1")
        assert [e["round"] for e in federation.events("aggregated")] == [1, 2, 3]
        assert_everybody_has(federation, sites)


def test_ctrl_c_ends_every_process_of_the_server_and_names_what_to_do(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation:
        server = federation.start_server(*OPTIONS)
        federation.await_event(lambda e: e["event"] == "waiting")
        server.send_signal(signal.SIGINT)
        assert federation.wait("server") == 130
        assert federation.descendants() == []
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
        assert federation.descendants() == []


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
