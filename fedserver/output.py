"""The server's copy of the result, where it may read the sum."""

from __future__ import annotations

from pathlib import Path

from fedclient.adapter_folder import save_folder
from fedclient.settings import LoraSettings
from fedserver.federation import Result


def save_adapter(folder: Path, result: Result, lora: LoraSettings, model: str) -> None:
    """Writes what `PeftModel.from_pretrained` loads, by the server's own settings; nothing if only sites can read."""
    if result.adapter is not None:
        save_folder(folder, result.adapter, result.layout, lora, model)
