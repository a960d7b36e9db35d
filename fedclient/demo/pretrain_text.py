"""The text that the embedded base model was trained on: Python's standard library and its help topics.

None of the demo's four domains is in it. 2.5% of the texts are held out.

    python -m fedclient.demo.pretrain_text OUT
"""

from __future__ import annotations

import json
import random
import re
import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Final

_LICENCE: Final = re.compile(r"copyright|licen[sc]e|SPDX", re.I)
_HEAD: Final = re.compile(r"\s*((?:#[^\n]*\n)+)")
_SKIPPED: Final = re.compile(
    r"/(site-packages|test|tests|encodings|idlelib|tkinter|turtledemo|unittest|asyncio|concurrent"
    r"|multiprocessing|email|http|urllib|xml|html|xmlrpc|ensurepip|pydoc_data|config-)"
)


def _read(path: Path) -> str:
    """A source file without a licence comment at its head."""
    text = path.read_text(encoding="utf-8", errors="ignore").replace("\r\n", "\n").expandtabs(4)
    head = _HEAD.match(text)
    return text[head.end() :].strip() + "\n" if head and _LICENCE.search(head.group(0)) else text


def _topics(library: Path) -> list[str]:
    """The texts behind Python's help()."""
    return list(runpy.run_path(str(library / "pydoc_data" / "topics.py"))["topics"].values())


def texts() -> list[str]:
    """All texts in a fixed random order."""
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted(str(path) for path in library.rglob("*.py"))
    sources = [_read(Path(path)) for path in found if not _SKIPPED.search(path[len(str(library)) :])]
    chosen = [text for text in sources if 100 < len(text) < 1_000_000] + _topics(library)
    random.Random(0).shuffle(chosen)  # noqa: S311 - a fixed order is what is wanted
    return chosen


def write_texts(out: Path) -> None:
    """Writes <out>/train.jsonl and <out>/test.jsonl."""
    chosen = texts()
    cut = len(chosen) // 40
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", chosen[:cut]), ("train", chosen[cut:])):
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_texts(Path(sys.argv[1]))
