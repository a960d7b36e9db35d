"""What happened, one JSON object a line: the live view, the report and the tests read it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedserver.plan import ServerError


class Journal:
    """Appends events to a file; every value in it may be read by anyone."""

    def __init__(self, path: Path) -> None:
        """Raises ServerError, as `write` does, if the disk does not take it."""
        self._path = path
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path)
            self._file = path.open("ab", buffering=0)

    def write(self, event: str, **facts: Any) -> None:
        """One line: time in seconds since 1970, the event's name, its facts."""
        line = json.dumps({"time": time.time(), "event": event, **facts}).encode() + b"\n"
        with self._writing():
            if self._file.write(line) != len(line):
                raise OSError(0, "no space left for the whole line")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"cannot write {self._path}: {error.strerror}"
            raise ServerError(problem, "free some space, then go on with fedserver --resume") from None


def _cut_torn_line(path: Path) -> None:
    """Removes a last line that a full disk or a power failure tore: the next event would be written behind it."""
    if path.exists():
        content = path.read_bytes()
        whole = _without_torn(content)
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))


def read_events(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `start` on, and where the next ones will begin.

    A last line that a power failure tore is left out. Raises ServerError for any other line that is no event.
    """
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        whole = _without_torn(file.read())
    events = [_event(line) for line in whole.split(b"\n")[:-1]]
    if None in events:
        number = events.index(None) + 1
        place = f"line {number}" if start == 0 else f"the line {number} lines after byte {start}"
        raise ServerError(f"{path} is damaged: {place} is no event", "move it away, then go on with --resume")
    return [event for event in events if event is not None], start + len(whole)


def _without_torn(content: bytes) -> bytes:
    """The lines up to the last newline, less a last one that is no event."""
    whole = content[: content.rfind(b"\n") + 1]
    last = whole[:-1].rfind(b"\n") + 1
    return whole if _event(whole[last:-1]) is not None else whole[:last]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if type(value) is dict and type(value.get("event")) is str else None


def events_named(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every event of that name, in order."""
    return (each for each in read_events(path)[0] if each["event"] == name)
