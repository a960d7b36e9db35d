"""What protection costs a round of LoRA adapters of known models: bytes exact, CPU time from the measured totals.

Adapters are counted from the shapes of the models' linear layers, as their configurations publish them. Bytes follow
from the lanes or the ring that a session of that size chooses; the few that do not grow with the adapter, and CPU
time, are fitted to the records of whole rounds and say so: `extrapolated` is true wherever nothing was run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.records import Record
from secagg.ckks.params import MAX_SIZE, MOST_PRIMES, RingParams, candidate, cost
from secagg.ckks.payload import ZEROS
from secagg.ckks_shared.params import Packing
from secagg.lanes import headroom, words_for
from secagg.tally import WORDS
from secagg.wire import MAX_SITES

RANKS: Final = (8, 16, 64)
SITES: Final = (5, 20, 100, 1000)
TRAINING_MIN: Final = (1, 10, 60)
WEIGHT_CAP: Final = 1
WORD: Final = 8  # bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder as its config.json describes it.

    query, key_value: widths of the projections; fused: one layer makes all three. gated: the MLP has a gate beside its
    up projection. parameters: of the whole model, as published.
    """

    name: str
    source: str
    layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    parameters: int
    gated: bool = True
    fused: bool = False

    def attention(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one block's attention."""
        out = [(self.query, self.hidden)]
        if self.fused:
            return [(self.hidden, self.query + 2 * self.key_value), *out]
        return [(self.hidden, self.query), *[(self.hidden, self.key_value)] * 2, *out]

    def mlp(self) -> list[tuple[int, int]]:
        """The same of one block's MLP."""
        up = [(self.hidden, self.intermediate)] * (2 if self.gated else 1)
        return [*up, (self.intermediate, self.hidden)]


MODELS: Final = (
    Model(
        "GPT-2", "openai-community/gpt2", layers=12, hidden=768, query=768, key_value=768, intermediate=3072,
        parameters=124_439_808, gated=False, fused=True,
    ),
    Model(
        "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", layers=24, hidden=896, query=896, key_value=128, intermediate=4864,
        parameters=494_032_768,
    ),
    Model(
        "Qwen2.5-7B", "Qwen/Qwen2.5-7B", layers=28, hidden=3584, query=3584, key_value=512, intermediate=18944,
        parameters=7_615_616_512,
    ),
    Model(
        "Llama-3-8B", "meta-llama/Meta-Llama-3-8B", layers=32, hidden=4096, query=4096, key_value=1024,
        intermediate=14336, parameters=8_030_261_248,
    ),
    Model(
        "Llama-3-70B", "meta-llama/Meta-Llama-3-70B", layers=80, hidden=8192, query=8192, key_value=1024,
        intermediate=28672, parameters=70_553_706_496,
    ),
)  # fmt: skip
TARGETS: Final[Mapping[str, Callable[[Model], list[tuple[int, int]]]]] = {
    "attention": Model.attention,
    "all-linear": lambda model: model.attention() + model.mlp(),
}


def adapter_size(model: Model, rank: int, targets: str) -> int:
    """Values of the adapter: rank x (inputs + outputs) of every linear layer that is adapted."""
    return model.layers * sum(rank * (inputs + outputs) for inputs, outputs in TARGETS[targets](model))


# ---------------------------------------------------------------------- bytes


def masked_words(size: int, sites: int, bits: int) -> tuple[int, int]:
    """Words of a site's vector and of the sum, in masked mode and in the plain round."""
    words = words_for(size, headroom(bits, sites, WEIGHT_CAP)) + len(WORDS)
    return words, words


@cache
def ring(size: int, sites: int, bits: int) -> RingParams:
    """The ring that a session chooses, and, beyond its limits of size and sites, would choose. Raises ValueError."""
    found = [
        each
        for ring_size, most in MOST_PRIMES.items()
        for count in range(1, most + 1)
        if (each := candidate(bits, sites, WEIGHT_CAP, size, ring_size, count))
    ]
    return min(found, key=lambda each: (cost(each), each.ring_size, len(each.primes)))


def ckks_words(size: int, sites: int, bits: int) -> tuple[int, int]:
    """The same in ckks mode: one-time key and ciphertext; the sum's residues travel in four bytes each."""
    params = ring(size, sites, bits)
    head = params.key_words + ZEROS + len(WORDS)
    return head + params.words, head + -(-params.residues // 2)


def shared_words(size: int, sites: int, bits: int) -> tuple[int, int]:
    """The same in ckks-shared mode: ciphertexts, and as many of them summed."""
    words = Packing(bits, sites, WEIGHT_CAP, size).words
    return words, words


Vectors = Callable[[int, int, int], tuple[int, int]]
VECTORS: Final[Mapping[str, Vectors]] = {"masked": masked_words, "ckks": ckks_words, "ckks-shared": shared_words}


# ---------------------------------------------------------------------- costs fitted to records

Terms = Callable[[int, int], tuple[float, ...]]


def site_terms(size: int, sites: int) -> tuple[float, ...]:
    """What a site's time, and a sum's opening, is made of: messages and keys, values, masks."""
    return 1.0, sites, size, size * sites


def server_terms(size: int, sites: int) -> tuple[float, ...]:
    """What the server's time is made of: each site's messages about every site, and each site's vector."""
    return 1.0, sites, sites**2, size, size * sites


def message_terms(size: int, sites: int) -> tuple[float, ...]:
    """What the bytes of a site's messages are made of, its vector and the sum left out."""
    return 1.0, sites


TERMS: Final[Mapping[str, Terms]] = {"site": site_terms, "open": site_terms, "server": server_terms}


@dataclass(frozen=True, slots=True)
class Fit:
    """A sum of terms with factors from 0 up, nearest to what was measured in relation to it."""

    terms: Terms
    factors: tuple[float, ...]

    @classmethod
    def of(cls, terms: Terms, measured: Mapping[tuple[int, int], float]) -> Fit:
        """measured: by (size, sites). Raises ValueError if there is nothing above zero."""
        points = {at: each for at, each in measured.items() if each > 0}
        if not points:
            raise ValueError("nothing was measured")
        rows = np.array([terms(*at) for at in points]) / np.array([*points.values()])[:, None]
        return cls(terms, tuple(float(each) for each in _from_zero_up(rows, np.ones(len(points)))))

    def __call__(self, size: int, sites: int) -> float:
        """The fitted value."""
        return sum(factor * term for factor, term in zip(self.factors, self.terms(size, sites), strict=True))


def _from_zero_up(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with factors from 0 up: of every choice of terms whose factors are, the nearest. Few terms only."""
    count = rows.shape[1]
    best, nearest = np.zeros(count), float(wanted @ wanted)
    for choice in range(1, 1 << count):
        kept = [term for term in range(count) if choice >> term & 1]
        part = rows[:, kept]
        scale = np.abs(part).max(axis=0)
        factors = np.linalg.lstsq(part / scale, wanted, rcond=None)[0] / scale
        distance = float(np.sum((part @ factors - wanted) ** 2))
        if (factors >= 0).all() and distance < nearest * (1 - 1e-9):
            best, nearest = np.zeros(count), distance
            best[kept] = factors
    return best


@dataclass(frozen=True, slots=True)
class Costs:
    """One scheme, as measured at `bits` and the settings in `ran`, (values, sites)."""

    scheme: str
    bits: int
    vectors: Vectors
    seconds: Mapping[str, Fit]  # by role
    up: Fit  # bytes of a site's messages without its vector
    down: Fit
    ran: frozenset[tuple[int, int]]

    def row(self, size: int, sites: int) -> dict[str, Any]:
        """Bytes and seconds of a round, and what it adds to rounds whose training takes so long."""
        up, down = self.vectors(size, sites, self.bits)
        site = self.seconds["site"](size, sites) + self.seconds["open"](size, sites)
        server = self.seconds["server"](size, sites)
        shares = {f"share_{minutes}_min": (site + server) / (60 * minutes + site + server) for minutes in TRAINING_MIN}
        return {
            "scheme": self.scheme, "bits": self.bits, "sites": sites,
            "bytes_up": WORD * up + round(self.up(size, sites)),
            "bytes_down": WORD * down + round(self.down(size, sites)),
            "site_cpu_s": site, "server_cpu_s": server, **shares,
            "extrapolated": (size, sites) not in self.ran, "fits": size <= MAX_SIZE and sites <= MAX_SITES,
        }  # fmt: skip


def costs_in(records: Sequence[Record]) -> list[Costs]:
    """The schemes whose whole rounds were measured for site, server and opening; of several bits, the most measured."""
    totals = [each for each in records if each.family == "total" and each.cpu_s and each.values and each.sites]
    found = []
    for scheme, vectors in VECTORS.items():
        own = [each for each in totals if each.scheme == scheme and each.bits and not each.extrapolated]
        widths = sorted({each.bits for each in own if each.bits})
        by_bits = {bits: [each for each in own if each.bits == bits] for bits in widths}
        whole = {bits: kept for bits, kept in by_bits.items() if {each.role for each in kept} >= TERMS.keys()}
        if whole:
            bits = max(whole, key=lambda bits: len(whole[bits]))
            found.append(_costs(scheme, bits, vectors, whole[bits]))
    return found


def _costs(scheme: str, bits: int, vectors: Vectors, totals: Sequence[Record]) -> Costs:
    taken = [(each, float(np.median(each.cpu_s))) for each in totals if each.cpu_s]
    seconds = {
        role: Fit.of(terms, {_at(each): middle for each, middle in taken if each.role == role})
        for role, terms in TERMS.items()
    }
    up, down = (
        Fit.of(
            message_terms,
            {
                _at(each): sent - WORD * vectors(*_at(each), bits)[way]
                for each in totals
                if (sent := getattr(each, name)) is not None
            },
        )
        for way, name in enumerate(("bytes_up", "bytes_down"))
    )
    return Costs(scheme, bits, vectors, seconds, up, down, frozenset(map(_at, totals)))


def _at(record: Record) -> tuple[int, int]:
    return record.values or 0, record.sites or 0


# ---------------------------------------------------------------------- the table


def adapters() -> Iterator[dict[str, Any]]:
    """Every adapter of the table."""
    for model in MODELS:
        for targets in TARGETS:
            for rank in RANKS:
                size = adapter_size(model, rank, targets)
                yield {
                    "model": model.name, "parameters": model.parameters, "targets": targets, "rank": rank,
                    "values": size, "adapter_bytes": 4 * size,
                }  # fmt: skip


def model_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each adapter, scheme and number of sites; none for a scheme that the records do not hold.

    bytes_up, bytes_down: a site's in a round. site_cpu_s: the site's session and the opening of the sum. server_cpu_s:
    the server's session. share_1_min and so on: (site + server) / (training + site + server), as if they never ran at
    the same time; waiting and transfer are not in it. fits: within a session's limits of values and sites.
    """
    costs = costs_in(records)
    return [adapter | each.row(adapter["values"], n) for adapter in adapters() for each in costs for n in SITES]
