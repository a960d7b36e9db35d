"""The model table counts what transformers, PEFT and the schemes themselves count, and says where it extrapolates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.models import MODELS, SITES, TARGETS, VECTORS, Fit, adapter_size, costs_in, model_table, site_terms
from benchmarks.records import Record
from benchmarks.watched import play
from secagg.ckks.params import choose

BY_NAME = {each.name: each for each in MODELS}
GQA = {"hidden_size": "hidden", "num_hidden_layers": "layers", "intermediate_size": "intermediate"}


def made_on_meta(name: str) -> Any:
    """The whole model, as its config.json makes it, without a weight."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape = BY_NAME[name]
    if name == "GPT-2":
        config = transformers.GPT2Config()
        assert (config.n_embd, config.n_layer) == (shape.hidden, shape.layers)
    else:
        common = {theirs: getattr(shape, ours) for theirs, ours in GQA.items()}
        heads = {
            "Qwen2.5-0.5B": {"num_attention_heads": 14, "num_key_value_heads": 2},
            "Qwen2.5-7B": {"num_attention_heads": 28, "num_key_value_heads": 4},
            "Llama-3-8B": {"num_attention_heads": 32, "num_key_value_heads": 8},
            "Llama-3-70B": {"num_attention_heads": 64, "num_key_value_heads": 8},
        }[name]
        words = {"Qwen2.5-0.5B": 151_936, "Qwen2.5-7B": 152_064}.get(name, 128_256)
        kind = transformers.Qwen2Config if name.startswith("Qwen") else transformers.LlamaConfig
        config = kind(**common, **heads, vocab_size=words, tie_word_embeddings=name == "Qwen2.5-0.5B")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", ["GPT-2", "Qwen2.5-0.5B", "Qwen2.5-7B", "Llama-3-8B"])
def test_a_model_has_its_published_number_of_parameters(name: str) -> None:
    model = made_on_meta(name)
    assert sum(each.numel() for each in model.parameters()) == BY_NAME[name].parameters


def test_llama_3_70b_is_one_block_80_times_over() -> None:
    """Its blocks are counted here, for 70 billion meta parameters take a while to make."""
    shape = BY_NAME["Llama-3-70B"]
    block = sum(inputs * outputs for inputs, outputs in TARGETS["all-linear"](shape)) + 2 * shape.hidden
    assert shape.layers * block + (2 * 128_256 + 1) * shape.hidden == shape.parameters


@pytest.mark.parametrize(
    ("name", "rank", "targets", "modules"),
    [
        ("GPT-2", 8, "all-linear", "all-linear"),
        ("GPT-2", 16, "attention", r".*attn\.c_(attn|proj)"),
        ("Qwen2.5-0.5B", 16, "all-linear", "all-linear"),
        ("Qwen2.5-0.5B", 64, "attention", r".*self_attn\.[qkvo]_proj"),
    ],
)
def test_an_adapter_has_as_many_values_as_peft_makes(name: str, rank: int, targets: str, modules: str) -> None:
    peft = pytest.importorskip("peft")
    fan = {"fan_in_fan_out": True} if name == "GPT-2" else {}
    config = peft.LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM", **fan)
    adapted = peft.get_peft_model(made_on_meta(name), config)
    made = sum(each.numel() for key, each in adapted.named_parameters() if "lora_" in key)
    assert adapter_size(BY_NAME[name], rank, targets) == made


@pytest.mark.parametrize("scheme", sorted(VECTORS))
@pytest.mark.parametrize("bits", [8, 12])
def test_the_vectors_are_as_long_as_real_ones(scheme: str, bits: int) -> None:
    """Messages beside the vectors do not depend on the adapter, so rounds of two sizes differ by their vectors."""
    n, sizes = 5, (1_000, 30_000)
    small, large = (play(scheme, n, size, bits) for size in sizes)
    (up, down), (more_up, more_down) = (VECTORS[scheme](size, n, bits) for size in sizes)
    assert large.up - small.up == 8 * (more_up - up)
    assert large.down - small.down == 8 * (more_down - down)


def test_the_ring_is_the_one_that_a_session_chooses() -> None:
    from benchmarks.models import ring

    for size, n, bits in ((1_000, 3, 8), (5_000_000, 100, 12), (1 << 29, 20, 16)):
        assert ring(size, n, bits) == choose(bits, n, 1, size)


def records_of(law: Any, scheme: str = "masked", bits: int = 8, sizes: Sequence[int] = (1000, 5000)) -> list[Record]:
    """Totals of all roles in which everything follows one law of size and sites."""
    found = []
    for size in sizes:
        for n in (3, 10, 30):
            setting = {"family": "total", "scheme": scheme, "values": size, "sites": n, "bits": bits}
            up, down = (8 * words + 100 * n + 7 for words in VECTORS[scheme](size, n, bits))
            seconds = (law(size, n),) * 3
            found += [Record(**setting, role=role, cpu_s=seconds) for role in ("server", "open")]
            found.append(Record(**setting, role="site", cpu_s=seconds, bytes_up=up, bytes_down=down))
    return found


def test_a_law_of_the_terms_is_found_again_where_nothing_was_run() -> None:
    def law(size: int, n: int) -> float:
        return 1e-3 + 2e-4 * n + 3e-8 * size + 4e-10 * size * n

    [costs] = costs_in(records_of(law))
    row = costs.row(40_000_000, 100)
    assert row["server_cpu_s"] == pytest.approx(law(40_000_000, 100), rel=1e-6)
    assert row["site_cpu_s"] == pytest.approx(2 * law(40_000_000, 100), rel=1e-6)
    assert row["bytes_up"] == 8 * VECTORS["masked"](40_000_000, 100, 8)[0] + 100 * 100 + 7
    assert row["extrapolated"]
    assert not costs.row(1000, 10)["extrapolated"]


def test_no_fitted_factor_is_below_zero() -> None:
    """Noise must not make a larger adapter cheaper."""
    noise = np.random.default_rng(1)
    measured = {(size, n): float(noise.uniform(0.5, 1.5)) for size in (10**5, 10**6) for n in (3, 10, 30, 100)}
    fit = Fit.of(site_terms, measured)
    assert min(fit.factors) >= 0
    assert max(fit.factors) > 0


def test_the_table_has_a_row_for_every_adapter_scheme_and_number_of_sites() -> None:
    records = records_of(lambda size, n: 1e-8 * size, "masked") + records_of(lambda size, n: 2e-8 * size, "ckks")
    table = model_table(records)
    assert len(table) == 5 * 2 * 3 * 2 * len(SITES)
    assert all(row["extrapolated"] for row in table)
    assert {row["sites"] for row in table if not row["fits"]} == {1000, *SITES}
    assert {row["values"] for row in table if not row["fits"] and row["sites"] <= 100} == {
        adapter_size(BY_NAME["Llama-3-70B"], 64, "all-linear")
    }
    for row in table:
        seconds = row["site_cpu_s"] + row["server_cpu_s"]
        assert row["share_10_min"] == pytest.approx(seconds / (600 + seconds))
        assert row["share_1_min"] > row["share_10_min"] > row["share_60_min"] > 0


def test_a_scheme_that_was_not_measured_whole_is_left_out() -> None:
    records = [each for each in records_of(lambda size, n: 1e-8 * size) if each.role != "server"]
    assert model_table(records) == []
