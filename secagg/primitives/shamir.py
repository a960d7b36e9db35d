"""Shamir's (t, n) sharing of 32-byte secrets over F_p, p = 2^256 + 297 (Shamir 1979; spec §5.6).

Python's integers are not constant-time: an attacker who times a site's arithmetic from within the same
machine is outside the threat model (spec §18).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from secagg.errors import Malformed, Misuse

P = (1 << 256) + 297  # the least prime above 2^256, so that every 32-byte secret is a field element
SECRET_BYTES = 32
SHARE_BYTES = 33
_WIDE = 64  # bytes per coefficient before reduction: bias below 2^-254


def split(secret: bytes, threshold: int, points: Sequence[int], rng: Callable[[int], bytes]) -> dict[int, bytes]:
    """A 33-byte share for each point; any `threshold` of them give the secret back.

    secret: 32 bytes. points: distinct, 1..p-1. rng: n -> n bytes. Raises Misuse.
    """
    distinct = len(set(points)) == len(points) and min(points, default=0) >= 1 and max(points) < P
    if len(secret) != SECRET_BYTES or not (distinct and 1 <= threshold <= len(points)):
        raise Misuse("a secret has 32 bytes, a threshold of 1..n and distinct points from 1")
    wide = rng(_WIDE * (threshold - 1))
    high = [int.from_bytes(wide[i : i + _WIDE], "big") % P for i in range(0, len(wide), _WIDE)]
    polynomial = [*high, int.from_bytes(secret, "big")]  # descending powers; the constant term is the secret
    return {x: _evaluate(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in points}


def _evaluate(polynomial: list[int], x: int) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value * x + coefficient) % P
    return value


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The 32-byte secret that the first `threshold` shares (by point) determine.

    shares: point -> 33 bytes. Raises Misuse for too few, Malformed for shares of no 32-byte secret.
    """
    if threshold < 1 or len(shares) < threshold:
        raise Misuse(f"{len(shares)} shares do not reach the threshold {threshold}")
    points = tuple(sorted(shares)[:threshold])
    values = [int.from_bytes(shares[x], "big") for x in points]
    if any(len(shares[x]) != SHARE_BYTES for x in points) or max(values) >= P:
        raise Malformed("a share is not a field element of 33 bytes")
    secret = sum(weight * value for weight, value in zip(_weights(points), values, strict=True)) % P
    if secret >> (8 * SECRET_BYTES):
        raise Malformed("the shares do not belong to one secret")
    return secret.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange coefficients at 0: prod_{j != i} x_j / (x_j - x_i), with one inversion for all of them."""
    if min(points) < 1:
        raise Misuse("a point is at least 1")
    whole = 1
    for x in points:
        whole = whole * x % P
    below = []
    for x_i in points:
        product = x_i
        for x_j in points:
            if x_j != x_i:
                product = product * (x_j - x_i) % P
        below.append(product)
    return tuple(whole * inverse % P for inverse in _invert_all(below))


def _invert_all(values: list[int]) -> list[int]:
    """The inverses mod p, by Montgomery's trick."""
    prefix = list(accumulate(values, lambda a, b: a * b % P, initial=1))
    inverse = pow(prefix[-1], -1, P)
    inverses = []
    for value, before in zip(reversed(values), reversed(prefix[:-1]), strict=True):
        inverses.append(inverse * before % P)
        inverse = inverse * value % P
    return inverses[::-1]
