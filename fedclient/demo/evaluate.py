"""What the demo compares: the base model, each site training alone, and the federated adapter, as JSON.

    python -m fedclient.demo.evaluate federated --data SITES --adapter DIR --out FILE
    python -m fedclient.demo.evaluate alone --data SITES --site cpp [--site yaml] --out FILE

SITES holds <site>/train.jsonl and <site>/test.jsonl, as `fedclient.demo.texts` writes them. Each command is a
process of its own; give each `alone` some of the sites to use several cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fedclient.adapter import AdapterModel
from fedclient.base_model import EMBEDDED_NAME, load_base, load_tokenizer, resolve_model
from fedclient.data import Blocks, DataError, read_records, to_blocks
from fedclient.demo import INITIAL_SEED, LORA, ROUNDS, TRAINING
from fedclient.settings import LocalError, LoraSettings, TrainingSettings
from fedclient.training import EvalOutcome, Trainer, evaluate, limit_threads
from secagg.initial import initial_adapter

_PROMPT_TOKENS: Final = 24
_NEW_TOKENS: Final = 40

Quality = dict[str, Any]  # "union": perplexity; "domains": {site: perplexity}


def held_out_blocks(data: Path, tokenizer: Any, length: int) -> dict[str, Blocks]:
    """Every site's held-out texts, by site. Raises DataError."""
    files = sorted(data.glob("*/test.jsonl"))
    if not files:
        raise DataError(f"{data} holds no <site>/test.jsonl", "write them with python -m fedclient.demo.texts")
    return {file.parent.name: to_blocks(read_records(file), tokenizer, length) for file in files}


def quality(network: Any, held_out: Mapping[str, Blocks]) -> Quality:
    """Perplexity on the union of the held-out texts, and on each site's."""
    found = {site: evaluate(network, blocks) for site, blocks in held_out.items()}
    tokens = sum(outcome.tokens for outcome in found.values())
    loss = sum(outcome.loss * outcome.tokens for outcome in found.values()) / tokens
    union = EvalOutcome(loss, tokens).perplexity
    return {"union": union, "domains": {site: outcome.perplexity for site, outcome in found.items()}}


def continuations(network: Any, tokenizer: Any, held_out: Mapping[str, Blocks]) -> dict[str, dict[str, str]]:
    """What the model writes after the beginning of each site's held-out texts, taking the likeliest token."""
    import torch

    written = {}
    for site, blocks in held_out.items():
        prompt = torch.from_numpy(blocks.tokens[:1, :_PROMPT_TOKENS]).long().to(network.device)
        options = {"max_new_tokens": _NEW_TOKENS, "do_sample": False}
        with torch.inference_mode():
            row = network.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)[0]
        parts = row[:_PROMPT_TOKENS], row[_PROMPT_TOKENS:]
        written[site] = dict(zip(("prompt", "continuation"), map(tokenizer.decode, parts), strict=True))
    return written


def judge_federated(model: str, data: Path, adapter: Path, length: int) -> dict[str, Any]:
    """The base model and the adapter folder on it, loaded as any user of PEFT would."""
    from peft import PeftModel

    directory = resolve_model(model)
    tokenizer = load_tokenizer(directory)
    held_out = held_out_blocks(data, tokenizer, length)
    network = load_base(directory, "cpu", "float32")
    before = quality(network, held_out)
    with warnings.catch_warnings(action="ignore"):
        network = PeftModel.from_pretrained(network, str(adapter), local_files_only=True)
    written = continuations(network, tokenizer, held_out)
    return {"base": before, "federated": quality(network, held_out), "continuations": written}


def judge_alone(model: AdapterModel, data: Path, site: str, settings: TrainingSettings, rounds: int) -> dict[str, Any]:
    """A site that trains alone: the same steps, batches and learning rates as in the federation."""
    started = time.monotonic()
    length = settings.sequence_length
    training = to_blocks(read_records(data / site / "train.jsonl"), model.tokenizer, length)
    trainer = Trainer(model, settings, training, site=site)
    adapter = initial_adapter(model.layout, INITIAL_SEED)
    for round_number in range(1, rounds + 1):
        adapter = adapter + trainer.train(adapter, round_number).update
        print(f"{site} alone: round {round_number} of {rounds}", file=sys.stderr, flush=True)
    model.write(adapter)
    found = quality(model.network, held_out_blocks(data, model.tokenizer, length))
    seconds = round(time.monotonic() - started, 1)
    return found | {"steps": rounds * trainer.steps, "seconds": seconds}


def _settings(path: Path | None) -> tuple[LoraSettings, TrainingSettings]:
    """The settings in a JSON file {"lora": ..., "training": ...}, or the demo's."""
    if path is None:
        return LORA, TRAINING
    plain = json.loads(path.read_text(encoding="utf-8"))
    return LoraSettings.from_plain(plain["lora"]), TrainingSettings.from_plain(plain["training"])


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    federated, alone = commands.add_parser("federated"), commands.add_parser("alone")
    for command in (federated, alone):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--model", default=EMBEDDED_NAME)
        command.add_argument("--settings", type=Path, help="JSON with lora and training; default: the demo's")
    federated.add_argument("--adapter", type=Path, required=True)
    alone.add_argument("--site", action="append", required=True)
    alone.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args(arguments)


def _judge(options: argparse.Namespace) -> dict[str, Any]:
    lora, training = _settings(options.settings)
    if options.command == "federated":
        limit_threads(None)
        return judge_federated(options.model, options.data, options.adapter, training.sequence_length)
    model = AdapterModel.load(options.model, lora)
    found = {site: judge_alone(model, options.data, site, training, options.rounds) for site in options.site}
    return {"alone": found}


def main(arguments: list[str]) -> int:
    """Writes the JSON; 0, or 1 after an error of two lines."""
    options = _parse(arguments)
    try:
        found = _judge(options)
    except LocalError as error:
        print(error.problem, error.remedy, sep="\n", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
