"""What was found right before: adverts and statements come back with every later request of a round."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MOST: Final = 1 << 14


class Known:
    """A set of byte strings that forgets the oldest."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._kept = most, OrderedDict[bytes, None]()

    def __contains__(self, name: bytes) -> bool:
        return name in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, name: bytes) -> None:
        """Keeps a name of something that is right whoever asks: nothing secret, nothing that may change."""
        self._kept[name] = None
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


RIGHT = Known()  # of this process
