"""What the operator asked for, as one file that the server process reads and a resumed one reads again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from fedclient.settings import LocalError, LoraSettings, TrainingSettings
from secagg.config import MAX_ROUNDS, SERVER_READS_SUM
from secagg.session import SHARED_KEY
from secagg.wire import MAX_SITES

MOST_WEIGHT: Final = 1 << 20
MOST_MODEL: Final = 512  # bytes of a setting in the manifest
MONTH_S: Final = 31 * 86_400.0
_PLAIN: Final[dict[str, tuple[type, ...]]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (float, int)}


class ServerError(LocalError):
    """The federation cannot start or go on: what is wrong, and what to do about it."""

    code = "server"


@dataclass(frozen=True, slots=True)
class Plan:
    """One federation. Times are seconds; paths are absolute.

    min_sites: fewest sites to begin with; 0 = all. colluders, dropouts: -1 = chosen from the number of sites.
    listen: HOST:PORT of the first start.
    first_range: 0 = from the learning rate and the steps.
    shared_key: the name of the key that the sites share, 64 hexadecimal digits, if the scheme takes one.
    """

    roster: str
    keys: str  # folder of the server's signing key
    out: str
    scheme: str
    model: str
    rounds: int
    server_reads_sum: bool = False
    shared_key: str = ""
    min_sites: int = 0
    colluders: int = -1
    dropouts: int = -1
    bits: int = 8
    weight_cap: int = 1
    examples_per_weight: int = 0
    rotate: bool = True
    clip_norm: float = 0.0
    first_range: float = 0.0
    lora: LoraSettings = field(default_factory=LoraSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    join_timeout: float = 600.0
    load_timeout: float = 1800.0
    train_timeout: float = 3600.0
    phase_timeout: float = 60.0
    attempts: int = 3
    keep_vectors: int = -1  # of how many rounds masked vectors stay on disk; -1 = of all
    listen: str = "127.0.0.1:8443"

    def __post_init__(self) -> None:
        """Raises ServerError for a number that no session can have."""
        limits = {
            "rounds": (1, MAX_ROUNDS), "min_sites": (0, MAX_SITES), "colluders": (-1, MAX_SITES),
            "dropouts": (-1, MAX_SITES), "bits": (4, 20), "weight_cap": (1, MOST_WEIGHT),
            "examples_per_weight": (0, MOST_WEIGHT), "clip_norm": (0.0, 2.0**31), "first_range": (0.0, 4096.0),
            "join_timeout": (0.0, MONTH_S), "load_timeout": (0.0, MONTH_S), "train_timeout": (0.0, MONTH_S),
            "phase_timeout": (0.0, MONTH_S),
            "attempts": (1, 100), "keep_vectors": (-1, MAX_ROUNDS),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:  # nor if it is NaN
                option = "--" + name.replace("_", "-")
                raise ServerError(f"{option} lies outside {least}..{most}", f"choose another {option}")
        if not 1 <= len(self.model.encode()) <= MOST_MODEL:
            raise ServerError(f"--model is empty or longer than {MOST_MODEL} bytes", "name the model by hub id or path")

    def settings(self) -> dict[str, str]:
        """The options that all sites must agree on, as texts, as they stand in the manifest."""
        named: dict[str, Any] = {"model": self.model, "examples_per_weight": self.examples_per_weight}
        named |= {f"lora.{name}": value for name, value in self.lora.to_plain().items()}
        named |= {f"training.{name}": value for name, value in self.training.to_plain().items()}
        return {name: str(value) for name, value in sorted(named.items())}

    def options(self) -> dict[str, str]:
        """The options of the scheme, as they stand in the manifest."""
        chosen = {SERVER_READS_SUM: "yes" if self.server_reads_sum else "", SHARED_KEY: self.shared_key}
        return {name: value for name, value in sorted(chosen.items()) if value}

    def save(self, path: Path) -> None:
        """Writes the plan."""
        plain = asdict(self) | {"lora": self.lora.to_plain(), "training": self.training.to_plain()}
        path.write_text(json.dumps(plain, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The plan that `save` wrote. Raises ServerError."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            wrong = [each.name for each in fields(cls) if not _fits(plain.get(each.name, each.default), str(each.type))]
            if wrong:
                raise TypeError(f"{wrong[0]} is missing or has the wrong type")
            plain["lora"] = LoraSettings.from_plain(plain["lora"])
            plain["training"] = TrainingSettings.from_plain(plain["training"])
            return cls(**plain)
        except ServerError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = " ".join(f"{path} is not a plan: {error}".split())
            raise ServerError(problem, "start fedserver without --resume") from None


def _fits(value: object, kind: str) -> bool:
    """Whether a value of the JSON may stand in a field of this type; groups of settings look at their own."""
    return kind not in _PLAIN or type(value) in _PLAIN[kind]
