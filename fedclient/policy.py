"""What a site's administrator allows, read from policy.toml in the site's home (spec §7.3)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from fedclient.settings import LocalError
from secagg.config import Policy

POLICY_FILE: Final = "policy.toml"
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_WHERE: Final = "see the README's section on policies, or remove the file to take the defaults"


class PolicyError(LocalError):
    """The policy file cannot be used."""

    code = "settings"


def load_policy(path: Path) -> Policy:
    """The policy in the file, the default where there is none. Raises PolicyError.

    Keys: schemes (texts), least_survivors, least_threshold, largest_weight, largest_rounds (integers from 1),
    least_colluders (from 0), base_models (64 hexadecimal digits each), whole_roster, server_reads_sum (true or false).
    """
    if not path.exists():
        return Policy()
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # tomllib's own, and Python's for numbers of 5,000 digits
        raise PolicyError(f"{path} is not TOML: {error}", _WHERE) from None
    return Policy(**{name: _value(path, name, value) for name, value in plain.items()})


def _value(path: Path, name: str, value: Any) -> Any:
    if name in ("least_survivors", "least_threshold", "largest_weight", "largest_rounds"):
        if type(value) is int and value >= 1:
            return value
        raise PolicyError(f"{path}: {name} is not an integer from 1", _WHERE)
    if name == "least_colluders":
        if type(value) is int and value >= 0:
            return value
        raise PolicyError(f"{path}: {name} is not an integer from 0", _WHERE)
    if name in ("whole_roster", "server_reads_sum"):
        if type(value) is bool:
            return value
        raise PolicyError(f"{path}: {name} is neither true nor false", _WHERE)
    if name in ("schemes", "base_models"):
        if type(value) is not list or not all(type(each) is str for each in value):
            raise PolicyError(f"{path}: {name} is not a list of texts", _WHERE)
        return tuple(value) if name == "schemes" else tuple(_digest(path, each) for each in value)
    raise PolicyError(f"{path}: there is no rule {name[:40]!r}", _WHERE)


def _digest(path: Path, text: str) -> bytes:
    if not _DIGEST.fullmatch(text):
        raise PolicyError(f"{path}: a base model is named by 64 hexadecimal digits", _WHERE)
    return bytes.fromhex(text)
