"""One site's local work in a round: the trained adapter minus the round's adapter, and the held-out loss."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fedclient.adapter import AdapterModel
from fedclient.base_model import ModelError
from fedclient.data import NO_LOSS, Blocks
from fedclient.settings import LocalError, TrainingSettings
from secagg.vector import Vector

MAX_GRADIENT_NORM: Final = 1.0
_EVALUATION_ROWS: Final = 16
_SMALL_MACHINE: Final = 4  # cores; several sites are likely to share such a machine

Progress = Callable[[int, int, float], None]  # step, steps, loss


class TrainingError(LocalError):
    """Training did not give an update that may be shared."""

    code = "training"


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What a round's training gave; private to the site.

    update: float32 (d,). examples: blocks of one local epoch. train_loss: mean nats a token over the round.
    """

    update: Vector = field(repr=False)
    examples: int = field(repr=False)
    train_loss: float = field(repr=False)


@dataclass(frozen=True, slots=True)
class EvalOutcome:
    """The mean loss in nats over `tokens` held-out tokens; 0 and 0 where nothing is held out."""

    loss: float = field(repr=False)
    tokens: int = field(repr=False)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.loss)


class Trainer:
    """Trains and evaluates one site's adapter, round after round, on a model that is loaded once.

    The same seed, site, round and adapter give the same update on the same machine with the same number of
    threads. The optimiser starts afresh every round: Adam's moments belong to the site's own last path, not
    to the averaged adapter, and they would be one more secret to keep across restarts.
    threads: of torch on the CPU; None takes 1 on a small machine and torch's own choice on a larger one.
    """

    def __init__(
        self,
        model: AdapterModel,
        settings: TrainingSettings,
        training: Blocks,
        held_out: Blocks | None = None,
        *,
        site: str,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        _require_fit(model, training)
        if held_out is not None:
            _require_fit(model, held_out)
        self.model = model
        self.settings = settings
        self._training = training
        self._held_out = held_out
        self._site = site
        self._progress = progress or _silent
        limit_threads(threads)

    @property
    def steps(self) -> int:
        """Optimiser steps in one round."""
        return self.settings.steps(len(self._training))

    def train(self, adapter: Vector, round_number: int) -> TrainOutcome:
        """The update of this round. adapter: the round's, float32 (d,). Raises TrainingError."""
        self.model.write(adapter)
        _seed_torch(self.settings.seed, self._site, round_number)
        loss = self._run(self.settings.rate_in(round_number))
        update = self.model.read() - adapter
        if not np.isfinite(update).all():
            raise TrainingError("the update is not finite", "lower --learning-rate")
        return TrainOutcome(update, self.settings.examples(len(self._training)), loss)

    def evaluate(self, adapter: Vector) -> EvalOutcome:
        """The held-out loss of an adapter, float32 (d,). Raises TrainingError if it is not finite."""
        if self._held_out is None:
            return EvalOutcome(0.0, 0)
        self.model.write(adapter)
        return evaluate(self.model.network, self._held_out)

    def _run(self, rate: float) -> float:
        """Trains in place; gives the mean loss a token."""
        import torch

        network = self.model.network.train()
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
        total, tokens = 0.0, 0
        for step, rows in enumerate(self._batches(), 1):
            loss = _loss(network, rows)
            value = _finite(loss.item())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimiser.step()
            total, tokens = total + value * _targets(rows), tokens + _targets(rows)
            self._progress(step, self.steps, value)
        return total / tokens

    def _batches(self) -> Iterator[Blocks]:
        """The round's batches: epochs over blocks in a random order, up to the number of steps."""
        import torch

        done = 0
        while True:
            order = torch.randperm(len(self._training)).numpy()
            order = order[: self.settings.examples(len(self._training))]
            for start in range(0, len(order), self.settings.batch_size):
                if done == self.steps:
                    return
                rows = order[start : start + self.settings.batch_size]
                yield Blocks(self._training.tokens[rows], self._training.labels[rows])
                done += 1


def evaluate(network: Any, blocks: Blocks) -> EvalOutcome:
    """The mean loss of a causal LM over blocks. Raises TrainingError if it is not finite."""
    import torch

    network.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(blocks), _EVALUATION_ROWS):
            chosen = slice(start, start + _EVALUATION_ROWS)
            rows = Blocks(blocks.tokens[chosen], blocks.labels[chosen])
            total += _finite(_loss(network, rows).item()) * _targets(rows)
            tokens += _targets(rows)
    return EvalOutcome(total / tokens, tokens)


def limit_threads(threads: int | None) -> None:
    """Sets how many CPU threads torch uses in this process; None as for `Trainer`."""
    import torch

    if threads is None and (os.cpu_count() or 1) <= _SMALL_MACHINE:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def _silent(_step: int, _steps: int, _loss: float) -> None:
    pass


def _seed_torch(seed: int, site: str, round_number: int) -> None:
    """Fixes the order of blocks and the dropout; neither has to be unpredictable."""
    import torch

    digest = hashlib.sha256(json.dumps([seed, site, round_number]).encode("ascii")).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _loss(network: Any, rows: Blocks) -> Any:
    """The mean loss a token. No attention mask: padding is at the end, where a causal model cannot see it."""
    import torch

    tokens, labels = (torch.from_numpy(part).long().to(network.device) for part in (rows.tokens, rows.labels))
    return network(input_ids=tokens, labels=labels, use_cache=False).loss


def _targets(rows: Blocks) -> int:
    """How many tokens of the rows are predicted; a row's first token never is."""
    return int((rows.labels[:, 1:] != NO_LOSS).sum())


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise TrainingError("the loss is not finite", "lower --learning-rate, or check the data and the model")
    return loss


def _require_fit(model: AdapterModel, blocks: Blocks) -> None:
    """Raises ModelError unless the model can read blocks of this length and these tokens."""
    context = getattr(model.network.config, "max_position_embeddings", None)
    if context is not None and blocks.tokens.shape[1] > context:
        raise ModelError(f"the model reads at most {context} tokens", f"set --sequence-length to {context} or less")
    if blocks.tokens.max() >= model.network.get_input_embeddings().num_embeddings:
        raise ModelError("the tokenizer knows more tokens than the model", "use the model's own tokenizer")
