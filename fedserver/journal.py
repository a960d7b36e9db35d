"""What happened, one JSON object a line: the live view, the report and the tests read it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends events to a file; every value in it may be read by anyone."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **facts: Any) -> None:
        """One line: time in seconds since 1970, the event's name, its facts."""
        self._file.write(json.dumps({"time": time.time(), "event": event, **facts}) + "\n")
        self._file.flush()


def read_events(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `start` on, and where the next ones will begin."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def events_named(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every event of that name, in order."""
    return (each for each in read_events(path)[0] if each["event"] == name)
