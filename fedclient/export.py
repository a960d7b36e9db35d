"""The adapter where a site stands now, as a PEFT folder: from its own state, without server, key or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fedclient.adapter_folder import CONFIG, save_folder
from fedclient.audit import Fixed
from fedclient.base_model import EMBEDDED, EMBEDDED_NAME
from fedclient.settings import LocalError, LoraSettings
from fedclient.store import KeptSession, StoreError
from secagg.chain import Position
from secagg.config import Manifest
from secagg.vector import Vector, adapter_digest

_LORA: Final = "lora."


class ExportError(LocalError):
    """The adapter that was asked for is not here, or cannot be written there."""

    code = "export"


def export(kept: KeptSession, fixed: Fixed, round_: int, out: Path, model: str = "") -> None:
    """Writes the adapter after `round_`, which must be the last that the site has finished. Raises LocalError.

    model: the base model to name in the folder; as the session names it unless given.
    """
    position, adapter = _now(kept)
    if position.round != round_:
        raise ExportError(
            f"this site has the adapter of round {position.round}, not of round {round_}",
            f"export round {position.round}: a site keeps the adapter of the last round that it has finished, no other",
        )
    layout = fixed.layout
    is_named = adapter.size == layout.size and adapter_digest(layout, adapter) == position.adapter
    if position.session != fixed.manifest.digest() or not is_named:
        raise ExportError(
            f"the adapter in {kept.folder} is not the one that its chain of rounds names",
            "do not use it: the files were altered; get the adapter from another site",
        )
    if out.exists() and not _is_replaceable(out):
        raise ExportError(f"{out} is there and holds no adapter", "choose another --out")
    settings = {each.name: each.value for each in fixed.manifest.settings}
    lora = LoraSettings.from_texts(
        {name.removeprefix(_LORA): value for name, value in settings.items() if name.startswith(_LORA)}
    )
    try:
        save_folder(out, adapter, layout, lora, model or _model_of(fixed.manifest))
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}", "choose another --out") from None


def _now(kept: KeptSession) -> tuple[Position, Vector]:
    try:
        found = kept.position()
    except StoreError:  # a fedclient that is at work may have finished a round in between
        found = kept.position()
    if found is None:
        raise ExportError(f"{kept.folder} has finished no round", "wait for the first one")
    return found


def _is_replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / CONFIG).exists() or not any(out.iterdir()))


def _model_of(manifest: Manifest) -> str:
    """As the server named it; the embedded one by its folder here, as transformers finds it."""
    name = manifest.setting("model")
    return str(EMBEDDED) if name == EMBEDDED_NAME else name
