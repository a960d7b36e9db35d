"""The server's copy of the result, where it may read the sum: a PEFT adapter folder, written without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from fedclient.settings import ALL_LINEAR, LoraSettings
from fedserver.federation import Result
from secagg.initial import FACTOR_A
from secagg.vector import Layout


def save_adapter(folder: Path, result: Result, lora: LoraSettings, model: str) -> None:
    """Writes what `PeftModel.from_pretrained` loads; nothing if only sites can read the sum."""
    if result.adapter is None:
        return
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    config = adapter_config(lora, result.layout, model)
    (beside / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = result.layout.unflatten(result.adapter)
    save_file(tensors, beside / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)


def adapter_config(lora: LoraSettings, layout: Layout, model: str) -> dict[str, Any]:
    """PEFT's configuration of the adapter, from the server's own settings: no site's word goes into it."""
    names = [name.removesuffix(FACTOR_A) for name, _ in layout.tensors if name.endswith(FACTOR_A)]
    linear = sorted({name.rpartition(".")[2] for name in names})
    return {
        "base_model_name_or_path": model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": linear if lora.target_modules == ALL_LINEAR else lora.target_modules.split(","),
        "task_type": "CAUSAL_LM",
    }
