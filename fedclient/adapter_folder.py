"""The folder that `PeftModel.from_pretrained` loads, written from the adapter's values without torch."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save_file

from fedclient.settings import ALL_LINEAR, LoraSettings
from secagg.initial import FACTOR_A
from secagg.vector import Layout, Vector

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def save_folder(folder: Path, values: Vector, layout: Layout, lora: LoraSettings, model: str) -> None:
    """Writes the adapter's folder, or replaces it; it appears under its name only when it is whole. Raises OSError."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        whole = Path(beside) / "whole"
        whole.mkdir()
        config = adapter_config(lora, layout, model)
        (whole / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(layout.unflatten(values), whole / WEIGHTS, metadata={"format": "pt"})
        if folder.exists():
            folder.rename(Path(beside) / "replaced")
        whole.rename(folder)


def adapter_config(lora: LoraSettings, layout: Layout, model: str) -> dict[str, Any]:
    """PEFT's configuration of the adapter, from the session's settings and tensors alone."""
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
