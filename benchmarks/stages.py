"""Which functions make which stage, for every scheme. A new scheme is one entry in PARTS.

Every moment of a watched round belongs to a stage: that of the innermost function listed here, or else what BASE says
of the phase. So the stages of a role add up to its whole work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Table = Mapping[str, Mapping[str, str]]  # function -> role -> stage

# What a phase's work is where no function below says otherwise: signatures, encoding, checks of the phase's messages.
BASE: Final[Mapping[tuple[str, str], str]] = {
    ("site", "advertise"): "keys",
    ("site", "share"): "shares",
    ("site", "mask"): "frame",
    ("site", "consent"): "check",
    ("site", "unmask"): "check",
    ("site", "check"): "check",
    ("asks", "advertise"): "keys",  # the server makes the phase's requests
    ("asks", "share"): "keys",
    ("asks", "mask"): "shares",
    ("asks", "consent"): "check",
    ("asks", "unmask"): "check",
    ("asks", "check"): "check",
    ("server", "advertise"): "keys",
    ("server", "share"): "shares",
    ("server", "mask"): "add",
    ("server", "consent"): "check",
    ("server", "unmask"): "unmask",
    ("server", "check"): "check",
}
DEFAULT: Final = {"site": "frame", "asks": "frame", "server": "add"}  # of a phase that is not listed

_CODEC: Final[Table] = {
    "benchmarks.watched:encode_packet": {"site": "frame", "server": "frame"},
    "benchmarks.watched:decode_packet": {"site": "frame", "server": "frame"},
}
_QUANTISER: Final[Table] = {
    "secagg.quantize.quantizer:Quantizer.levels": {"site": "quantise"},
    "secagg.quantize.blocks:Blocks.__next__": {"site": "quantise"},
    "secagg.quantize.levels:Levels.weighted": {"site": "quantise"},
    "secagg.quantize.quantizer:Quantizer.open": {"open": "dequantise"},
    "secagg.quantize.quantizer:Quantizer.open_sums": {"open": "dequantise"},
}
_MASKED: Final[Table] = {
    **{
        f"secagg.masked.client:{name}": {"site": "keys"}
        for name in ("public_key", "load", "agree", "box_key", "neighbour_seeds", "self_seed", "require_adverts")
    },
    **{
        f"secagg.masked.client:{name}": {"site": "shares"} for name in ("split", "seal", "unseal", "require_statements")
    },
    "secagg.masked.masks:Masks.__init__": {"site": "protect"},
    "secagg.masked.masks:Masks.apply": {"site": "protect"},
    "secagg.masked.server:require_advert": {"server": "keys"},
    "secagg.masked.opening:require_record": {"open": "check"},
    "secagg.masked.opening:sum_words_digest": {"open": "check"},
    "secagg.masked.opening:require_projections": {"open": "check"},
    "secagg.masked.opening:project_rest": {"open": "check"},
}
_CKKS: Final[Table] = {
    **{
        f"secagg.ckks.client:{name}": {"site": "keys"}
        for name in ("public_key", "load", "agree", "derive", "require_blind_adverts")
    },
    **{f"secagg.ckks.client:{name}": {"site": "shares"} for name in ("seal", "unseal", "blind_commitment")},
    **{
        f"secagg.ckks.payload:{name}": {"site": "protect"}
        for name in ("encrypt", "blind", "key_words", "one_time_key", "update_digest", "hedged_seed")
    },
    "secagg.ckks.opening:decrypt": {"open": "open"},
}
_CKKS_SHARED: Final[Table] = {
    "secagg.ckks_shared.client:require_opened": {"site": "check"},
    "secagg.ckks_shared.client:encrypt": {"site": "protect"},
    "secagg.ckks_shared.server:require_contribution": {"server": "check"},
    **{f"secagg.ckks_shared.opening:{name}": {"open": "check"} for name in ("require_record", "_sum_of", "_secret")},
    "secagg.ckks_shared.opening:Decrypted": {"open": "open"},
    "secagg.ckks_shared.payload:_cut": {"open": "open"},
}
_EVERYBODYS: Final[Table] = {**_CODEC, **_QUANTISER}

PARTS: Final[Mapping[str, Table]] = {
    "masked": {**_EVERYBODYS, **_MASKED},
    "ckks": {**_EVERYBODYS, **_MASKED, **_CKKS},
    "ckks-shared": {**_EVERYBODYS, **_CKKS_SHARED},
}
# Classes whose objects have a `process` that works for whoever made it.
WORKERS: Final[Mapping[str, str]] = {"ckks-shared": "secagg.ckks_shared.workers:Worker"}


def parts_of(scheme: str) -> Table:
    """The scheme's functions; of a scheme that is not listed, the quantiser's and the messages' alone."""
    return PARTS.get(scheme, _EVERYBODYS)


def base(side: str, phase: str) -> str:
    """side: "site", "asks" (the server, requests), or "server" (the server, replies)."""
    return BASE.get((side, phase), DEFAULT[side])
