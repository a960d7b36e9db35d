"""Flower's own FedAvg over its stock SuperLink and SuperNodes: the app that they run, and nothing of ours in it.

A round sends the adapter to every site and takes it back, changed; training takes no time. The strategy is Flower's,
unchanged; its hook for a central evaluation is where a round's time is taken and where the next one waits its turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.layout import layout_of
from benchmarks.turns import Turns, note

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg for the rounds of the run's configuration."""
    config = context.run_config
    sites, rounds = int(config["sites"]), int(config["rounds"])
    watch = _Watch(Path(str(config["journal"])), Turns(Path(str(config["turns"]))), sites, rounds)
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites, train_metrics_aggr_fn=watch.replies
    )
    strategy.start(grid, _initial(int(config["size"])), rounds, evaluate_fn=watch.round_ended)


@dataclass
class _Watch:
    """Flower's two hooks: what came back in a round, and its end."""

    journal: Path
    turns: Turns
    sites: int
    rounds: int
    began: float = 0.0
    answered: int = 0

    def replies(self, contents: list[RecordDict], _: str) -> MetricRecord:
        """Counts the sites that answered; they all measured nothing."""
        self.answered = len(contents)
        return MetricRecord({"num-examples": 100})

    def round_ended(self, round_: int, arrays: ArrayRecord) -> None:
        """Notes a round's time and the bytes of its arrays, and waits until the next one may begin."""
        if round_:
            seconds, size = time.monotonic() - self.began, sum(len(array.data) for array in arrays.values())
            event = {"event": "aggregated", "round": round_, "seconds_total": seconds, "answered": self.answered}
            up, down = {"train": self.answered * size}, {"train": self.sites * size}
            note(self.journal, {**event, "bytes_up": up, "bytes_down": down})
        if round_ < self.rounds:
            self.turns.await_turn(round_ + 1)
        self.began = time.monotonic()


def _initial(size: int) -> ArrayRecord:
    tensors = layout_of(size).tensors
    return ArrayRecord({name: Array(np.zeros(shape, np.float32)) for name, shape in tensors})


@client.train()
def train(message: Message, context: Context) -> Message:
    """The adapter plus a constant. Raises in the rounds that this site drops out of."""
    drops = int(context.node_config.get("drops", 0))
    round_ = cast(int, message.content.config_records["config"]["server-round"])
    if drops and round_ % drops == 0:
        raise RuntimeError("this site drops out of the round")
    arrays = message.content.array_records["arrays"]
    changed = {name: Array(array.numpy() + np.float32(0.01)) for name, array in arrays.items()}
    content = RecordDict({"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 100})})
    return Message(content, reply_to=message)
