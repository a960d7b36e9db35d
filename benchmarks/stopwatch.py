"""Which part of a computation takes the time: seconds of nested parts, each without what is nested in it.

Processes that work for this one count as its own CPU time, if they are followed; Linux only.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any, Final, NamedTuple
from unittest.mock import patch

_followed: Final[dict[int, float]] = {}  # process -> CPU seconds when it was last read
# While such a part goes on, other processes work for it, whatever is nested in it.
_WITH_PROCESSES: Final = ("protect", "open")


def follow(process: int) -> None:
    """Has every stopwatch count this process's CPU time from now on."""
    _followed[process] = 0.0


def _followed_seconds() -> float:
    for process in _followed:
        with suppress(OSError):  # it has ended: what was last read stands
            _followed[process] = time.clock_gettime((~process << 3) | 2)  # Linux: CPU clock of a process, all threads
    return sum(_followed.values())


@dataclass
class Seconds:
    """CPU time of the process, all threads, and of those it follows; wall time."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.cpu + other.cpu, self.wall + other.wall)


class Part(NamedTuple):
    """Whose work it is, in which role, and which stage of it."""

    who: str
    role: str
    stage: str


class Stopwatch:
    """Gives every moment between the first `at` and its end to the innermost part."""

    def __init__(self) -> None:
        self.spent: dict[Part, Seconds] = defaultdict(Seconds)
        self._stack: list[Part] = []
        self._since, self._others = Seconds(), 0.0
        self._thread = threading.get_ident()

    @contextmanager
    def at(self, part: Part) -> Iterator[None]:
        """What happens inside is this part's; what was going on goes on after it."""
        self._settle()
        self._stack.append(part)
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    def _settle(self) -> None:
        now, others = Seconds(time.process_time(), time.perf_counter()), _followed_seconds()
        if self._stack:
            spent = self.spent[self._stack[-1]]
            spent.cpu += now.cpu - self._since.cpu
            spent.wall += now.wall - self._since.wall
            if others > self._others:
                users = [part for part in self._stack if part.stage in _WITH_PROCESSES]
                self.spent[(users or self._stack)[-1]].cpu += others - self._others
        self._since, self._others = now, others

    def of(self, who: str) -> dict[str, Seconds]:
        """The stages of one party."""
        return {part.stage: spent for part, spent in self.spent.items() if part.who == who}

    @contextmanager
    def watching(self, table: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
        """While it lasts, calls of the functions in the table are stages of the roles that make them.

        table: "module:name" or "module:Class.name" -> role -> stage. The name is looked up where it is used. A
        generator's stage is what its items take. Only this thread's calls count; the others' time is the caller's.
        """
        with ExitStack() as stack:
            for target, stages in table.items():
                owner, name = _resolve(target)
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), stages)))
            yield

    def _inside(self, stages: Mapping[str, str]) -> Part | None:
        if threading.get_ident() != self._thread or not self._stack:
            return None
        now = self._stack[-1]
        return now._replace(stage=stages[now.role]) if now.role in stages else None

    def _timed(self, function: Callable[..., Any], stages: Mapping[str, str]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            part = self._inside(stages)
            if part is None:
                return function(*arguments, **options)
            with self.at(part):
                return function(*arguments, **options)

        @wraps(function)
        def items(*arguments: Any, **options: Any) -> Iterator[Any]:
            inner = function(*arguments, **options)
            while True:
                part = self._inside(stages)
                with self.at(part) if part else ExitStack():
                    try:
                        item = next(inner)
                    except StopIteration:
                        return
                yield item

        return items if inspect.isgeneratorfunction(function) else call


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    return owner, name
