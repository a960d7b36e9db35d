"""How the forms of ckks-shared mode are computed by secagg (spec §21.4, §21.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from secagg.ckks_shared import frames
from secagg.ckks_shared.params import SLOTS, Packing
from secagg.ckks_shared.payload import piece_values, slots_of
from tests.vectors import form
from tests.vectors.form import Json

SHOWN = 24


def level(j: int, most: int) -> int:
    """Entry j of the values that cases give by rule."""
    return (7919 * j + 3) % (most + 1)


def residue(j: int) -> int:
    """Entry j of the residues that cases give by rule, below 2^59."""
    return (j * j * 1000003 + j * 12345678910111 + 77) % 2**59


def slots(inputs: Json) -> Json:
    """A site's slots, ciphertext by ciphertext."""
    packing = Packing(inputs["bits"], inputs["sites"], inputs["weight_cap"], inputs["size"])
    values = np.array([level(j, packing.most_value) for j in range(packing.size)], np.uint32)
    step = piece_values(packing)
    pieces = [values[start : start + step] for start in range(0, packing.size, step)]
    tally = np.array([int(word) for word in inputs["tally"]], np.uint64)
    *rest, first = slots_of(packing, pieces, lambda: tally)
    whole = np.frombuffer(b"".join((first, *rest)), "<i8")
    assert whole.size == SLOTS * packing.ciphertexts
    return {
        "field_bits": packing.field_bits, "fields": packing.fields, "centre": packing.centre,
        "ciphertexts": packing.ciphertexts, "words": packing.words, "slots_begin": whole[:SHOWN].tolist(),
        "slots_sha256": hashlib.sha256(whole.tobytes()).hexdigest(),
    }  # fmt: skip


def words(inputs: Json) -> Json:
    """Residues as words, and twice them as a sum."""
    residues = [residue(j) for j in range(inputs["size"])]
    for index, value in inputs["changed"]:
        residues[index] = int(value)
    made = frames.pack(np.array(residues, np.uint64).reshape(-1, frames.RESIDUES))
    frames.require_residues(made)
    total = made.copy()
    frames.add(total, made)
    return {
        "words_begin": form.words(made[:SHOWN]), "words_sha256": hashlib.sha256(made.tobytes()).hexdigest(),
        "sum_begin": form.words(total[:SHOWN]), "sum_sha256": hashlib.sha256(total.tobytes()).hexdigest(),
    }  # fmt: skip


FORMS: Mapping[str, Callable[[Json], Json]] = {"shared slots": slots, "shared words": words}
