"""The ring of spec §13 a second time, from the standard library alone: big integers, a recursive transform, no numpy.

It shares no code with secagg and is slow on purpose. Everything is a list of Python integers.
"""

from __future__ import annotations

import hashlib
from functools import cache

PREFIX = b"secagg-lora/v1 "
PRIME_LIMIT = 1 << 24


@cache
def largest_primes(ring_size: int, count: int) -> tuple[int, ...]:
    found: list[int] = []
    number = PRIME_LIMIT
    while len(found) < count:
        number -= 1
        if number % (2 * ring_size) == 1 and all(number % each for each in range(2, int(number**0.5) + 1)):
            found.append(number)
    return tuple(found)


@cache
def least_root(ring_size: int, prime: int) -> int:
    """The least psi of order 2N: psi^N = -1."""
    step = (prime - 1) // (2 * ring_size)
    root = next(r for g in range(2, prime) if pow(r := pow(g, step, prime), ring_size, prime) == prime - 1)
    best, square = root, root * root % prime
    for _ in range(ring_size):
        root = root * square % prime
        best = min(best, root)
    return best


def transform(x: list[int], root: int, prime: int) -> list[int]:
    """Entry k is the sum of x[j] root^(j k)."""
    if len(x) == 1:
        return x
    square = root * root % prime
    even, odd = transform(x[::2], square, prime), transform(x[1::2], square, prime)
    out, power, half = [0] * len(x), 1, len(even)
    for k in range(half):
        term = power * odd[k] % prime
        out[k], out[k + half] = (even[k] + term) % prime, (even[k] - term) % prime
        power = power * root % prime
    return out


def product(element: list[int], short: list[int], prime: int) -> list[int]:
    """Coefficients of a s. element: values of a, entry i at psi^(2 bitrev(i) + 1)."""
    size = len(element)
    width = size.bit_length() - 1
    psi = least_root(size, prime)
    values = transform([each * pow(psi, j, prime) % prime for j, each in enumerate(short)], psi * psi % prime, prime)
    natural = [element[int(format(k, f"0{width}b")[::-1], 2)] for k in range(size)]
    back = pow(psi, -1, prime)
    products = [a * b % prime for a, b in zip(natural, values, strict=True)]
    sums = transform(products, back * back % prime, prime)
    scale = pow(size, -1, prime)
    return [each * scale * pow(back, j, prime) % prime for j, each in enumerate(sums)]


def public_row(header: bytes, block: int, index: int, ring_size: int, prime: int) -> list[int]:
    source = PREFIX + b"ckks public element\0" + header + block.to_bytes(4, "big") + index.to_bytes(2, "big")
    octets = hashlib.shake_128(source).digest(6 * ring_size)
    numbers = [int.from_bytes(octets[at : at + 3], "little") for at in range(0, len(octets), 3)]
    return [each for each in numbers if each < prime][:ring_size]


def centred_binomial(source: bytes, count: int) -> list[int]:
    octets = hashlib.shake_256(source).digest(16 * count)
    ones = [int.from_bytes(octets[at : at + 8], "little").bit_count() for at in range(0, len(octets), 8)]
    return [plus - minus for plus, minus in zip(ones[::2], ones[1::2], strict=True)]


def one_time_key(seed: bytes, ring_size: int) -> list[int]:
    return centred_binomial(PREFIX + b"ckks key\0" + seed, ring_size)


def seed(random: bytes, header: bytes, place: int, floats: bytes, weight: int) -> bytes:
    """floats: the update, little-endian binary32."""
    update = hashlib.sha256(PREFIX + b"ckks update\0" + weight.to_bytes(8, "big") + floats).digest()
    return hashlib.sha512(PREFIX + b"ckks seed\0" + random + header + place.to_bytes(4, "big") + update).digest()


class Packing:
    """How one block of `size` values and eight checks lies in the ring."""

    def __init__(self, bits: int, sites: int, cap: int, size: int, ring_size: int, count: int) -> None:
        self.size, self.ring_size, self.primes = size, ring_size, largest_primes(ring_size, count)
        self.q = 1
        for prime in self.primes:
            self.q *= prime
        self.width = (sites * cap * (2**bits - 1)).bit_length()
        bound = min(64 * sites, int((64 * sites * 110) ** 0.5) + 1)
        room = self.q.bit_length() - 2
        self.fields = (room - bound.bit_length() - 1) // self.width
        self.delta = min(room - self.fields * self.width, 40)
        self.used = -(-(size + 8) // self.fields)

    def integers(self, levels: list[int]) -> list[int]:
        """Delta m: one integer for each used coefficient."""
        slots = levels + [1] + [0] * (self.fields * self.used - len(levels) - 1)
        return [
            sum(slots[field * self.used + at] << (self.delta + field * self.width) for field in range(self.fields))
            for at in range(self.used)
        ]

    def encrypt(self, header: bytes, seed: bytes, levels: list[int]) -> list[list[int]]:
        key = one_time_key(seed, self.ring_size)
        error = centred_binomial(PREFIX + b"ckks error\0" + seed + bytes(4), self.used)
        plain = self.integers(levels)
        rows = []
        for index, prime in enumerate(self.primes):
            masked = product(public_row(header, 0, index, self.ring_size, prime), key, prime)
            rows.append([(a + e + m) % prime for a, e, m in zip(masked, error, plain, strict=False)])
        return rows

    def words(self, rows: list[list[int]]) -> bytes:
        octets = b"".join(each.to_bytes(3, "little") for row in rows for each in row)
        return octets + bytes(-len(octets) % 8)

    def add(self, ciphertexts: list[list[list[int]]]) -> list[list[int]]:
        return [
            [sum(column) % prime for column in zip(*rows, strict=True)]
            for prime, *rows in zip(self.primes, *ciphertexts, strict=True)
        ]

    def decrypt(self, header: bytes, key: list[int], rows: list[list[int]]) -> tuple[list[int], int]:
        """All slots, checks and padding among them, and the largest |error|."""
        plain = [0] * self.used
        for index, (prime, row) in enumerate(zip(self.primes, rows, strict=True)):
            masked = product(public_row(header, 0, index, self.ring_size, prime), key, prime)
            part = self.q // prime * pow(self.q // prime, -1, prime)
            plain = [(x + (c - a) * part) % self.q for x, c, a in zip(plain, row, masked, strict=False)]
        half = 1 << (self.delta - 1)
        shifted = [(x + half) % self.q for x in plain]
        errors = [abs((x & (2 * half - 1)) - half) for x in shifted]
        fields = [x >> self.delta for x in shifted]
        return [
            x >> (field * self.width) & ((1 << self.width) - 1) for field in range(self.fields) for x in fields
        ], max(errors)
