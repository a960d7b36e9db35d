"""From updates to levels, and from sums to means (spec §10.2-10.5)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyServer
from secagg.lanes import headroom, lanes_per_word, pack
from secagg.primitives.prg import Stream
from secagg.quantize import Quantizer, QuantizerParams
from tests.vectors import form
from tests.vectors.form import Json, bad, drawn, file, good

Floats = NDArray[np.float32]
MARGIN = 64  # units of 2^-f of a step; binary32 is off by a few at most


# ---------------------------------------------------------------------- a second opinion in binary64


def rotation_blocks(size: int, rotate: int) -> list[slice]:
    """Spec §10.2."""
    if not rotate:
        return [slice(j, j + 1) for j in range(size)]
    blocks, start = [], 0
    while start < size:
        block = min(4096, 1 << ((size - start).bit_length() - 1))
        blocks.append(slice(start, start + block))
        start += block
    return blocks


def rotated(values: Sequence[float], signs: bytes, rotate: int) -> list[float]:
    """Every v_j of spec §10.2, in binary64."""
    flipped = [-x if rotate and signs[j // 8] >> j % 8 & 1 else x for j, x in enumerate(values)]
    out: list[float] = []
    for block in rotation_blocks(len(values), rotate):
        part, count = flipped[block], block.stop - block.start
        step = 1
        while step < count:
            for i in range(0, count, 2 * step):
                for j in range(i, i + step):
                    part[j], part[j + step] = part[j] + part[j + step], part[j] - part[j + step]
            step *= 2
        out += [x / math.sqrt(count) for x in part]
    return out


def levels_of(
    params: QuantizerParams, range_q40: int, seed: bytes, dither: bytes, values: Floats
) -> tuple[list[int], bool]:
    """Every q_j of spec §10.3 by binary64, and whether no rounding of binary32 could make another.

    A t_j below 2^24 that is an integer is one in binary32 too, if the few factors before it are.
    """
    norm = math.sqrt(sum(float(x) ** 2 for x in values))
    bound_on_norm = params.clip_norm_q20 / 2**20
    factor = min(1.0, bound_on_norm / norm) if params.clip_norm_q20 and norm else 1.0
    signs = Stream(seed).read(-(-values.size // 8))
    noise = np.frombuffer(Stream(dither).read(2 * values.size), "<u2")
    bound, f = params.levels << (params.dither_bits - 1), params.dither_bits
    levels, safe = [], True
    for v, u in zip(rotated([factor * float(x) for x in values], signs, params.rotate), noise, strict=True):
        t = min(max(v * (bound / (range_q40 / 2**40)), -bound), bound)
        whole = round(t) + bound + (int(u) >> (16 - f))
        levels.append(whole >> f)
        inside = whole & ((1 << f) - 1)
        safe &= MARGIN >> (16 - f) < inside < (1 << f) - (MARGIN >> (16 - f)) or t == round(t)
    return levels, safe


# ---------------------------------------------------------------------- rounding


def quantizer_of(case: Json) -> Quantizer:
    """What the inputs of a case say."""
    params = QuantizerParams(*(case[name] for name in ("bits", "lane_bits", "weight_cap", "rotate", "clip_norm_q20")))
    return Quantizer(params, case["sites"], case["size"], case["range_q40"], bytes.fromhex(case["rotation_seed"]))


def values_by_rule(size: int) -> Floats:
    """((5 j + 3) mod 7 - 3) / 256, for cases too long to list."""
    return (((5 * np.arange(size) + 3) % 7 - 3) / 256).astype(np.float32)


def _params(sites: int, bits: int, cap: int, rotate: int, clip: int, scale: float, size: int) -> Json:
    return {
        "sites": sites, "size": size, "bits": bits, "lane_bits": headroom(bits, sites, cap), "weight_cap": cap,
        "rotate": rotate, "clip_norm_q20": clip, "range_q40": round(scale * 2**40),
        "rotation_seed": drawn("rotation", size, count=48).hex(),
    }  # fmt: skip


def _rounding(name: str, shared: Json, values: Floats, weight: int, *, exact: bool, listed: bool = True) -> Json:
    quantizer, seed = quantizer_of(shared), bytes.fromhex(shared["rotation_seed"])
    for salt in range(1000):
        dither = drawn("dither", name, salt, count=48)
        levels, safe = levels_of(quantizer.params, quantizer.range_q40, seed, dither, values)
        if safe:
            break
    blocks = quantizer.blocks(values, weight, Stream(dither))
    words = np.concatenate([block.copy() for block in blocks])
    assert safe, f"{name}: no dither is far enough from every rounding"
    assert unpacked(words, weight, quantizer) == levels, name
    assert not exact or blocks.peak_q40 == _peak(values, seed, quantizer.params), name
    given: Json = {"values": form.floats(values)} if listed else {"values_by_rule": "((5 j + 3) mod 7 - 3) / 256"}
    made: Json = {"levels": levels, "words": form.words(words)} if listed else {
        "levels_sha256": hashlib.sha256(np.array(levels, "<u4").tobytes()).hexdigest(),
        "words_sha256": hashlib.sha256(words.astype("<u8").tobytes()).hexdigest(),
    }  # fmt: skip
    outputs = {"exact": exact, **made, "clipped": blocks.clipped, "peak_q40": blocks.peak_q40}
    return good(name, {**shared, **given, "weight": weight, "dither_seed": dither.hex()}, outputs)


def _peak(values: Floats, seed: bytes, params: QuantizerParams) -> int:
    signs = Stream(seed).read(-(-values.size // 8))
    largest = max(abs(v) for v in rotated([float(x) for x in values], signs, params.rotate))
    return min(2**52, math.ceil(largest * 2**40))


def unpacked(words: NDArray[np.uint64], weight: int, quantizer: Quantizer) -> list[int]:
    """Words of one block back to levels, by integers alone."""
    bits, count = quantizer.params.lane_bits, words.size
    lanes, mask = 64 // bits, (1 << bits) - 1
    planar = [int(word) >> bits * lane & mask for lane in range(lanes) for word in words[:count]]
    assert not any(planar[quantizer.size :])
    assert not any(level % weight for level in planar)
    return [level // weight for level in planar[: quantizer.size]]


def some_values(size: int, steps: int, *what: object) -> Floats:
    """Multiples of 1/256 up to steps/256 in absolute value."""
    octets = np.frombuffer(drawn("values", size, steps, *what, count=2 * size), "<u2").astype(np.int64)
    return ((octets % (2 * steps + 1) - steps) / 256).astype(np.float32)


def quantize() -> Json:
    edges = np.array([0.0, -0.0, 1.0, -1.0, 1.00390625, -2.0, 2.0**-20, 255 / 256] * 3, np.float32)
    cases = [
        _rounding("not rotated, 24 values", _params(3, 8, 1, 0, 0, 1.0, 24), some_values(24, 256), 1, exact=True),
        _rounding("not rotated, at and beyond the range", _params(3, 8, 1, 0, 0, 1.0, 24), edges, 1, exact=True),
        _rounding("rotated, blocks of 16, 4 and 1", _params(3, 8, 1, 1, 0, 1.0, 21), some_values(21, 64), 1,
                  exact=True),
        _rounding("rotated, blocks of 32 and 8, weight 3", _params(5, 8, 5, 1, 0, 1.0, 40), some_values(40, 64), 3,
                  exact=False),
        _rounding("rotated, a range that is no power of two", _params(5, 10, 1, 1, 0, 0.37, 21), some_values(21, 32), 1,
                  exact=False),
        _rounding("clipped to an L2 norm of 1/2", _params(3, 8, 1, 1, 1 << 19, 0.5, 21), some_values(21, 200), 1,
                  exact=False),
        _rounding("an L2 bound that does not bite", _params(3, 8, 1, 0, 1 << 30, 1.0, 24), some_values(24, 64), 1,
                  exact=True),
        _rounding("20 bits, 10 of dither", _params(3, 20, 1, 0, 0, 1.0, 24), some_values(24, 16), 1, exact=False),
        _rounding("4 bits, 8-bit lanes", _params(3, 4, 1, 1, 0, 1.0, 21), some_values(21, 64), 1, exact=True),
        _rounding("a block of 4,096 and one of 16", _params(3, 8, 1, 1, 0, 1.0, 4112), values_by_rule(4112), 1,
                  exact=True, listed=False),
    ]  # fmt: skip
    about = (
        "An update to words: values binary32 little-endian. levels: the q_j. exact: whether every step up to rint is "
        "exact in binary32, so that levels, words, clipped and peak_q40 follow to the bit; where it is false, levels, "
        "words and clipped still do (no q_j is within 64 / 2^16 of a step of another), and peak_q40 may differ by 1 "
        "part in 2^20. The tally words are in tally.json."
    )
    return file(about, "10.2, 10.3, 10.4", "rounding", cases)


# ---------------------------------------------------------------------- opening


def opening() -> Json:
    cases = []
    rows = (
        (3, 8, 1, 0, 24, 1.0), (3, 8, 1, 1, 21, 1.0), (5, 8, 5, 1, 40, 0.37), (100, 20, 10, 1, 24, 2.0**-20),
        (5, 12, 1, 0, 24, 4096.0),
    )  # fmt: skip
    for sites, bits, cap, rotate, size, scale in rows:
        shared = _params(sites, bits, cap, rotate, 0, scale, size)
        cases.append(_opened(f"{bits} bits, {shared['lane_bits']}-bit lanes, d = {size}, rotate {rotate}", shared))
    shared = _params(3, 8, 1, 1, 0, 1.0, 21)
    middle = np.full(21, 255, np.uint64)  # C = 2 x 255 - 255 x 2 = 0 everywhere
    cases.append(_opened("all at the middle: every zero is +0 before the signs", shared, middle, 2))
    about = (
        "A sum of words, masks gone, to the mean. sums: the lanes S_j. mean: binary32 little-endian, the same bits "
        "everywhere. largest: max |C_j| over the values."
    )
    return file(about, "10.5", "opening", [*cases, *_bad_sums()])


def _opened(name: str, shared: Json, sums: NDArray[np.uint64] | None = None, weight: int = 0) -> Json:
    quantizer = quantizer_of(shared)
    weight = weight or 1 + drawn("weight", name)[0] % (quantizer.sites * quantizer.params.weight_cap)
    if sums is None:
        octets = np.frombuffer(drawn("sums", name, count=8 * quantizer.size), "<u8")
        sums = octets % np.uint64(quantizer.params.levels * weight + 1)
    words = planar(sums, quantizer)
    opened = quantizer.open(words, weight)
    inputs = {**shared, "total_weight": weight, "words": form.words(words)}
    outputs = {
        "sums": [int(each) for each in sums], "largest": opened.largest, "mean": form.floats(opened.values),
    }  # fmt: skip
    return good(name, inputs, outputs)


def planar(sums: NDArray[np.uint64], quantizer: Quantizer) -> NDArray[np.uint64]:
    """The words of one block that hold these lanes."""
    filled = np.zeros(quantizer.words * lanes_per_word(quantizer.params.lane_bits), np.uint32)
    filled[: sums.size] = sums
    return pack(filled, quantizer.params.lane_bits, np.empty(quantizer.words, np.uint64)).copy()


def _bad_sums() -> list[Json]:
    shared = _params(3, 8, 1, 1, 0, 1.0, 21)  # six lanes of 10 bits, 4 words, 3 places unused
    quantizer = quantizer_of(shared)
    right = planar(np.full(21, 700, np.uint64), quantizer)

    def with_lane(index: int, value: int) -> NDArray[np.uint64]:
        lane, word = divmod(index, right.size)
        words = right.copy()
        words[word] = int(words[word]) & ~(1023 << 10 * lane) | value << 10 * lane
        return words

    def with_bit(bit: int) -> NDArray[np.uint64]:
        words = right.copy()
        words[1] |= np.uint64(1 << bit)
        return words

    lies = [
        ("the lowest bit above the lanes", with_bit(60), 3),
        ("the highest bit above the lanes", with_bit(63), 3),
        ("a lane above levels x T", with_lane(7, 766), 3),
        ("the first unused place is 1", with_lane(21, 1), 3),
        ("the last unused place is 1", with_lane(23, 1), 3),
        ("a total weight of 0", right, 0),
        ("a total weight above n W", right, 4),
    ]
    cases = []
    for name, words, weight in lies:
        try:
            quantizer.open(words, weight)
        except FaultyServer:
            inputs = {**shared, "total_weight": weight, "words": form.words(words)}
            cases.append(bad(f"bad: {name}", inputs, "faulty-server"))
        else:
            raise AssertionError(name)
    return cases
