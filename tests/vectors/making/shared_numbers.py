"""Slots and words of ckks-shared mode (spec §21.4, §21.5)."""

from __future__ import annotations

from secagg.ckks_shared.params import PRIME, Packing
from tests.vectors import shared_core
from tests.vectors.form import Json, bad, case_file, file, good

ROWS = [  # bits, sites, weight cap, size: from one field to six; a slot and a ciphertext filled to the end, and passed
    (8, 3, 1, 9), (8, 16, 1, 7), (8, 100, 1, 2), (4, 3, 1, 20), (16, 100, 1, 3), (20, 100, 40, 5),
    (8, 16, 1, 6093), (8, 16, 1, 6094), (8, 16, 1, 12_235), (16, 16, 1, 9000),
]  # fmt: skip
TALLY = ["1", "1", "3", "294912", "7", "917504", "0", str((1 << 52) - 1)]
RULE = "(j^2 x 1000003 + j x 12345678910111 + 77) mod 2^59"


def slots() -> Json:
    cases = []
    for bits, sites, weight_cap, size in ROWS:
        most = Packing(bits, sites, weight_cap, size).most_value
        inputs = {
            "bits": bits, "sites": sites, "weight_cap": weight_cap, "size": size, "tally": TALLY,
            "values_by_rule": f"(7919 j + 3) mod {most + 1}",
        }  # fmt: skip
        name = f"{bits} bits, {sites} sites, weights up to {weight_cap}, {size} values"
        cases.append(good(name, inputs, shared_core.slots(inputs)))
    about = (
        "Weighted levels and tally words to the slots of a site's ciphertexts, one after the other: the first 24, and "
        "the digest of all as 8-byte little-endian integers in two's complement."
    )
    return file(about, "21.4", "shared slots", cases)


def words() -> Json:
    common: Json = {"size": 2 * 8192, "residues_by_rule": RULE}
    ends = [[0, str(PRIME - 1)], [8191, str(PRIME - 1)], [7680, str(PRIME - 1)], [8192, "0"]]
    given = {"two ciphertexts": [], "the largest residues": ends}
    cases = []
    for name, changed in given.items():
        inputs = {**common, "changed": changed}
        cases.append(good(name, inputs, shared_core.words(inputs)))
    for index in (0, 7680, 16383):
        inputs = {**common, "changed": [[index, str(PRIME)]]}
        cases.append(bad(f"residue {index} is the modulus", inputs, "malformed"))
    about = (
        "The residues of two ciphertexts to words, and the words of their sum with themselves; `changed` are the "
        "residues that are others. Reading one that is not below q is malformed."
    )
    return case_file(about, "21.5", cases, "shared words")
