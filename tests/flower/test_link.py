"""Who is connected: asked once, and a node that does not answer is left alone for longer and longer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedclient.packets import SiteRefusal, decode_packets
from fedserver import link
from fedserver.link import FIRST_HELLO_S, HELLO_S, LONGEST_SILENCE_S, SILENCE_S, FlowerLink
from secagg.enrol import Hello, Here, signed_by
from secagg.errors import Malformed
from secagg.identity import SiteKeys
from secagg.session import Packet
from tests.sim import Consortium


class FakeGrid:
    """A Grid that only says which nodes are online."""

    def __init__(self, *nodes: int) -> None:
        self.nodes = set(nodes)

    def get_node_ids(self) -> set[int]:
        return self.nodes


class Greetings:
    """In place of `exchange`: nodes below 10 prove to be a site of their own, the others are mute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[set[int], float]] = []
        self.mute_refuses = False
        monkeypatch.setattr(link, "exchange", self.exchange)
        monkeypatch.setattr(link.os, "urandom", bytes)
        monkeypatch.setattr(link, "require_from", lambda *_: None)
        monkeypatch.setattr(link.Here, "decode", staticmethod(self.here))

    def exchange(
        self, grid: Grid, nodes: dict[str, int], requests: object, kind: str, timeout_s: float, **_: object
    ) -> Iterator[tuple[str, object]]:
        self.asked.append((set(nodes.values()), timeout_s))
        for name, node in nodes.items():
            if node < 10:
                yield name, Packet(name.encode())
            elif self.mute_refuses:
                yield name, SiteRefusal("error")

    @staticmethod
    def here(head: bytes) -> Any:
        if not head:
            raise Malformed("empty")
        return type("Here", (), {"site": f"site-{head.decode()}", "nonce": bytes(32)})()


@pytest.fixture
def greetings(monkeypatch: pytest.MonkeyPatch) -> Greetings:
    return Greetings(monkeypatch)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(grid: FakeGrid, clock: Clock) -> FlowerLink:
    return FlowerLink(cast(Grid, grid), cast(Any, None), clock=clock)


def test_who_is_known_is_not_asked_again(greetings: Greetings) -> None:
    connected = made(FakeGrid(1, 2), Clock())
    assert [connected.sites(), connected.sites()] == [{"site-1", "site-2"}] * 2
    assert greetings.asked == [({1, 2}, FIRST_HELLO_S)]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_mute_node_is_asked_again_after_growing_pauses_only(greetings: Greetings, refuses: bool) -> None:
    greetings.mute_refuses = refuses
    clock = Clock()
    connected = made(FakeGrid(1, 10), clock)
    for _ in range(3000):  # five minutes of looks, ten a second
        assert connected.sites() == {"site-1"}
        clock.now += 0.1
    again = [timeout_s for nodes, timeout_s in greetings.asked[1:] if nodes == {10}]
    assert len(again) == len(greetings.asked) - 1
    assert set(again) == {HELLO_S}
    assert 300 / LONGEST_SILENCE_S <= len(again) <= 300 / LONGEST_SILENCE_S + LONGEST_SILENCE_S / SILENCE_S / 3


def test_a_mute_node_does_not_keep_a_new_one_waiting(greetings: Greetings) -> None:
    grid = FakeGrid(1, 10)
    connected = made(grid, Clock())
    connected.sites()
    grid.nodes = {1, 2, 10}
    assert connected.sites() == {"site-1", "site-2"}
    assert greetings.asked[-1] == ({2}, HELLO_S)


def test_a_mute_node_that_connects_anew_is_asked_at_once(greetings: Greetings) -> None:
    grid = FakeGrid(1, 10)
    connected = made(grid, Clock())
    for nodes in ({1, 10}, {1}, {1, 10}):
        grid.nodes = nodes
        connected.sites()
    assert [nodes for nodes, _ in greetings.asked] == [{1, 10}, {10}]


def test_a_node_is_a_site_only_by_its_signature_over_a_fresh_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old answer of the site's, another site's key and another site's name each prove nothing."""
    consortium, nonces = Consortium(3), []
    keys = consortium.keys

    def said(kind: int, nonce: bytes) -> Here:
        site, signer, said_nonce = {
            1: ("site-01", keys["site-01"], nonce),
            2: ("site-02", keys["site-02"], bytes(32)),
            3: ("site-03", SiteKeys("site-03", keys["site-01"].identity), nonce),
        }[kind]
        return signed_by(signer, Here(site, said_nonce, bytes(64)))

    def greeted(
        grid: Grid, nodes: dict[str, int], requests: list[tuple[str, RecordDict]], *_: object, **__: object
    ) -> Iterator[tuple[str, Packet]]:
        for name, content in requests:
            hello = Hello.decode(decode_packets(content, max_words=0)[0].head)
            nonces.append(hello.nonce)
            yield name, Packet(said(nodes[name], hello.nonce).encode())

    monkeypatch.setattr(link, "exchange", greeted)
    reached = FlowerLink(cast(Grid, FakeGrid(1, 2, 3)), consortium.roster)
    assert reached.sites() == {"site-01"}
    again = FlowerLink(cast(Grid, FakeGrid(1)), consortium.roster)
    assert again.sites() == {"site-01"}
    assert len(set(nonces)) == 2  # one for each time it asks
