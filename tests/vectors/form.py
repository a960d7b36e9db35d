"""How a value stands in a file of vectors, and how it is read back (tests/vectors/README.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.session import Metrics, Packet, Update

FOLDER = Path(__file__).parent
EXACT_IN_JSON = 1 << 53

Json = dict[str, Any]


def drawn(*what: object, count: int = 32) -> bytes:
    """Bytes that depend on nothing but the words that name them; every one of them is listed as an input."""
    return hashlib.shake_256("/".join(["secagg-lora vectors", *map(str, what)]).encode()).digest(count)


def number(value: int) -> int | str:
    """An integer, as a decimal text from 2^53 on."""
    return value if value < EXACT_IN_JSON else str(value)


def floats(values: NDArray[np.float32]) -> str:
    """binary32, little-endian."""
    return np.ascontiguousarray(values, "<f4").tobytes().hex()


def floats_in(text: str) -> NDArray[np.float32]:
    return np.frombuffer(bytes.fromhex(text), "<f4").astype(np.float32)


def words(values: NDArray[np.uint64]) -> str:
    """8 bytes each, little-endian."""
    return np.ascontiguousarray(values, "<u8").tobytes().hex()


def words_in(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(text), "<u8").astype(np.uint64)


def packet(each: Packet) -> Json:
    """A head, and the words beside it if there are any."""
    return {"head": each.head.hex()} | ({} if each.words is None else {"words": words(each.words)})


def packet_in(each: Mapping[str, str]) -> Packet:
    return Packet(bytes.fromhex(each["head"]), words_in(each["words"]) if "words" in each else None)


def update(each: Update) -> Json:
    metrics = each.metrics
    return {
        "values": floats(each.values), "weight": each.weight, "examples": metrics.examples,
        "train_loss": metrics.train_loss, "eval_loss": metrics.eval_loss, "eval_tokens": metrics.eval_tokens,
    }  # fmt: skip


def update_in(each: Json) -> Update:
    names = ("examples", "train_loss", "eval_loss", "eval_tokens")
    return Update(floats_in(each["values"]), each["weight"], Metrics(**{name: each[name] for name in names}))


def good(name: str, inputs: Json, outputs: Json, **more: Any) -> Json:
    """A case that succeeds."""
    return {"name": name, **more, "inputs": inputs, "outputs": outputs}


def bad(name: str, inputs: Json, code: str, site: str = "", **more: Any) -> Json:
    """A case that ends in an error of spec §3.4; site: the one it blames, where the error names one."""
    return {"name": name, **more, "inputs": inputs, "error": {"code": code} | ({"site": site} if site else {})}


def file(about: str, spec: str, form: str, cases: Sequence[Json], inputs: Json | None = None) -> Json:
    """A whole file. inputs: those that all its cases have in common."""
    return {"about": about, "spec": spec, "form": form} | ({"inputs": inputs} if inputs else {}) | {"cases": cases}


def _common_to(cases: list[Json]) -> tuple[list[Json], Json]:
    """Inputs that most cases share, taken out of them: the cases without, and the shared ones.

    A case keeps its own value of an input where it has another; one that lacks an input keeps the rest from sharing it.
    """
    shared = {}
    for key in cases[0]["inputs"]:
        if all(key in case["inputs"] for case in cases):
            values = [json.dumps(case["inputs"][key]) for case in cases]
            often = max(values, key=values.count)
            if values.count(often) > 1:
                shared[key] = json.loads(often)
    kept = [
        {**case, "inputs": {k: v for k, v in case["inputs"].items() if k not in shared or v != shared[k]}}
        for case in cases
    ]
    return kept, shared


def case_file(about: str, spec: str, cases: list[Json], form: str) -> Json:
    """The file of these cases; what their inputs share stands once."""
    kept, shared = _common_to(cases)
    return file(about, spec, form, kept, shared)


def text_of(content: Json) -> str:
    """The bytes of the file, as text."""
    return json.dumps(content, indent=1) + "\n"


def read(name: str) -> Json:
    """A file by its path in this folder."""
    content: Json = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def cases(content: Json) -> Iterator[tuple[Json, Json]]:
    """Every case, with its inputs completed by those of the file."""
    for case in content["cases"]:
        yield case, {**content.get("inputs", {}), **case["inputs"]}
