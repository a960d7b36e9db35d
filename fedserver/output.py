"""The server's copy of the result, where it may read the sum: a PEFT adapter folder, written without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.numpy import save_file

from fedserver.federation import Result


def save_adapter(folder: Path, result: Result) -> None:
    """Writes what `PeftModel.from_pretrained` loads; nothing if only sites can read the sum."""
    if result.adapter is None:
        return
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    config = json.loads(result.adapter_config) | {"inference_mode": True}
    (beside / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = result.layout.unflatten(result.adapter)
    save_file(tensors, beside / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)
