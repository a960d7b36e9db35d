"""Products in the ring are exact, in SEAL's order, on one thread, and a BLAS that is not exact is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secagg.ckks import ring as module
from secagg.ckks.params import MOST_PRIMES, primes
from secagg.ckks.ring import Real, Ring, require_exact_blas, ring_for, small_product
from secagg.errors import Misuse

MATMUL = np.matmul


def ring_of(ring_size: int, count: int) -> Ring:
    return ring_for(ring_size, primes(ring_size, count))


def random_elements(ring: Ring, number: int) -> Real:
    """Any residues, centred."""
    halves = np.array(ring.primes)[:, None] // 2
    draws = np.random.default_rng(number).integers(-halves, halves + 1, (len(ring.primes), ring.size))
    return draws.astype(np.float64)


def negacyclic_coefficients(x: Real, y: Real, prime: int, wanted: list[int]) -> list[int]:
    """Coefficients of x y mod (X^N + 1, prime), by the definition, in plain integers."""
    a, b = ([int(each) for each in row] for row in (x, y))
    size = len(a)
    found = []
    for k in wanted:
        value = sum(a[i] * b[k - i] for i in range(k + 1)) - sum(a[i] * b[size + k - i] for i in range(k + 1, size))
        found.append(value % prime)
    return found


@pytest.mark.parametrize("ring_size", MOST_PRIMES)
def test_a_product_is_that_of_polynomials(ring_size: int) -> None:
    ring = ring_of(ring_size, 2)
    x, y = random_elements(ring, 1), random_elements(ring, 2)
    product = ring.multiply(ring.residues(ring.forward(x)), ring.forward(y))
    for index, prime in enumerate(ring.primes):
        wanted = [0, 1, 77, ring_size - 1]
        got = [int(product[index, each]) % prime for each in wanted]
        assert got == negacyclic_coefficients(x[index], y[index], prime, wanted)


@pytest.mark.parametrize("ring_size", MOST_PRIMES)
def test_there_and_back_is_the_identity_on_the_largest_residues(ring_size: int) -> None:
    ring = ring_of(ring_size, MOST_PRIMES[ring_size])
    for sign in (1.0, -1.0):
        x: Real = np.broadcast_to(sign * (ring.modulus // 2), (len(ring.primes), ring_size)).copy()
        assert np.array_equal(ring.inverse(ring.forward(x)), x)


@pytest.mark.parametrize("ring_size", MOST_PRIMES)
def test_no_partial_sum_can_exceed_2_to_the_53(ring_size: int) -> None:
    """Residues after `reduce` may lie 4 beyond q / 2, for the quotient is rounded once more."""
    ring = ring_of(ring_size, MOST_PRIMES[ring_size])
    half = max(ring.primes) // 2
    assert max(ring.rows, ring.columns) * half * (half + 4) <= 1 << 53


def test_reduction_is_exact_up_to_2_to_the_53() -> None:
    ring = ring_of(8192, 8)
    near_halves = [times * q // 2 + step for q in ring.primes for times in (1, 3, 5, 1 << 29) for step in (-1, 0, 1)]
    edges = [(1 << 53) - each for each in range(1000)] + near_halves
    numbers = [sign * each for each in edges for sign in (1, -1)]
    x = np.tile(np.array(numbers, np.float64), (8, 1))
    ring.reduce(x, np.empty_like(x))
    for index, prime in enumerate(ring.primes):
        assert [int(each) % prime for each in x[index]] == [each % prime for each in numbers]
        assert np.abs(x[index]).max() <= prime // 2 + 4


def test_residues_of_centred_integers_are_below_their_primes() -> None:
    ring = ring_of(4096, 3)
    x = random_elements(ring, 3)
    residues = ring.residues(x)
    assert (residues < np.array(ring.primes)[:, None]).all()
    assert ((residues.astype(np.int64) - x.astype(np.int64)) % np.array(ring.primes)[:, None] == 0).all()


def test_no_matrix_product_is_large_enough_to_wake_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(a: Real, b: Real, **options: Any) -> Real:
        seen.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return MATMUL(a, b, **options)

    monkeypatch.setattr(module.np, "matmul", noting)
    for ring_size, most in MOST_PRIMES.items():
        ring = ring_of(ring_size, most)
        ring.inverse(ring.forward(random_elements(ring, 4)))
        small_product(np.ones((18, 18)), np.ones((18, ring_size)))
    assert len(seen) > 10
    assert max(seen) <= 1 << 18


def in_single_precision(a: Real, b: Real) -> Real:
    return MATMUL(a.astype(np.float32), b.astype(np.float32)).astype(np.float64)


def off_by_one_somewhere(a: Real, b: Real) -> Real:
    product = MATMUL(a, b)
    product.reshape(-1)[7] += 1.0
    return product


def split_in_two_rounded_halves(a: Real, b: Real) -> Real:
    """What a BLAS does that multiplies doubles as two bfloat16-like parts: 2^-40 relative."""
    product = MATMUL(a, b)
    return product * (1 + 2.0**-40)


@pytest.mark.parametrize("wrong", [in_single_precision, off_by_one_somewhere, split_in_two_rounded_halves])
@pytest.mark.parametrize("ring_size", MOST_PRIMES)
def test_the_self_test_catches_a_blas_that_is_not_exact(
    monkeypatch: pytest.MonkeyPatch, ring_size: int, wrong: Callable[[Real, Real], Real]
) -> None:
    ring = Ring(ring_size, primes(ring_size, 2))
    require_exact_blas(ring)
    monkeypatch.setattr(module.np, "matmul", wrong)
    with pytest.raises(Misuse, match="not exact on this machine"):
        require_exact_blas(ring)


@pytest.mark.parametrize("call", range(4))
def test_the_self_test_catches_one_wrong_digit_in_any_of_the_four_products(
    monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Two products there and two back; entry 7 of the second is not among those compared with plain integers."""
    ring = Ring(8192, primes(8192, 8))
    calls = iter(range(4))

    def wrong_once(a: Real, b: Real) -> Real:
        return off_by_one_somewhere(a, b) if next(calls) == call else MATMUL(a, b)

    monkeypatch.setattr(module.np, "matmul", wrong_once)
    with pytest.raises(Misuse, match="not exact on this machine"):
        require_exact_blas(ring)


def test_a_ring_is_tested_before_its_first_use_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = []
    monkeypatch.setattr(module, "require_exact_blas", tested.append)
    ring_for.cache_clear()
    first = ring_of(4096, 1)
    assert ring_of(4096, 1) is first
    assert tested == [first]
    ring_for.cache_clear()
