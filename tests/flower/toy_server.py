"""A toy ServerApp: exchanges packets with the sites as its run config says, and writes what came back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedclient.packets import SiteRefusal
from fedserver.exchange import exchange
from fedserver.mailbox import mailbox_of
from secagg.session import Packet
from tests.flower.toy_client import own_number

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = {site: int(node) for site, node in json.loads(str(config["nodes"])).items()}
    words = np.arange(int(config["words"]), dtype=np.uint64) if config["words"] else None
    mailbox = mailbox_of(grid)
    report: list[dict[str, object]] = []
    for step, kind in enumerate(str(config["types"]).split()):
        head = f"step {step}"
        requests = [(site, Packet(head.encode(), words)) for site in nodes]
        started, answers = time.monotonic(), {}
        for site, answer in exchange(mailbox, nodes, requests, kind, float(config["timeout"]), max_words=1 << 27):
            answers[site] = answer.code if isinstance(answer, SiteRefusal) else _check(answer, head, words, site)
        report.append({"type": kind, "seconds": time.monotonic() - started, "answers": answers})
        _write(Path(str(config["out"])), report)
    if config["crash"]:
        raise RuntimeError("the toy server was told to crash")


def _check(answer: Packet, head: str, words: np.ndarray | None, site: str) -> str:
    same = answer.words is None if words is None else np.array_equal(answer.words, words + own_number(site))
    return "right" if same and answer.head == head.encode() else "wrong"


def _write(path: Path, report: list[dict[str, object]]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report))
    os.replace(part, path)  # noqa: PTH105
