"""How ring elements are multiplied exactly: the number-theoretic transform as small float64 matrix products (spec §13).

Residues are centred, |x| <= q/2 < 2^23, and held in float64. Every matrix product adds at most 128 products of two
of them, so every partial sum is an integer of at most 2^53 and exact in whatever order a BLAS adds. Products are cut
to m n k <= 2^18, where OpenBLAS stays on the calling thread. Order and root of the transform are Microsoft SEAL's:
entry i is the value at psi^(2 bitrev(i) + 1), psi the least primitive 2N-th root of unity.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.errors import Misuse

Real = NDArray[np.float64]

_PRODUCT: Final = 1 << 18  # most multiplications of one matrix product


class Ring:
    """Z_q[X] / (X^N + 1) for a product q of primes; elements are float64 (primes, N), centred."""

    def __init__(self, ring_size: int, primes: tuple[int, ...]) -> None:
        """primes: below 2^24, each 1 mod 2N. Use `ring_for`, which tests the machine's arithmetic as well."""
        self.size, self.primes = ring_size, primes
        self.rows = 1 << ((ring_size.bit_length() - 1) // 2)
        self.columns = ring_size // self.rows
        self.modulus = np.array(primes, np.float64)[:, None]
        self.inverse_modulus = 1.0 / self.modulus
        tables = [_twiddles(ring_size, self.rows, prime) for prime in primes]
        self._left, self._twist, self._right, self._right_back, self._twist_back, self._left_back = (
            np.stack(each) for each in zip(*tables, strict=True)
        )

    def __repr__(self) -> str:
        return f"Ring(size={self.size}, primes={len(self.primes)})"

    def reduce(self, x: Real, scratch: Real) -> Real:
        """x mod q_l, centred, in place. x: integers, |x| <= 2^53, shape (primes, ...). scratch: as large."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        np.multiply(x, self.inverse_modulus.reshape(shape), out=scratch)
        np.rint(scratch, out=scratch)
        np.multiply(scratch, self.modulus.reshape(shape), out=scratch)
        return np.subtract(x, scratch, out=x)

    def forward(self, x: Real) -> Real:
        """Coefficients to values, both (primes, N) and centred."""
        grid = _from_left(self._left, x.reshape(-1, self.rows, self.columns))
        scratch = np.empty_like(grid)
        self.reduce(grid, scratch)
        self.reduce(np.multiply(grid, self._twist, out=grid), scratch)
        grid = _from_right(grid, self._right)
        return self.reduce(grid, scratch).reshape(x.shape)

    def inverse(self, x: Real) -> Real:
        """Values to coefficients, both (primes, N) and centred."""
        grid = _from_right(x.reshape(-1, self.rows, self.columns), self._right_back)
        scratch = np.empty_like(grid)
        self.reduce(grid, scratch)
        self.reduce(np.multiply(grid, self._twist_back, out=grid), scratch)
        grid = _from_left(self._left_back, grid)
        return self.reduce(grid, scratch).reshape(x.shape)

    def values_of(self, small: NDArray[np.signedinteger]) -> Real:
        """The transform of a short integer vector (N,), the same for every prime."""
        x = np.empty((len(self.primes), self.size))
        x[:] = small
        return self.forward(self.reduce(x, np.empty_like(x)))

    def multiply(self, element: NDArray[np.uint32], values: Real) -> Real:
        """Coefficients of a product, centred. element: values as residues. values: centred, as `values_of` gives."""
        x = np.multiply(element, values)
        return self.inverse(self.reduce(x, np.empty_like(x)))

    def residues(self, x: Real) -> NDArray[np.uint32]:
        """Centred integers as residues 0..q_l - 1."""
        out = x.astype(np.int32)
        moduli = np.array(self.primes, np.int32)[:, None]
        np.add(out, (out >> 31) & moduli, out=out)
        return out.view(np.uint32)


@cache
def ring_for(ring_size: int, primes: tuple[int, ...]) -> Ring:
    """The ring, made and tested once per process. Raises Misuse if this machine's products are not exact."""
    ring = Ring(ring_size, primes)
    require_exact_blas(ring)
    return ring


def require_exact_blas(ring: Ring) -> None:
    """Compares transforms of the largest residues with plain integers. Raises Misuse if a digit differs.

    A BLAS that rounds, or that multiplies in less than float64, would make wrong sums without any sign of it.
    """
    octets = np.frombuffer(hashlib.shake_128(b"signs").digest(len(ring.primes) * ring.size // 8), np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(octets).reshape(len(ring.primes), ring.size)
    x: Real = np.multiply(signs, ring.modulus // 2)
    values = ring.forward(x)
    exact = np.array_equal(ring.inverse(values), x)
    for index in {0, len(ring.primes) - 1}:
        for place in (0, 1, ring.size - 1):
            exact &= _value(ring, x[index], index, place) == int(values[index, place]) % ring.primes[index]
    if not exact:
        raise Misuse("matrix products of float64 are not exact on this machine; use another BLAS for numpy")


def _value(ring: Ring, x: Real, index: int, place: int) -> int:
    """Entry `place` of the transform of one row, in plain integers (Horner)."""
    prime = ring.primes[index]
    psi = int(_powers_of_root(ring.size, prime)[1])
    point = pow(psi, 2 * int(_bit_reversal(ring.size)[place]) + 1, prime)
    value = 0
    for coefficient in x[::-1].tolist():
        value = (value * point + int(coefficient)) % prime
    return value


def _from_left(matrix: Real, x: Real) -> Real:
    """matrix[l] @ x[l] for every prime, a few rows at a time."""
    primes, rows, columns = x.shape
    some = min(rows, max(1, _PRODUCT // (rows * columns)))
    product: Real = np.matmul(matrix.reshape(primes, -1, some, rows), x[:, None])
    return product.reshape(x.shape)


def _from_right(x: Real, matrix: Real) -> Real:
    """x[l] @ matrix[l] for every prime, a few rows at a time."""
    primes, rows, columns = x.shape
    some = min(rows, max(1, _PRODUCT // (columns * columns)))
    product: Real = np.matmul(x.reshape(primes, -1, some, columns), matrix[:, None])
    return product.reshape(x.shape)


def small_product(matrix: Real, x: Real) -> Real:
    """matrix (p, r) @ x (r, M), a few columns at a time."""
    out = np.empty((matrix.shape[0], x.shape[1]))
    some = max(1, _PRODUCT // matrix.size)
    for start in range(0, x.shape[1], some):
        np.matmul(matrix, x[:, start : start + some], out=out[:, start : start + some])
    return out


@cache
def _bit_reversal(size: int) -> NDArray[np.int64]:
    """0..size - 1, each with its bits in reverse order."""
    out = np.zeros(1, np.int64)
    while out.size < size:
        out = np.concatenate((2 * out, 2 * out + 1))
    return out


@cache
def _powers_of_root(ring_size: int, prime: int) -> NDArray[np.int64]:
    """psi^0 .. psi^(2N - 1), psi the least primitive 2N-th root of unity mod the prime."""
    half = (prime - 1) // 2
    base = next(each for each in range(2, prime) if pow(each, half, prime) == prime - 1)  # not a square
    root = pow(base, half // ring_size, prime)
    return _powers(min(_powers(root, 2 * ring_size, prime)[1::2].tolist()), 2 * ring_size, prime)


def _powers(root: int, count: int, prime: int) -> NDArray[np.int64]:
    """root^0 .. root^(count - 1) mod the prime; count: a power of 2."""
    out = np.ones(1, np.int64)
    while out.size < count:
        out = np.concatenate((out, out * pow(root, out.size, prime) % prime))
    return out


def _twiddles(ring_size: int, rows: int, prime: int) -> tuple[Real, ...]:
    """The three matrices of the transform and the three of its inverse, centred.

    With N = rows * columns, coefficient j1 * columns + j2 and point exponent 2 (k1 + rows * k2) + 1 the power of psi
    is  columns j1 (2 k1 + 1)  +  j2 (2 k1 + 1)  +  2 rows j2 k2  mod 2N: a product from the left, a product entry by
    entry, a product from the right. k1 and k2 run in bit-reversed order.
    """
    columns = ring_size // rows
    powers = _powers_of_root(ring_size, prime)
    odd = 2 * _bit_reversal(rows) + 1
    j1, j2, k2 = np.arange(rows), np.arange(columns), _bit_reversal(columns)

    def table(exponents: NDArray[np.int64], factor: int = 1) -> Real:
        residues = powers[exponents % (2 * ring_size)] * factor % prime
        return np.where(residues > prime // 2, residues - prime, residues).astype(np.float64)

    return (
        table(columns * np.outer(odd, j1)),
        table(np.outer(odd, j2)),
        table(2 * rows * np.outer(j2, k2)),
        table(-2 * rows * np.outer(k2, j2)),
        table(-np.outer(odd, j2), pow(ring_size, -1, prime)),
        table(-columns * np.outer(j1, odd)),
    )
