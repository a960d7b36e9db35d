"""Any t shares give the secret back; t - 1 fit every secret equally well."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import Malformed, Misuse
from secagg.primitives.shamir import SHARE_BYTES, P, combine, split
from tests.sim import Dice

secrets = st.binary(min_size=32, max_size=32)


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, list[int], int]:
    points = draw(st.lists(st.integers(1, 100), min_size=1, max_size=12, unique=True))
    return draw(secrets), draw(st.integers(1, len(points))), points, draw(st.integers(0, 9))


@given(sharings(), st.randoms(use_true_random=False))
def test_any_t_shares_give_the_secret_back(case: tuple[bytes, int, list[int], int], random) -> None:  # type: ignore[no-untyped-def]
    secret, t, points, seed = case
    shares = split(secret, t, points, Dice(seed))
    assert set(shares) == set(points)
    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    chosen = random.sample(points, t)
    assert combine({x: shares[x] for x in chosen}, t) == secret
    assert combine(shares, t) == secret


def interpolate(values: dict[int, int], at: int) -> int:
    """The value at `at` of the polynomial through these points, written out from the textbook."""
    total = 0
    for x, y in values.items():
        term = y
        for other in values:
            if other != x:
                term = term * (at - other) * pow(x - other, -1, P) % P
        total += term
    return total % P


@given(sharings(), secrets)
def test_one_share_less_than_t_fits_every_secret(case: tuple[bytes, int, list[int], int], other: bytes) -> None:
    """For t - 1 shares and any secret at all there is one polynomial, hence one last share, that joins them.

    Coefficients are uniform, so all those polynomials are equally likely: the t - 1 shares say nothing.
    """
    secret, t, points, seed = case
    shares = split(secret, t, points, Dice(seed))
    known = {x: int.from_bytes(shares[x], "big") for x in points[: t - 1]}
    last = points[t - 1]
    forged = interpolate({0: int.from_bytes(other, "big"), **known}, last).to_bytes(SHARE_BYTES, "big")
    assert combine({**{x: shares[x] for x in known}, last: forged}, t) == other
    true = interpolate({0: int.from_bytes(secret, "big"), **known}, last).to_bytes(SHARE_BYTES, "big")
    assert true == shares[last]


def test_a_single_share_of_two_is_uniform_whatever_the_secret() -> None:
    """Sixteen buckets of the field, 1,600 sharings of each of two secrets: chi-square with 15 degrees of freedom."""
    for secret in (bytes(32), b"\xff" * 32):
        dice = Dice(secret)
        shares = (int.from_bytes(split(secret, 2, [1, 2], dice)[1], "big") for _ in range(1600))
        counts = Counter(16 * share // P for share in shares)
        chi_square = sum((counts[bucket] - 100) ** 2 / 100 for bucket in range(16))
        assert 1.5 < chi_square < 48  # both tails below 3e-5


def test_the_field_is_the_least_prime_above_2_to_the_256() -> None:
    def is_prime(n: int) -> bool:  # Miller-Rabin to the first twelve prime bases
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            x = pow(base, odd, n)
            if x in (1, n - 1):
                continue
            if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
                return False
        return True

    assert is_prime(P)
    assert P == 2**256 + 297
    assert not any(is_prime(2**256 + gap) for gap in range(297))


@pytest.mark.parametrize("number", [0, 1, 2**256 - 1])
def test_the_ends_of_the_secrets_range_survive(number: int) -> None:
    secret = number.to_bytes(32, "big")
    assert combine(split(secret, 3, [1, 2, 3], Dice(0)), 3) == secret


def test_shares_of_sixty_seven_in_a_hundred_work() -> None:
    secret = Dice("s")(32)
    shares = split(secret, 67, range(1, 101), Dice(0))
    assert combine({x: shares[x] for x in range(34, 101)}, 67) == secret
    shares[50] = (int.from_bytes(shares[50], "big") ^ 1).to_bytes(33, "big")
    with suppress(Malformed):  # the false secret may exceed 32 bytes
        assert combine({x: shares[x] for x in range(34, 101)}, 67) != secret


@pytest.mark.parametrize(
    "call",
    [
        lambda: split(bytes(31), 2, [1, 2], Dice(0)), lambda: split(bytes(32), 0, [1, 2], Dice(0)),
        lambda: split(bytes(32), 3, [1, 2], Dice(0)), lambda: split(bytes(32), 2, [1, 1], Dice(0)),
        lambda: split(bytes(32), 2, [0, 1], Dice(0)), lambda: split(bytes(32), 2, [P, 1], Dice(0)),
        lambda: split(bytes(32), 0, [], Dice(0)), lambda: combine({1: bytes(33)}, 2),
        lambda: combine({1: bytes(33)}, 0), lambda: combine({0: bytes(33), 1: bytes(33)}, 2),
    ],
)  # fmt: skip
def test_a_sharing_that_would_give_the_secret_away_or_make_no_sense_is_our_own_mistake(call) -> None:  # type: ignore[no-untyped-def]
    """Above all: the share at point 0 is the secret."""
    with pytest.raises(Misuse):
        call()


def test_what_is_no_share_is_malformed() -> None:
    good = split(bytes(32), 2, [1, 2], Dice(0))
    for bad in (b"", bytes(32), bytes(34), P.to_bytes(33, "big"), b"\xff" * 33):
        with pytest.raises(Malformed, match="not a field element"):
            combine({**good, 2: bad}, 2)
    above = {x: (2**256 + 5).to_bytes(33, "big") for x in (1, 2)}  # a constant polynomial above every secret
    with pytest.raises(Malformed, match="do not belong to one secret"):
        combine(above, 2)
