"""Sessions that several tests look at: each is run when a test first asks for it, and once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Stories(Generic[T]):
    """Stories by name; one that failed fails again for whoever asks, and is not run again."""

    def __init__(self, tell: Callable[[str], AbstractContextManager[T]]) -> None:
        self._tell, self._stack = tell, ExitStack()
        self._told: dict[str, T | BaseException] = {}

    def __getitem__(self, name: str) -> T:
        """What was seen. Raises what ended the story, if something did."""
        if name not in self._told:
            try:
                self._told[name] = self._stack.enter_context(self._tell(name))
            except BaseException as error:
                self._told[name] = error
        found = self._told[name]
        if isinstance(found, BaseException):
            raise found
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
