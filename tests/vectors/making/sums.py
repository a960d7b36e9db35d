"""Lanes, projections, tally words and ranges: what is done with integers alone (spec §10.4, §10.6, §10.7, §15.2)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from secagg.lanes import LANE_BITS, lanes_per_word, pack, words_for
from secagg.primitives.prg import Stream
from secagg.projection import project
from secagg.quantize import next_range
from secagg.session import Metrics
from secagg.tally import WORDS, Tally
from tests.vectors import form
from tests.vectors.form import Json, bad, drawn, file, good

# ---------------------------------------------------------------------- lanes


def lanes() -> Json:
    cases = []
    for lane_bits in LANE_BITS:
        for size in (1, 24, 40):
            bits = min(lane_bits, 20)
            octets = np.frombuffer(drawn("lanes", lane_bits, size, count=4 * size), "<u4")
            values = octets % np.uint32(1 << bits)
            values[-1] = (1 << bits) - 1
            weight = 3 if lane_bits - bits >= 2 else 1
            words = _packed(values, lane_bits, weight)
            cases.append(
                good(
                    f"{lane_bits}-bit lanes, {size} values, weight {weight}",
                    {"lane_bits": lane_bits, "values": [int(each) for each in values], "weight": weight},
                    {"words": form.words(words)},
                )
            )
    for lane_bits, extra in ((32, 5), (21, 1)):
        per_word = 64 // lane_bits
        size = 32_768 * per_word + extra
        values = (np.arange(size, dtype=np.uint64) * 7 + 3) % np.uint64(1 << 16)
        halves = (values[: 32_768 * per_word], values[32_768 * per_word :])
        words = np.concatenate([_packed(each.astype(np.uint32), lane_bits, 1) for each in halves])
        cases.append(
            good(
                f"{lane_bits}-bit lanes, two word blocks",
                {"lane_bits": lane_bits, "size": size, "values_by_rule": "(7 j + 3) mod 2^16", "weight": 1},
                {
                    "count": words.size,
                    "words_at_both_ends": form.words(np.concatenate((words[:2], words[-2:]))),
                    "words_sha256": hashlib.sha256(words.astype("<u8").tobytes()).hexdigest(),
                },
            )
        )
    about = (
        "Values to words, planar within a word block, times the weight. words_sha256: over all words, 8 bytes each "
        "little-endian; words_at_both_ends: the first two and the last two."
    )
    return file(about, "10.4", "lanes", cases)


def _packed(values: NDArray[np.uint32], lane_bits: int, weight: int) -> NDArray[np.uint64]:
    count = words_for(values.size, lane_bits)
    filled = np.zeros(count * lanes_per_word(lane_bits), np.uint32)
    filled[: values.size] = values
    return pack(filled, lane_bits, np.empty(count, np.uint64)).copy() * np.uint64(weight)


# ---------------------------------------------------------------------- projections


def words_by_rule(size: int) -> NDArray[np.uint64]:
    """(j + 1) x 11400714819323198485 mod 2^64."""
    return np.arange(1, size + 1, dtype=np.uint64) * np.uint64(11_400_714_819_323_198_485)


def projections() -> Json:
    cases = []
    for size in (1, 2, 8, 64, 65, 200):
        seed, words = drawn("challenge", size, count=48), np.frombuffer(drawn("y", size, count=8 * size), "<u8")
        inputs = {"seed": seed.hex(), "words": form.words(words)}
        cases.append(good(f"{size} words", inputs, {"values": form.words(project(seed, words.astype(np.uint64)))}))
    seed = drawn("challenge", count=48)
    for name, words in (
        ("all zero", np.zeros(5, np.uint64)),
        ("only the last word is not zero", np.array([0] * 9 + [1], np.uint64)),
        ("multiples of 2^63", np.array([2**63, 0, 2**63], np.uint64)),
        ("the largest words", np.full(40, 2**64 - 1, np.uint64)),
    ):
        inputs = {"seed": seed.hex(), "words": form.words(words)}
        cases.append(good(name, inputs, {"values": form.words(project(seed, words))}))
    inputs = {"seed": seed.hex(), "size": 32_770, "words_by_rule": "(j + 1) x 11400714819323198485 mod 2^64"}
    values = form.words(project(seed, words_by_rule(32_770)))
    cases.append(good("more words than a word block", inputs, {"values": values}))
    for case in cases:
        if "words" in case["inputs"]:
            assert slow_projection(case["inputs"]) == case["outputs"]["values"], case["name"]
    return file("The projection of a vector: 128 words, from a seed of 48 bytes.", "15.2", "projection", cases)


def slow_projection(inputs: Json) -> str:
    """Spec §15.2, letter by letter."""
    words = [int(word) for word in form.words_in(inputs["words"])]
    octets = Stream(bytes.fromhex(inputs["seed"])).read((len(words) + 127) // 8 + 1)
    bits = [octet >> k & 1 for octet in octets for k in range(8)]
    values = [sum(bits[w + k] * y for w, y in enumerate(words)) % 2**64 for k in range(128)]
    return form.words(np.array(values, np.uint64))


# ---------------------------------------------------------------------- tally and range


def tally() -> Json:
    cases = []
    rows = (
        ("a site", Metrics(13, 2.53125, 3.0, 100), 2, 5, 123_456_789),
        ("no held-out tokens", Metrics(1, 0.0, 0.0, 0), 1, 0, 0),
        ("a loss that rounds to even", Metrics(1, 2.5 / 65_536, 1.5 / 65_536, 1), 1, 0, 1),
        ("the largest of everything", Metrics(1 << 28, 1024.0, 1024.0, 1 << 28), 1 << 28, 24, 1 << 52),
        ("a peak above 2^52", Metrics(1, 1.0, 1.0, 1), 1, 0, 1 << 60),
    )
    for name, metrics, weight, clipped, peak in rows:
        inputs = {
            "examples": metrics.examples, "train_loss": metrics.train_loss, "eval_loss": metrics.eval_loss,
            "eval_tokens": metrics.eval_tokens, "weight": weight, "clipped": clipped, "peak_q40": form.number(peak),
        }  # fmt: skip
        words = Tally.of(metrics, weight, clipped, peak).words()
        cases.append(good(f"words: {name}", inputs, {"words": form.words(words)}))
    return file(
        "The eight tally words of a site; what their sums must be, and the totals shown; the next range.",
        "10.6, 10.7", "tally", [*cases, *_tally_sums(), *_ranges()],
    )  # fmt: skip


def _tally_sums() -> list[Json]:
    k, size, cap = 4, 24, 5
    right = {"sites": k, "weight": 11, "examples": 90, "train_loss": 16_000_000, "eval_tokens": 400,
             "eval_loss": 80_000_000, "clipped": 3, "peak": 5 << 38}  # fmt: skip
    shared = {"survivors": k, "size": size, "weight_cap": cap}

    def given(**changes: int) -> Json:
        return {**shared, "words": form.words(np.array([{**right, **changes}[name] for name in WORDS], np.uint64))}

    def totals(**changes: int) -> Json:
        found = Tally(**{**right, **changes}).totals(size)
        return {name: getattr(found, name) for name in found.__dataclass_fields__}

    cases = [
        good("sum: four survivors", given(), {"totals": totals()}),
        good("sum: no held-out tokens", given(eval_tokens=0, eval_loss=0),
             {"totals": totals(eval_tokens=0, eval_loss=0)}),
    ]  # fmt: skip
    bounds = {
        "sites": k, "weight": k * cap, "examples": k << 28, "train_loss": k << 54, "eval_tokens": k << 28,
        "eval_loss": k << 54, "clipped": k * size, "peak": k << 52,
    }  # fmt: skip
    cases.append(good("sum: every word at its bound", given(**bounds), {"totals": totals(**bounds)}))
    lies = {f"{name} above its bound": {name: bound + 1} for name, bound in bounds.items()}
    lies |= {"sites below the survivors": {"sites": k - 1}, "weight below the survivors": {"weight": k - 1},
             "examples below the survivors": {"examples": k - 1}}  # fmt: skip
    return cases + [bad(f"sum, bad: {name}", given(**lie), "faulty-server") for name, lie in lies.items()]


def _ranges() -> list[Json]:
    rows = (
        ("the mean's largest entry decides", 1 << 40, 4, 11, 0, 1 << 30, 2000),
        ("the sites' own largest decide", 1 << 40, 4, 11, 0, 3 << 42, 50),
        ("more than 1 % clipped doubles it", 1 << 40, 4, 11, 1, 1 << 30, 50),
        ("exactly 1 % clipped does not", 1 << 40, 4, 11, 1, 1 << 30, 50),
        ("nothing moved: the least range", 1 << 10, 4, 11, 0, 0, 0),
        ("the widest range", 1 << 52, 4, 11, 90, 4 << 52, 2805),
    )
    cases = []
    for name, range_q40, sites, weight, clipped, peak, largest in rows:
        size = 25 if name.startswith("exactly") else 24
        summed = Tally(sites, weight, 90, 1, 1, 1, clipped, peak)
        inputs = {
            "range_q40": range_q40, "sites": sites, "weight": weight, "clipped": clipped, "peak": form.number(peak),
            "largest": largest, "size": size, "levels": 255,
        }  # fmt: skip
        value = next_range(range_q40, summed, largest, size, 255)
        cases.append(good(f"range: {name}", inputs, {"next_range_q40": value}))
    return cases
