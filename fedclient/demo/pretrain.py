"""How the embedded base model was made: a 1.1M-parameter Llama, 1,400 steps of 4,096 tokens, 12 CPU minutes.

    python -m fedclient.demo.pretrain TEXTS OUT [--seconds 440]

Stops after --seconds with its state in OUT.ckpt and exit status 3; run it again to go on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

STEPS: Final = 1400
_ROWS: Final = 16
_LENGTH: Final = 256
_RATE: Final = 3e-3
_VOCABULARY: Final = 2048
_END, _PADDING = "<|eos|>", "<|pad|>"


def read_texts(path: Path) -> list[str]:
    """The texts of a JSONL file."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line]


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE that keeps digits apart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [_END, _PADDING]
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, out: Path) -> None:
    """Writes the tokenizer as transformers reads it."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_PADDING, bos_token=_END, model_max_length=512
    ).save_pretrained(out)


def to_stream(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """All texts as one stream of token ids, each after an end token."""
    return np.array([i for text in tokenizer.encode_batch(texts) for i in (0, *text.ids)], np.int32)


def new_model() -> Any:
    """The untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def new_optimiser(model: Any) -> Any:
    """AdamW, with weight decay on matrices only."""
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.95))


def rate_at(step: int) -> float:
    """The learning rate: 100 steps up, then a cosine down to 3%."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS))
    return _RATE * min(1, (step + 1) / 100) * (0.97 * cosine + 0.03)


class Run:
    """A pre-training run that can be stopped and taken up again."""

    def __init__(self, stream: np.ndarray, checkpoint: Path) -> None:
        self.stream, self.checkpoint = stream, checkpoint
        self.model, self.rng, self.step = new_model(), np.random.default_rng(0), 0
        self.optimiser = new_optimiser(self.model)
        if checkpoint.exists():
            self._take_up()

    def _take_up(self) -> None:
        import torch

        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.rng.bit_generator.state = state["step"], state["rng"]

    def pause(self) -> None:
        """Writes everything that a later run needs."""
        import torch

        model, optimiser = self.model.state_dict(), self.optimiser.state_dict()
        rng = self.rng.bit_generator.state
        torch.save({"model": model, "optimiser": optimiser, "step": self.step, "rng": rng}, self.checkpoint)

    def advance(self) -> None:
        """One step; matrix products in bfloat16."""
        import torch

        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step)
        starts = self.rng.integers(0, len(self.stream) - _LENGTH, _ROWS)
        rows = np.stack([self.stream[start : start + _LENGTH] for start in starts]).astype(np.int64)
        tokens = torch.from_numpy(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % 100 == 0:
            print(f"step {self.step} of {STEPS}, loss {loss.item():.3f}", file=sys.stderr, flush=True)


def perplexity(model: Any, stream: np.ndarray) -> float:
    """exp of the mean loss over whole rows of a stream."""
    import torch

    model.eval()
    rows = stream[: len(stream) // _LENGTH * _LENGTH].reshape(-1, _LENGTH)
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), 32):
            tokens = torch.from_numpy(rows[start : start + 32].astype(np.int64))
            total += model(input_ids=tokens, labels=tokens).loss.item() * len(tokens)
    return math.exp(total / len(rows))


def main() -> int:
    """Trains, or goes on training; 0 when the model is written, 3 when time ran out first."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    training = read_texts(options.texts / "train.jsonl")
    tokenizer = train_tokenizer(training)
    save_tokenizer(tokenizer, options.out)
    run = Run(to_stream(tokenizer, training), options.out.with_suffix(".ckpt"))
    run.model.train()
    until = time.monotonic() + options.seconds
    while run.step < STEPS:
        run.advance()
        if time.monotonic() > until and run.step < STEPS:
            run.pause()
            return 3
    held_out = to_stream(tokenizer, read_texts(options.texts / "test.jsonl"))
    print(f"held-out perplexity {perplexity(run.model, held_out):.1f}")
    run.model.generation_config.pad_token_id = 1
    run.model.to(torch.float16).save_pretrained(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
