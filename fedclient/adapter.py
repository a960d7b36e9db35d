"""The LoRA adapter as one flat vector: read from the model, written to it, made from a seed, saved."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

from fedclient.base_model import (
    EMBEDDED_NAME,
    ModelError,
    base_model_digest,
    load_base,
    load_tokenizer,
    resolve_model,
    tokenizer_digest,
)
from fedclient.settings import ALL_LINEAR, LoraSettings
from fedclient.site import Facts
from secagg.initial import FACTOR_A as _A
from secagg.initial import FACTOR_B as _B
from secagg.initial import initial_adapter
from secagg.vector import Layout, Vector

_NAME: Final = "default"  # PEFT's name of its only adapter


class AdapterModel:
    """A frozen base model with one LoRA adapter in it, in float32 whatever the base's precision.

    network: the PeftModel. layout: the adapter's tensors by ascending PEFT state-dict name.
    """

    def __init__(self, base: Any, tokenizer: Any, lora: LoraSettings, name_or_path: str) -> None:
        self.network = wrap(base, lora, name_or_path)
        self.tokenizer = tokenizer
        self.lora = lora
        self.layout = layout_of(self.network)

    @classmethod
    def load(cls, name: str, lora: LoraSettings, device: str = "cpu", precision: str = "float32") -> AdapterModel:
        """The named base model with a fresh adapter. name: as `resolve_model` takes it. Raises ModelError."""
        directory = resolve_model(name)
        base = load_base(directory, choose_device(device), precision)
        is_local = name == EMBEDDED_NAME or Path(name).is_dir()
        return cls(base, load_tokenizer(directory), lora, str(directory) if is_local else name)

    def read(self) -> Vector:
        """The adapter's values now, float32 (d,)."""
        state = _state(self.network)
        return self.layout.flatten({name: tensor.float().cpu().numpy() for name, tensor in state.items()})

    def write(self, values: Vector) -> None:
        """Replaces the adapter's values. values: float32 (d,). Raises Misuse for another shape or dtype."""
        import torch
        from peft import set_peft_model_state_dict

        tensors = {name: torch.tensor(part) for name, part in self.layout.unflatten(values).items()}
        set_peft_model_state_dict(self.network, tensors)

    def save(self, directory: Path, values: Vector) -> None:
        """Writes these values as a folder that `PeftModel.from_pretrained` loads; replaces it if it exists.

        The folder appears under its name only when it is whole.
        """
        self.write(values)
        directory = directory.absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as beside:
            whole = Path(beside) / "whole"
            self.network.save_pretrained(str(whole), save_embedding_layers=False)
            (whole / "README.md").unlink(missing_ok=True)  # PEFT's model card is a form to fill in
            if directory.exists():
                directory.rename(Path(beside) / "replaced")
            whole.rename(directory)


def choose_device(device: str) -> str:
    """'cpu' or 'cuda' as asked; 'auto' takes cuda where there is one. Raises ModelError."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("no CUDA device is available", "use --device cpu or --device auto")
    return device


def wrap(base: Any, lora: LoraSettings, name_or_path: str) -> Any:
    """The base model wrapped in a LoRA adapter by PEFT. Raises ModelError if no module fits."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.error import NoMatchingPeftModuleError

    named = lora.target_modules
    config = LoraConfig(
        base_model_name_or_path=name_or_path,
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=named if named == ALL_LINEAR else named.split(","),
    )
    try:
        with warnings.catch_warnings(action="ignore"):
            network = get_peft_model(base, config)
    except (ValueError, NoMatchingPeftModuleError) as error:
        problem = f"target_modules {named} fits no linear layer of the model"
        raise ModelError(problem, "use all-linear, or names such as q_proj,v_proj") from error
    config.target_modules = sorted(config.target_modules or ())  # a set would be saved in another order every time
    return network


def _state(network: Any) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    state: dict[str, Any] = get_peft_model_state_dict(network, save_embedding_layers=False)
    return state


def layout_of(network: Any) -> Layout:
    """The layout of a PeftModel's adapter. Raises ModelError unless it consists of LoRA factors A and B."""
    layout = Layout(tuple(sorted((name, tuple(tensor.shape)) for name, tensor in _state(network).items())))
    _require_factors(layout)
    return layout


def _require_factors(layout: Layout) -> None:
    if not all(name.endswith((_A, _B)) for name, _ in layout.tensors):
        raise ModelError("target_modules names a module that is not linear", "use all-linear, or linear layers")


def facts_of(model: AdapterModel, name: str, nonce: bytes) -> Facts:
    """What the site says of a loaded model; nothing in it is local. Raises ModelError."""
    directory = resolve_model(name)
    return Facts(
        base_model=base_model_digest(directory),
        tokenizer=tokenizer_digest(directory),
        lora_config=model.lora.digest(),
        layout=model.layout,
        initial_values=initial_adapter(model.layout, nonce),
    )
