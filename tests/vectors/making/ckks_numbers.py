"""Rings, sampling, blocks, tails and sums of ckks mode (spec §13.4, §13.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from secagg.ckks.params import RingParams, choose, noise_bound
from secagg.ckks.payload import KeyAndCiphertext
from secagg.ckks.sampling import errors
from tests.vectors import ckks_core, form
from tests.vectors.form import Json, bad, case_file, drawn, file, good
from tests.vectors.scene import Session

SMALL = Session(3, scheme="ckks")
BOUNDARIES = {  # bits, sites, weight cap: the sizes at which another ring is chosen
    (4, 3, 1): (3, 5, 9, 47, 122_893),
    (8, 3, 1): (8, 73_907),
    (8, 5, 3): (11, 13, 17, 38, 41, 61_443),
    (12, 20, 10): (44_234,),
    (16, 100, 100): (5_990, 397_008),
    (20, 100, 1024): (2_688, 207_637),
}
USUAL = [(8, 5, 1, 36_864), (8, 10, 1, 294_912), (8, 20, 16, 10_000_000), (12, 33, 1, 1 << 29), (10, 64, 255, 1 << 20)]
EDGES = [(4, 3, 71_582_788, 1000), (20, 3, 1024, 1000), (4, 100, 71_582_788, 1 << 29), (4, 3, 1, 1)]
TOO_LARGE = [(4, 3, 71_582_789, 1000), (20, 3, 1025, 1000), (12, 100, 1 << 28, 1)]


def _ring(bits: int, sites: int, weight_cap: int, size: int) -> Json:
    return {"bits": bits, "sites": sites, "weight_cap": weight_cap, "size": size}


def _named(bits: int, sites: int, weight_cap: int, size: int) -> str:
    return f"{bits} bits, {sites} sites, weights up to {weight_cap}, {size} values"


def _made(form_name: str, name: str, inputs: Json) -> Json:
    return good(name, inputs, ckks_core.FORMS[form_name](inputs))


def parameters() -> Json:
    rows = [(*numbers, size) for numbers, sizes in BOUNDARIES.items() for at in sizes for size in (at - 1, at)]
    rows += [*USUAL, *EDGES, *_around_blocks()]
    cases = [_made("ckks ring", _named(*row), _ring(*row)) for row in dict.fromkeys(rows)]
    cases += [bad(_named(*row), _ring(*row), "misuse") for row in TOO_LARGE]
    about = (
        "The ring that a session's numbers choose, on both sides of every size at which another one is. primes: in "
        "their order. q_bits: bit length of q. bound: of n sites. key_bits, key_words: of the one-time key. bytes: "
        "what the choice makes small, before the factor."
    )
    return file(about, "13.4", "ckks ring", cases)


def _around_blocks() -> list[tuple[int, int, int, int]]:
    """Sizes at which d + C fills coefficients and blocks exactly, and one more."""
    rows = []
    for bits, sites, weight_cap, size in ((8, 3, 1, 60_000), (8, 5, 1, 100_000), (16, 100, 100, 400_000)):
        params = choose(bits, sites, weight_cap, size)
        whole = params.block_values * (params.blocks - 1) - 8
        assert params.blocks > 1
        rows += [(bits, sites, weight_cap, each) for each in (whole, whole + 1, whole + 1 + params.fields)]
    return rows


def roots() -> Json:
    rows = ((4096, 3), (8192, 8), (16384, 17))
    cases = [_made("ckks roots", f"N = {n}", {"N": n, "count": count}) for n, count in rows]
    about = "The primes of every ring, in their order, and psi for each: the least primitive 2N-th root of unity."
    return file(about, "13.4", "ckks roots", cases)


def sampling() -> Json:
    h0, seed, tail_seed = drawn("ckks", "h0"), drawn("ckks", "seed", count=64), drawn("ckks", "tail", count=48)
    update = {"what": "hedged seed", "h0": h0.hex(), "drawn": drawn("ckks", "r").hex()}
    values = form.floats(np.array([0.5, -0.25, 1.5, -0.0, 3e-8], np.float32))
    others = {"another place": {"place": 4}, "another weight": {"weight": 2}, "another value": {"values": "00" * 20}}
    usual = {**update, "place": 3, "weight": 1, "values": values}
    cases = [_made("ckks sampling", "hedged seed", usual)]
    cases += [_made("ckks sampling", f"hedged seed, {name}", {**usual, **each}) for name, each in others.items()]
    for n in (4096, 8192, 16384):
        key = {"what": "key", "seed": seed.hex(), "count": n}
        cases.append(_made("ckks sampling", f"key, N = {n}", key))
    for block, count in ((0, 4096), (0, 5), (1, 1810), (65_536, 16)):
        each = {"what": "errors", "seed": seed.hex(), "block": block, "count": count}
        cases.append(_made("ckks sampling", f"errors, block {block}, {count} values", each))
    for row, block in (
        ((8, 3, 1, 24), 0),
        ((8, 3, 1, 60_000), 2),
        ((8, 5, 3, 200_000), 1),
        ((16, 100, 100, 400_000), 1),
    ):
        ring = {**_ring(*row), "block": block}
        public = {"what": "public element", "h0": h0.hex(), **ring}
        cases.append(_made("ckks sampling", f"public element, {_named(*row)}, block {block}", public))
        self_mask = {"what": "self-mask", "tail_seed": tail_seed.hex(), **ring}
        cases.append(_made("ckks sampling", f"self-mask, {_named(*row)}, block {block}", self_mask))
    about = (
        "What follows from seeds. key, errors: the first 16 values, and SHA-256 of all, a byte each in two's "
        "complement. public element, self-mask: the first 4 residues of every prime, and SHA-256 of all, prime after "
        "prime, 4 bytes each, little-endian; of a self-mask as many as the block has coefficients."
    )
    return file(about, "13.4", "ckks sampling", cases)


def encryption() -> Json:
    cases = []
    rows = (
        ((8, 3, 1, 24), 1, 0), ((8, 3, 1, 60_000), 1, 0), ((8, 3, 1, 60_000), 1, 2), ((8, 5, 3, 200_000), 3, 1),
        ((16, 100, 100, 400_000), 100, 1),
    )  # fmt: skip
    for row, weight, block in rows:
        inputs = {
            **_ring(*row), "weight": weight, "block": block, "h0": drawn("ckks", "h0").hex(),
            "seed": drawn("ckks", "seed", count=64).hex(), "levels_by_rule": f"(7919 j + 3) mod {1 << row[0]}",
        }  # fmt: skip
        cases.append(_made("ckks encryption", f"{_named(*row)}, block {block}", inputs))
    about = (
        "One block of a vector whose levels, before the weight, follow the rule. plain: m_k; ciphertext: c_k before "
        "the self-mask; residues as in sampling.json. key_words: of s + 64, the first 4 and SHA-256 of all."
    )
    return file(about, "13.4", "ckks encryption", cases)


# ---------------------------------------------------------------------- tails and sums of one small session


def _common() -> Json:
    session = SMALL
    return {
        "manifest": session.manifest.encode().hex(), "roster": session.roster.encode().hex(),
        "header": session.context().header.encode().hex(),
    }  # fmt: skip


def _params() -> RingParams:
    return KeyAndCiphertext(SMALL.context()).params


def _seeds(count: int = 3) -> list[str]:
    return [drawn("ckks", "hedged", site, count=64).hex() for site in range(count)]


LEVELS = [[ckks_core.level(j + 11 * site, 8) for j in range(SMALL.size)] for site in range(3)]
LEVELS[0][:2] = LEVELS[1][:2] = LEVELS[2][:2] = [0, 255]


def tails() -> Json:
    params, common = _params(), _common()
    each = ckks_core.residues_of({**common, "seeds": _seeds()}, LEVELS)
    last = [prime - 1 for prime in params.primes for _ in range(params.coefficients(0))]
    whole, ends = [ckks_core.tail_of(params, row) for row in each], ckks_core.tail_of(params, last)
    zeros = np.zeros(params.words, np.uint64)
    cases = [
        _made("ckks tails", "three ciphertexts and their sum", {**common, "tails": [form.words(row) for row in whole]}),
        _made("ckks tails", "every residue one below its prime, and every residue 0",
              {**common, "tails": [form.words(ends), form.words(zeros)]}),
        _made("ckks tails", "as many of the largest as there may be sites",
              {**common, "tails": [form.words(ends)] * 100}),
    ]  # fmt: skip
    for name, data in _false_tails(params, each[0]).items():
        cases.append(bad(name, {**common, "tails": [data.hex()]}, "malformed"))
    total = cases[0]["outputs"]["sum"]
    cases.append(_made("ckks tails", "a sum is read", {**common, "sum": total}))
    cases.append(bad("a sum with a word too many", {**common, "sum": total + "00" * 8}, "malformed"))
    cases.append(bad("a sum with a word too few", {**common, "sum": total[:-16]}, "malformed"))
    about = (
        "Tails (3 bytes a residue) to numbers, and the sum of tails (4 bytes a number, not reduced). Reading either "
        "may be malformed."
    )
    return case_file(about, "11.8, 13.4", cases, "ckks tails")


def _false_tails(params: RingParams, residues: Sequence[int]) -> dict[str, bytes]:
    good_bytes = ckks_core.tail_of(params, residues).astype("<u8").tobytes()
    used, count = 3 * params.residues, params.coefficients(0)

    def with_residue(at: int, value: int) -> bytes:
        return good_bytes[: 3 * at] + value.to_bytes(3, "little") + good_bytes[3 * at + 3 :]

    return {
        "the first residue is its prime": with_residue(0, params.primes[0]),
        "the first residue of the second prime is that prime": with_residue(count, params.primes[1]),
        "the last residue is its prime": with_residue(params.residues - 1, params.primes[-1]),
        "a residue of 2^24 - 1": with_residue(1, (1 << 24) - 1),
        "the first byte behind the last residue is 1": good_bytes[:used] + b"\x01" + good_bytes[used + 1 :],
        "the last byte is 128": good_bytes[:-1] + b"\x80",
        "a word too few": good_bytes[:-8],
        "a word too many": good_bytes + bytes(8),
        "no words": b"",
    }


def keys() -> Json:
    params, common = _params(), _common()
    base = {**common, "seeds": _seeds()}
    lanes = 64 // params.key_lane_bits
    above = 385  # with any lane that is not negative, more than 128 for each of three sites
    rows: dict[str, list[list[int | str]]] = {
        "a zero word of 1": [[params.key_words, 1]],
        "the last zero word of 2^63": [[params.key_words + 7, str(1 << 63)]],
        "a lane above 128 for each site": [[5, above]],
        "a bit above the lanes": [[0, str(1 << lanes * params.key_lane_bits)]],
        "an unused place that is not 0": [[params.key_words - 1, str(1 << (lanes - 1) * params.key_lane_bits)]],
    }
    cases = [_made("ckks keys", f"{n} sites", {**base, "seeds": _seeds(n), "added": []}) for n in (1, 2, 3)]
    cases.append(_made("ckks keys", "a key that is off by one is a key", {**base, "added": [[0, 1]]}))
    cases += [bad(name, {**base, "added": added}, "faulty-server") for name, added in rows.items()]
    about = (
        "S from the sum of the sites' key words, zero words and tally, pads and masks gone. seeds: hedged seeds. "
        "added: to which word of that sum the liar adds what, mod 2^64. The first 16 coefficients, and SHA-256 of all, "
        "2 bytes each in two's complement, little-endian."
    )
    return case_file(about, "13.4, 13.6", cases, "ckks keys")


class _Sum:
    """The residues of the sum of three ciphertexts, and what a liar adds to coefficients."""

    def __init__(self) -> None:
        self.params, self.base = _params(), {**_common(), "seeds": _seeds()}
        each = ckks_core.residues_of(self.base, LEVELS)
        self.count = self.params.coefficients(0)
        self.moduli = [prime for prime in self.params.primes for _ in range(self.count)]
        self.residues = [sum(row) % q for *row, q in zip(*each, self.moduli, strict=True)]
        noise = [errors(bytes.fromhex(seed), 0, self.count).astype(int) for seed in self.base["seeds"]]
        self.noise = sum(noise).tolist()  # type: ignore[attr-defined]

    def inputs(self, residues: Sequence[int] | None = None, **changes: object) -> Json:
        usual = {"survivors": 3, "total_weight": 3, "residues": list(residues or self.residues)}
        return {**self.base, **usual, **changes}

    def shifted(self, amounts: dict[int, int]) -> list[int]:
        """Integers added to coefficients: to their residues mod every prime."""
        return [
            (residue + amounts.get(index % self.count, 0)) % q
            for index, (residue, q) in enumerate(zip(self.residues, self.moduli, strict=True))
        ]

    def field(self, value: int) -> tuple[int, int]:
        """Coefficient and unit of the field in which a value lies."""
        j, i = divmod(value, self.count)
        return i, 1 << self.params.delta_bits + j * self.params.field_bits


def decoding() -> Json:
    it, size = _Sum(), SMALL.size
    params, bound = it.params, noise_bound(3)
    checks, unused = it.field(size), it.field(params.slots)
    least, most = it.field(0), it.field(1)  # three sites' levels of 0 and of 255
    assert params.slots < it.count * params.fields, "no unused place"
    top = 1 << params.delta_bits + params.fields * params.field_bits
    accepted = {
        "three ciphertexts": it.inputs(),
        "an error at its bound": it.inputs(it.shifted({0: bound - it.noise[0], 1: -bound - it.noise[1]})),
        "another sum of levels": it.inputs(it.shifted({least[0]: 765 * least[1]})),
    }
    altered = [(it.residues[0] + 1) % it.moduli[0], *it.residues[1:]]
    single = ckks_core.residues_of(it.base, LEVELS)[0]
    refused = {
        "one residue off by one": it.inputs(altered),
        "an error one above its bound": it.inputs(it.shifted({0: bound + 1 - it.noise[0]})),
        "an error one below minus its bound": it.inputs(it.shifted({2: -bound - 1 - it.noise[2]})),
        "a sum one above the largest": it.inputs(it.shifted({most[0]: most[1]})),
        "a sum of levels below 0": it.inputs(it.shifted({least[0]: -least[1]})),
        "levels above a total weight of 2": it.inputs(total_weight=2),
        "a check value of 4 where 3 sites are": it.inputs(it.shifted({checks[0]: checks[1]})),
        "the second check value of 1": it.inputs(it.shifted(dict([it.field(size + 1)]))),
        "an unused place of 1": it.inputs(it.shifted(dict([unused]))),
        "a bit above the last field": it.inputs(it.shifted({0: top})),
        "half of q": it.inputs(it.shifted({0: math.prod(params.primes) // 2})),
        "two survivors named where three are": it.inputs(survivors=2),
        "a key too few": it.inputs(seeds=_seeds(2)),
        "the key of another site": it.inputs(seeds=[*_seeds(2), drawn("ckks", "hedged", 9, count=64).hex()]),
        "one ciphertext under the sum of the keys": it.inputs(single, survivors=1, total_weight=1),
        "no ciphertext": it.inputs([0] * len(it.residues)),
        "the header of attempt 2": {**it.inputs(), "header": SMALL.context(2).header.encode().hex()},
    }
    cases = [_made("ckks decoding", name, inputs) for name, inputs in accepted.items()]
    cases += [bad(name, inputs, "faulty-server") for name, inputs in refused.items()]
    about = (
        "The sums of levels from the residues of a sum of ciphertexts, self-masks gone, in the order of a tail. seeds: "
        "the hedged seeds of the sites whose keys make S."
    )
    return case_file(about, "13.6", cases, "ckks decoding")
