"""How the adapter and its training are configured: plain numbers and names that every site agrees on.

Imports nothing heavy: the server reads the same settings and puts them in the manifest, where they travel
as integers and texts only (`to_plain`); a real number is the shortest decimal that gives the same double.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, ClassVar, Final, Self

from secagg.labels import LORA_CONFIG
from secagg.wire import encode_plain

ALL_LINEAR: Final = "all-linear"
_MODULES: Final = re.compile(r"[A-Za-z0-9_.]+(?:,[A-Za-z0-9_.]+)*")
_INTEGER: Final = re.compile(r"\d{1,18}")
_DECIMAL: Final = re.compile(r"\d{1,20}(?:\.\d{1,40})?")


class LocalError(Exception):
    """An error for the site's own terminal: what is wrong, and what to do about it.

    `problem` and `remedy` may name local files, so they never leave the site. `str()` gives only `code`:
    Flower sends the text of a client's exception to the server.
    """

    code: ClassVar[str] = "local-error"

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(self.code)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[LocalError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)


class SettingsError(LocalError):
    """A setting is missing, unknown, of the wrong type or out of range."""

    code = "settings"


def _require_integer(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise SettingsError(f"{name} is not an integer in {least}..{most}", f"choose another {name}")


def _real(name: str, value: Any, least: float, most: float) -> float:
    """The value as a float. Raises SettingsError unless least <= value <= most."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise SettingsError(f"{name} is not a number in {least}..{most}", f"choose another {name}")
    return float(value)


def to_decimal(value: float) -> str:
    """The one decimal text of a double, without exponent: 1e-5 -> '0.00001'."""
    return format(Decimal(repr(value)), "f")


def _from_decimal(name: str, text: Any) -> float:
    if type(text) is not str or not _DECIMAL.fullmatch(text) or to_decimal(float(text)) != text:
        raise SettingsError(f"{name} is not a decimal in its one form", "write it like 0.01, not like 1e-2")
    return float(text)


class _Settings:
    """What both groups of settings share: their one plain form."""

    __slots__ = ()

    def to_plain(self) -> dict[str, int | str]:
        """The settings as integers and texts, as they stand in the manifest."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: to_decimal(value) if type(value) is float else value for name, value in plain.items()}

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """The settings that `to_plain` wrote. Raises SettingsError for anything else."""
        names = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
        if type(plain) is not dict or set(plain) != set(names):
            raise SettingsError(f"not the settings of {cls.__name__}", "use one version at server and sites")
        reals = {name: _from_decimal(name, plain[name]) for name, kind in names.items() if kind == "float"}
        return cls(**(plain | reals))

    @classmethod
    def from_texts(cls, texts: dict[str, str]) -> Self:
        """The settings from texts alone, as the manifest carries them. Raises SettingsError."""
        integers = {field.name for field in fields(cls) if field.type == "int"}  # type: ignore[arg-type]
        wrong = [name for name in integers & texts.keys() if not _INTEGER.fullmatch(texts[name])]
        if wrong:
            raise SettingsError(f"{wrong[0]} is not an integer", "use one version at server and sites")
        return cls.from_plain({name: int(text) if name in integers else text for name, text in texts.items()})


@dataclass(frozen=True, slots=True)
class LoraSettings(_Settings):
    """Which low-rank factors are trained.

    target_modules: 'all-linear', or names of modules separated by commas, e.g. 'q_proj,v_proj'.
    Raises SettingsError.
    """

    rank: int = 8
    alpha: int = 16
    target_modules: str = ALL_LINEAR
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_integer("rank", self.rank, 1, 1024)
        _require_integer("alpha", self.alpha, 1, 65536)
        object.__setattr__(self, "dropout", _real("dropout", self.dropout, 0.0, 0.9))
        named = self.target_modules
        if named != ALL_LINEAR and (type(named) is not str or not _MODULES.fullmatch(named)):
            raise SettingsError("target_modules is not a list of names", "write all-linear, or q_proj,v_proj")

    def digest(self) -> bytes:
        """32 bytes that name these settings: SHA-256(LORA_CONFIG || CBOR of [name, value] by name)."""
        pairs = [[name, value] for name, value in sorted(self.to_plain().items())]
        return hashlib.sha256(LORA_CONFIG + encode_plain(pairs)).digest()


@dataclass(frozen=True, slots=True)
class TrainingSettings(_Settings):
    """How a site trains in one round; the learning rate falls by `learning_rate_decay` every round.

    local_steps: optimiser steps a round; 0 counts by local_epochs instead. sequence_length: tokens a block.
    max_blocks: most blocks of one local epoch, drawn anew each time; 0 is no limit. Raises SettingsError.
    """

    learning_rate: float = 1e-2
    learning_rate_decay: float = 0.85
    local_epochs: int = 1
    local_steps: int = 0
    batch_size: int = 8
    sequence_length: int = 256
    max_blocks: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        rate = _real("learning_rate", self.learning_rate, 1e-12, 10.0)
        decay = _real("learning_rate_decay", self.learning_rate_decay, 1e-3, 1.0)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "learning_rate_decay", decay)
        _require_integer("local_epochs", self.local_epochs, 1, 1000)
        _require_integer("local_steps", self.local_steps, 0, 1_000_000)
        _require_integer("batch_size", self.batch_size, 1, 4096)
        _require_integer("sequence_length", self.sequence_length, 8, 131_072)
        _require_integer("max_blocks", self.max_blocks, 0, 1 << 28)
        _require_integer("seed", self.seed, 0, (1 << 31) - 1)

    def rate_in(self, round_number: int) -> float:
        """The learning rate of a round; rounds count from 1."""
        _require_integer("round", round_number, 1, 1 << 31)
        return self.learning_rate * self.learning_rate_decay ** (round_number - 1)

    def examples(self, blocks: int) -> int:
        """How many of a site's `blocks` one local epoch uses."""
        return min(blocks, self.max_blocks) if self.max_blocks else blocks

    def steps(self, blocks: int) -> int:
        """Optimiser steps in one round at a site that holds `blocks` blocks."""
        return self.local_steps or self.local_epochs * -(-self.examples(blocks) // self.batch_size)
