"""Four sites' private texts, read from installed dependencies: nothing is shipped, nothing is downloaded.

numpy-docs: NumPy's docstrings. cpp: PyTorch's c10 headers. cmake: PyTorch's CMake files. yaml: PyTorch's
operator registry, 40 entries a text. Held out by whole text, about 15% of the characters.

    python -m fedclient.demo.texts OUT
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

TRAINING_CHARACTERS: Final = 240_000
HELD_OUT_CHARACTERS: Final = 40_000
_ENTRIES_A_TEXT: Final = 40
_LICENCE: Final = re.compile(r"copyright|licen[sc]e|SPDX", re.I)
_HEAD: Final = re.compile(r"\s*(/\*.*?\*/|(?://[^\n]*\n)+|(?:#[^\n]*\n)+)", re.S)


def _root(package: str) -> Path:
    """The folder of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(package)
    return Path(found.origin).parent


def without_licence(text: str) -> str:
    """The text with plain line ends and spaces, and without a licence comment at its head."""
    text = text.replace("\r\n", "\n").expandtabs(4)
    head = _HEAD.match(text)
    return text[head.end() :].strip() + "\n" if head and _LICENCE.search(head.group(0)) else text


def _read(path: Path) -> str:
    return without_licence(path.read_text(encoding="utf-8", errors="ignore"))


def _docstrings(path: Path) -> str:
    """The file's docstrings of more than 300 characters, outermost first."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    return "\n\n".join(text for text in found if text and len(text) > 300)


def _numpy_docs() -> Iterable[str]:
    return (_docstrings(path) for path in sorted(_root("numpy").rglob("*.py")) if "tests" not in path.parts)


def _cpp() -> Iterable[str]:
    return (_read(path) for path in sorted(_root("torch").glob("include/c10/**/*.h")))


def _cmake() -> Iterable[str]:
    return (_read(path) for path in sorted(_root("torch").glob("share/cmake/**/*.cmake")))


def _yaml() -> Iterable[str]:
    registry = _read(_root("torchgen") / "packaged/ATen/native/native_functions.yaml")
    entries = re.split(r"\n(?=- func: )", registry)
    return ("\n".join(entries[i : i + _ENTRIES_A_TEXT]) for i in range(0, len(entries), _ENTRIES_A_TEXT))


SITES: Final[dict[str, Callable[[], Iterable[str]]]] = {
    "numpy-docs": _numpy_docs,
    "cpp": _cpp,
    "cmake": _cmake,
    "yaml": _yaml,
}


def divide(texts: Iterable[str], seed: int) -> tuple[list[str], list[str]]:
    """(training, held-out) texts of one site, each text whole, up to the two sizes above."""
    shuffled = sorted({text for text in texts if 200 < len(text) < 60_000})
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a fixed order is what is wanted
    most_held_out = min(HELD_OUT_CHARACTERS, sum(map(len, shuffled)) * 15 // 100)
    training: list[str] = []
    held_out: list[str] = []
    for text in shuffled:
        if sum(map(len, held_out)) < most_held_out and len(text) < most_held_out // 2:
            held_out.append(text)
        elif sum(map(len, training)) <= TRAINING_CHARACTERS:
            training.append(text)
    return training, held_out


def write_texts(out: Path) -> list[str]:
    """Writes <out>/<site>/train.jsonl and test.jsonl; gives the sites' names."""
    for seed, (site, texts) in enumerate(SITES.items()):
        (out / site).mkdir(parents=True, exist_ok=True)
        for part, chosen in zip(("train", "test"), divide(texts(), seed), strict=True):
            lines = [json.dumps({"text": text}) + "\n" for text in chosen]
            (out / site / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return list(SITES)


if __name__ == "__main__":
    for name in write_texts(Path(sys.argv[1])):
        print(Path(sys.argv[1]) / name)
