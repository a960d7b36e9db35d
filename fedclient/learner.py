"""A site's real learner: one model loaded once, the site's own texts, rounds of LoRA training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedclient.data import Blocks, Record, read_records, split, to_blocks
from fedclient.settings import LocalError, LoraSettings, TrainingSettings
from fedclient.site import Facts
from secagg.session import Metrics
from secagg.vector import Vector

if TYPE_CHECKING:
    from fedclient.adapter import AdapterModel
    from fedclient.training import Trainer, TrainOutcome

LARGEST_LOSS: Final = 1024.0


@dataclass(frozen=True, slots=True)
class LearnerOptions:
    """What the site's operator chooses and the other sites need not know.

    model: a local copy to use instead of the model that the server names. threads: 0 = chosen.
    precision: of the frozen base, 'float32' or 'bfloat16'; the adapter is float32.
    """

    site: str
    out: Path
    model: str = ""
    device: str = "auto"
    threads: int = 0
    precision: str = "float32"


def load_records(data: Path, eval_data: Path | None, held_out: float) -> tuple[list[Record], list[Record]]:
    """The site's training and held-out records. Raises DataError."""
    records = read_records(data)
    return (records, read_records(eval_data)) if eval_data is not None else split(records, held_out, seed=0)


class LoraLearner:
    """Implements `fedclient.site.Learner` with transformers and peft."""

    def __init__(
        self, options: LearnerOptions, training: Sequence[Record], held_out: Sequence[Record],
        progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    ) -> None:  # fmt: skip
        self._options, self._training, self._held_out, self._progress = options, training, held_out, progress
        self._model: AdapterModel | None = None
        self._trainer: Trainer | None = None
        self._loaded: tuple[str, LoraSettings] | None = None

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Loads the model that the settings name, unless it is loaded already. Raises LocalError."""
        from fedclient.adapter import facts_of
        from fedclient.training import Trainer, limit_threads

        lora = LoraSettings.from_texts(_part(settings, "lora."))
        training = TrainingSettings.from_texts(_part(settings, "training."))
        name = self._options.model or _named_by_server(settings.get("model", ""))
        limit_threads(self._options.threads or None)
        model = self._load(name, lora)
        self._trainer = Trainer(
            model,
            training,
            self._blocks(self._training, training),
            self._blocks(self._held_out, training),
            site=self._options.site,
            threads=self._options.threads or None,
            progress=self._progress,
        )
        return facts_of(model, name, nonce)

    def _load(self, name: str, lora: LoraSettings) -> AdapterModel:
        from fedclient.adapter import AdapterModel

        if self._model is None or self._loaded != (name, lora):
            self._model = AdapterModel.load(name, lora, self._options.device, self._options.precision)
            self._loaded = name, lora
        return self._model

    def _blocks(self, records: Sequence[Record], training: TrainingSettings) -> Blocks:
        if self._model is None:
            raise LocalError("no model is loaded", "start fedclient again")
        return to_blocks(records, self._model.tokenizer, training.sequence_length)

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """Evaluates the round's global adapter on the held-out texts, then trains it. Raises LocalError."""
        if self._trainer is None:
            raise LocalError("no model is loaded", "start fedclient again")
        before = self._trainer.evaluate(adapter)
        outcome = self._trained(self._trainer, adapter, round_)
        metrics = Metrics(
            outcome.examples,
            min(outcome.train_loss, LARGEST_LOSS),
            min(before.loss, LARGEST_LOSS),
            before.tokens,
        )
        return outcome.update, metrics

    @staticmethod
    def _trained(trainer: Trainer, adapter: Vector, round_: int) -> TrainOutcome:
        import torch

        from fedclient.training import TrainingError

        try:
            return trainer.train(adapter, round_)
        except (torch.OutOfMemoryError, MemoryError):
            remedy = "ask for a smaller batch size or sequence length, or use a larger machine"
            raise TrainingError("training ran out of memory", remedy) from None

    def save(self, adapter: Vector) -> None:
        """Writes the PEFT adapter folder. Raises LocalError."""
        if self._model is None:
            raise LocalError("no model is loaded", "start fedclient again")
        try:
            self._model.save(self._options.out, adapter)
        except OSError as error:
            raise LocalError(f"cannot write {self._options.out}: {error.strerror}", "choose another --out") from None


def _named_by_server(name: str) -> str:
    """The embedded model or a hub id. Raises ModelError for a path: the server does not choose local files."""
    from fedclient.base_model import EMBEDDED_NAME, ModelError

    if name != EMBEDDED_NAME and Path(name).exists():
        raise ModelError("the server names a folder as the model", "name this site's own copy with --model DIR")
    return name


def _part(settings: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
