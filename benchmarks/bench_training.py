"""One optimiser step of local training: what a site's own work is, for what protection adds to stand beside.

The embedded model on the CPU; with a CUDA device, decoders of known shapes on it, their weights random and bfloat16,
since a step's time does not depend on what the weights are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import Spread, tell
from benchmarks.models import MODELS, Model
from benchmarks.profile import of_profile
from benchmarks.records import Record
from fedclient.adapter import AdapterModel
from fedclient.base_model import EMBEDDED_NAME
from fedclient.data import Blocks
from fedclient.demo import LORA, TRAINING

RANK: Final = 16
BATCH, LENGTH = 8, 512  # of the shapes on a CUDA device
VOCABULARY: Final = 32_000
BYTES_A_PARAMETER: Final = 3  # bfloat16 weights, and room for activations, adapter and optimiser


def test_astep_of_the_embedded_model(benchmark: BenchmarkFixture) -> None:
    model = AdapterModel.load(EMBEDDED_NAME, LORA)
    words = model.network.get_input_embeddings().num_embeddings
    step = step_of(model.network, words, TRAINING.batch_size, TRAINING.sequence_length)
    what = f"embedded model, CPU, batch {TRAINING.batch_size} x {TRAINING.sequence_length} tokens"
    _measure(benchmark, "embedded", step, model.layout.size, what, lambda: None)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shape", MODELS, ids=lambda shape: shape.name)
def test_a_step_on_a_cuda_device(benchmark: BenchmarkFixture, shape: Model) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    free, _ = torch.cuda.mem_get_info()
    if free < BYTES_A_PARAMETER * shape.parameters:
        pytest.skip(f"{free / 1e9:.0f} GB of free device memory are too few for {shape.name}")
    network = decoder(shape, "cuda")
    size = sum(each.numel() for each in network.parameters() if each.requires_grad)
    step = step_of(network, VOCABULARY, BATCH, LENGTH)
    device = torch.cuda.get_device_name()
    what = f"a Llama-like decoder as wide and deep as {shape.name}, rank {RANK}, all linear layers, {device}, bfloat16"
    what += f", batch {BATCH} x {LENGTH} tokens"
    _measure(benchmark, shape.name, step, size, what, torch.cuda.synchronize)


def decoder(shape: Model, device: str) -> Any:
    """A Llama-like decoder of these widths with an adapter, its vocabulary cut: the shape's blocks are what counts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    head = 64 if shape.query % 128 or shape.hidden < 2048 else 128
    config = LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, intermediate_size=shape.intermediate,
        num_attention_heads=shape.query // head, num_key_value_heads=shape.key_value // head, vocab_size=VOCABULARY,
    )  # fmt: skip
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return get_peft_model(network, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))


def step_of(network: Any, words: int, batch: int, length: int) -> Callable[[], None]:
    """One forward and backward pass and one step of the optimiser, on the same random tokens every time."""
    import torch

    network.train()
    tokens = np.random.default_rng(0).integers(0, words, (batch, length))
    rows = Blocks(tokens.astype(np.int32), tokens.astype(np.int32))
    parameters = [each for each in network.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    inputs, labels = (torch.from_numpy(part).long().to(network.device) for part in (rows.tokens, rows.labels))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        network(input_ids=inputs, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def _measure(
    benchmark: BenchmarkFixture, name: str, step: Callable[[], None], size: int, what: str, wait: Callable[[], None]
) -> None:
    """Times steps after one that warms up. wait: returns once the device has done what it was given."""
    taken: list[tuple[float, float]] = []

    def timed() -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        wait()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))

    repetitions = of_profile(5, 20)
    benchmark.pedantic(timed, rounds=repetitions, warmup_rounds=1)
    cpu, wall = zip(*taken[-repetitions:], strict=True)
    record = Record(family="training", role="site", stage=name, values=size, cpu_s=cpu, wall_s=wall, note=what)
    tell(benchmark, f"a training step, {what}: {Spread.of(wall).show('ms', 1e3)}", record)
