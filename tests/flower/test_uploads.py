"""When a reply that a site uploads counts as whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fedserver import uploads
from fedserver.traffic import Traffic
from fedserver.uploads import ANNOUNCEMENT, OBJECT, Uploads

A, B = b"key-a", b"key-b"


class Line:
    """Uploads of two nodes, as the gateway reports them."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self.uploads = traffic, Uploads(traffic)

    @property
    def is_quiet(self) -> bool:
        return self.traffic.read().is_quiet

    def announce(self, node: bytes, is_stored: bool = True) -> None:
        self.uploads.begin(node)
        self.uploads.end(ANNOUNCEMENT, node, is_stored, 0)

    def push(self, node: bytes, objects: int, is_stored: bool = True) -> None:
        self.uploads.begin(node)
        self.uploads.end(OBJECT, node, is_stored, objects)


def play(folder: Path, story: Callable[[Line], Awaitable[None]]) -> None:
    asyncio.run(story(Line(Traffic.create(folder / "traffic"))))


def test_a_reply_is_under_way_from_its_announcement_to_its_last_object(tmp_path: Path) -> None:
    async def story(line: Line) -> None:
        assert line.is_quiet
        line.announce(A)
        for _ in range(2):
            assert not line.is_quiet
            line.push(A, 3)
        assert not line.is_quiet
        line.push(A, 3)
        assert line.is_quiet
        assert line.traffic.read().ended == 5

    play(tmp_path, story)


def test_one_nodes_reply_says_nothing_of_anothers(tmp_path: Path) -> None:
    async def story(line: Line) -> None:
        line.announce(A)
        line.announce(B)
        line.push(A, 1)
        assert not line.is_quiet
        line.push(B, 1)
        assert line.is_quiet

    play(tmp_path, story)


def test_an_object_that_was_not_stored_is_still_to_come(tmp_path: Path) -> None:
    async def story(line: Line) -> None:
        line.announce(A)
        line.push(A, 1, is_stored=False)
        assert not line.is_quiet
        line.push(A, 1)
        assert line.is_quiet

    play(tmp_path, story)


def test_a_refused_announcement_opens_nothing(tmp_path: Path) -> None:
    async def story(line: Line) -> None:
        line.announce(A, is_stored=False)
        assert line.is_quiet
        assert line.uploads._replies == {}

    play(tmp_path, story)


def test_a_second_announcement_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async def story(line: Line) -> None:
        line.announce(A)
        line.announce(A)
        line.push(A, 1)
        assert line.is_quiet

    play(tmp_path, story)


def test_a_reply_that_is_given_up_blocks_the_line_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "NEXT_S", 0.02)

    async def story(line: Line) -> None:
        line.announce(A)
        line.push(A, 3)
        line.push(A, 3, is_stored=False)  # as from somebody who has not the key
        assert not line.is_quiet
        while not line.is_quiet:
            await asyncio.sleep(0.01)
        assert line.uploads._replies == {}
        line.push(A, 3)
        assert line.is_quiet

    play(tmp_path, story)


def test_a_call_under_way_keeps_its_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "NEXT_S", 0.01)

    async def story(line: Line) -> None:
        line.announce(A)
        line.uploads.begin(A)
        await asyncio.sleep(0.1)
        assert A in line.uploads._replies
        line.uploads.end(OBJECT, A, True, 1)
        assert line.is_quiet

    play(tmp_path, story)


def test_an_agent_that_does_not_say_how_many_objects_it_has_is_waited_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STILL_S", 0.02)

    async def story(line: Line) -> None:
        line.announce(A)
        line.push(A, 0)
        line.push(A, 0)
        assert not line.is_quiet
        assert line.uploads._replies == {}
        while not line.is_quiet:
            await asyncio.sleep(0.01)

    play(tmp_path, story)
