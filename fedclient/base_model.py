"""The frozen base model and its tokenizer: where they are, which bytes they are, and how they are loaded.

Only safetensors weights of architectures that transformers itself ships; never remote code, never pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

from fedclient.settings import LocalError
from secagg.labels import BASE_MODEL, TOKENIZER
from secagg.wire import encode_plain

EMBEDDED_NAME: Final = "embedded"  # what --model calls the small model that is part of the package
EMBEDDED: Final = Path(__file__).parent / "demo" / "base"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_TOKENIZER_FILES: Final = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_NEEDED: Final = ("config.json", "generation_config.json", "model*.safetensors", _INDEX, *_TOKENIZER_FILES)


class ModelError(LocalError):
    """The base model, its tokenizer or the adapter asked of it cannot be used."""

    code = "model"


def resolve_model(name: str) -> Path:
    """The folder of a model: 'embedded', a folder, or a hub id (downloaded unless HF_HUB_OFFLINE is set).

    Raises ModelError.
    """
    if name == EMBEDDED_NAME:
        return EMBEDDED
    if Path(name).is_dir():
        return Path(name).resolve()
    if Path(name).exists() or not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name} is not a folder", "give --model a folder, a hub id or 'embedded'")
    return _download(name)


def _download(hub_id: str) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_NEEDED)))
    except (OSError, ValueError, httpx.HTTPError):
        remedy = "check the name and the network, or give --model a local folder"
        raise ModelError(f"{hub_id} is neither a folder nor a model that can be fetched", remedy) from None


def weight_files(directory: Path) -> list[str]:
    """Names of the files that hold the weights, as transformers would choose them. Raises ModelError."""
    if (directory / _WEIGHTS).is_file():
        return [_WEIGHTS]
    remedy = "save the model with save_pretrained(..., safe_serialization=True)"
    if not (directory / _INDEX).is_file():
        raise ModelError(f"{directory} holds no safetensors weights", remedy)
    try:
        shards = sorted(set(json.loads((directory / _INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{directory / _INDEX} is not a weight index", remedy) from None
    if any(Path(shard).name != shard or not (directory / shard).is_file() for shard in shards):
        raise ModelError(f"{directory / _INDEX} lists weights that are not beside it", "fetch the model again")
    return [*shards, _INDEX]


def base_model_digest(directory: Path) -> bytes:
    """32 bytes that name the base model: its config and weight files, bit by bit.

    SHA-256(BASE_MODEL || CBOR of [file name, SHA-256 of the file] by ascending name). Raises ModelError.
    """
    return _files_digest(BASE_MODEL, directory, ["config.json", *weight_files(directory)])


def tokenizer_digest(directory: Path) -> bytes:
    """32 bytes that name the tokenizer: those of its known files that exist. Raises ModelError."""
    names = [name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not names:
        raise ModelError(f"{directory} holds no tokenizer", "save the tokenizer into the model's folder")
    return _files_digest(TOKENIZER, directory, names)


def _files_digest(label: bytes, directory: Path, names: Iterable[str]) -> bytes:
    try:
        listed = [[name, _file_digest(directory / name)] for name in sorted(names)]
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read", "check that the model's folder is whole") from None
    return hashlib.sha256(label + encode_plain(listed)).digest()


def _file_digest(path: Path) -> bytes:
    found = path.stat()
    return _digest_of(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_of(path: Path, _size: int, _mtime_ns: int) -> bytes:
    """SHA-256 of a file; remembered in this process only, for as long as its size and time stand."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def quiet_libraries() -> None:
    """Keeps transformers' progress bars and notices off stderr; errors still raise."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_tokenizer(directory: Path) -> Any:
    """The transformers tokenizer of a model's folder. Raises ModelError."""
    from transformers import AutoTokenizer

    quiet_libraries()
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{directory} holds no usable tokenizer", "save it with save_pretrained") from error


def load_base(directory: Path, device: str, precision: str) -> Any:
    """The causal LM of a model's folder, on a device. precision: 'float32' or 'bfloat16'. Raises ModelError.

    A model whose files lack weights is refused: transformers would make them up, differently at every site.
    """
    import torch
    from transformers import AutoModelForCausalLM

    weight_files(directory)
    quiet_libraries()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, precision),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        remedy = "use a model that transformers' AutoModelForCausalLM loads"
        raise ModelError(f"{directory} is not a causal language model", remedy) from error
    model, loading = cast("tuple[Any, dict[str, Collection[object]]]", loaded)  # with output_loading_info
    if loading["missing_keys"] or loading["mismatched_keys"]:
        remedy = "use the model that was saved for text generation"
        raise ModelError(f"{directory} lacks weights that a causal language model needs", remedy)
    return model.to(device)
