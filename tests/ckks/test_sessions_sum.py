"""A false sum of keys or of ciphertexts is refused by every site before it is used (spec §13.6, §15)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ckks import frames
from secagg.ckks.payload import ZEROS
from secagg.errors import FaultyServer, Malformed, SecAggError
from secagg.masked.messages import MaskedAggregate, RoundRecord
from secagg.session import Packet, Words
from secagg.tally import WORDS
from tests.ckks.sessions import ckks, payload_of, published
from tests.sim import Round

GONE = "site-07"
NOT_THEIRS = "not that of the survivors' vectors"


@cache
def finished() -> tuple[Round, RoundRecord, Words]:
    """Seven sites of which one drops out, with a residue that is not in use at the end of the sum."""
    round_ = ckks(7, 41, drop={"mask": [GONE]})
    done = round_.run().payload
    assert done.words is not None
    assert payload_of(round_).params.residues % 2 == 0
    return round_, MaskedAggregate.decode(done.head).record, done.words


def refused(packet: Packet, rule: str, error: type[SecAggError] = FaultyServer) -> None:
    """By every site that took part, whatever it holds; a site's session is as before."""
    round_, record, _ = finished()
    for site in [each.site for each in record.vectors]:
        state = round_.clients[site].to_bytes()
        opening = round_.opening(state)
        with pytest.raises(error, match=rule) as caught:
            round_.scheme.open(round_.site_context, packet, opening)
        assert type(caught.value) is error
        assert round_.clients[site].to_bytes() == state


def first(at: int, by: int = 1) -> Callable[[Words], Words]:
    def lie(words: Words) -> Words:
        words[at] += np.uint64(by)
        return words

    return lie


def on_numbers(change: Callable[[np.ndarray], None]) -> Callable[[Words], Words]:
    """A lie about the sum of ciphertexts, as 4-byte numbers."""

    def lie(words: Words) -> Words:
        tail = words[payload_of(finished()[0]).words :].copy()
        numbers = tail.view("<u4")
        change(numbers)
        words[payload_of(finished()[0]).words :] = tail
        return words

    return lie


def residues(site: str) -> np.ndarray:
    round_, _, _ = finished()
    payload = payload_of(round_)
    blocks = frames.read(payload.params, round_.archive.get(site)[payload.words :])
    return np.concatenate([each.reshape(-1) for each in blocks])


def add_delta(numbers: np.ndarray) -> None:
    """Delta t on one coefficient, mod every prime: the field's value grows by t, and the noise is what it was."""
    params = payload_of(finished()[0]).params
    width = params.coefficients(0)
    for place, prime in enumerate(params.primes):
        at = place * width + 5
        numbers[at] = numbers[at] + (5 << params.delta_bits) % prime


def add_one(numbers: np.ndarray) -> None:
    numbers[3] += 1


def add_prime(numbers: np.ndarray) -> None:
    """The same residue in another way."""
    numbers[3] += payload_of(finished()[0]).params.primes[0]


def less_one_site(numbers: np.ndarray) -> None:
    numbers[: payload_of(finished()[0]).params.residues] -= residues("site-02")


def one_site_twice(numbers: np.ndarray) -> None:
    numbers[: payload_of(finished()[0]).params.residues] += residues("site-02")


def swap(numbers: np.ndarray) -> None:
    numbers[[0, 1]] = numbers[[1, 0]]


def zeros(numbers: np.ndarray) -> None:
    numbers[:] = 0


def wrap(numbers: np.ndarray) -> None:
    numbers[-1 - payload_of(finished()[0]).params.residues % 2] ^= np.uint32(1 << 31)


def less_masked(words: Words) -> Words:
    round_, _, _ = finished()
    count = payload_of(round_).words
    words[:count] -= round_.archive.get("site-02")[:count]
    return words


LIES: dict[str, Callable[[Words], Words]] = {
    "adds one to a word of the key": first(0),
    "adds one to a lane in the middle of the key": first(100, 1 << 20),
    "writes in a word that is zero": first(-1 - len(WORDS) - 21 - 12),
    "alters a residue": on_numbers(add_one),
    "adds Delta t to a coefficient": on_numbers(add_delta),
    "adds the prime to a residue": on_numbers(add_prime),
    "leaves out a site's ciphertext": on_numbers(less_one_site),
    "adds a site's ciphertext twice": on_numbers(one_site_twice),
    "swaps two residues": on_numbers(swap),
    "publishes no ciphertext": on_numbers(zeros),
    "flips the highest bit of the last residue": on_numbers(wrap),
    "leaves out a site's masked words": less_masked,
}


@pytest.mark.parametrize("silent", ["nobody", "one", "all"])
@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_alters_the_sum_is_refused_by_every_site(lie: str, silent: str) -> None:
    round_, record, words = finished()
    altered = LIES[lie](words.copy())
    assert altered.shape == words.shape
    assert not np.array_equal(altered, words)
    names = [each.site for each in record.vectors]
    quiet = {"nobody": [], "one": ["site-02"], "all": names}[silent]
    refused(published(round_, record, altered, quiet), NOT_THEIRS)


@pytest.mark.parametrize("silent", [(), ("site-02",), tuple(f"site-0{i}" for i in range(1, 7))])
def test_the_true_sum_is_opened_whoever_is_silent(silent: tuple[str, ...]) -> None:
    round_, record, words = finished()
    packet = published(round_, record, words, silent)
    opening = round_.opening(round_.clients["site-03"].to_bytes())
    mean = round_.scheme.open(round_.site_context, packet, opening)
    assert len(mean.contributors) == 6
    assert mean.transcript == record.transcript()


@settings(max_examples=40)
@given(st.data())
def test_any_word_and_any_residue_altered_by_any_amount_is_refused(data: st.DataObject) -> None:
    round_, record, words = finished()
    altered, count = words.copy(), payload_of(round_).words
    for at in data.draw(st.sets(st.integers(0, words.size - 1), min_size=1, max_size=5)):
        altered[at : at + 1] += np.uint64(data.draw(st.integers(1, 2**64 - 1)))
    assert not np.array_equal(altered[:count], words[:count]) or not np.array_equal(altered[count:], words[count:])
    opening = round_.opening(round_.clients["site-03"].to_bytes())
    with pytest.raises(FaultyServer, match=NOT_THEIRS):
        round_.scheme.open(round_.site_context, published(round_, record, altered), opening)


def test_words_attached_for_a_silent_site_are_those_it_signed() -> None:
    """A lie in the sum that is made up for in a silent site's ciphertext shows in that site's own digest."""
    round_, record, words = finished()
    altered = on_numbers(add_one)(words.copy())
    packet = published(round_, record, altered, ["site-02"])
    assert packet.words is not None
    tail = packet.words.size - payload_of(round_).tail_words
    octets = packet.words[tail:].view(np.uint8)
    octets[3 * 3] += 1  # the same residue of the site's own, 3 bytes each
    refused(packet, "words of site-02 are not those it signed")


def test_a_sum_of_another_length_or_with_bytes_behind_its_end_is_refused() -> None:
    round_, record, words = finished()
    for other in (words[:-1], np.append(words, words[:1])):
        refused(published(round_, record, other), "the sum does not have")


def test_a_number_behind_the_last_residue_is_refused() -> None:
    """Three primes of an odd number of coefficients leave half a word."""
    round_ = ckks(5, 41, manifest={"bits": 20, "weight_cap": 40})
    done = round_.run()
    payload = payload_of(round_)
    assert payload.params.residues % 2 == 1, payload.params
    round_.mean(done)
    assert done.payload.words is not None
    record, words = MaskedAggregate.decode(done.payload.head).record, done.payload.words.copy()
    words[-1] += np.uint64(1 << 32)
    opening = round_.opening(round_.clients["site-03"].to_bytes())
    with pytest.raises(Malformed, match="bytes behind its end"):
        round_.scheme.open(round_.site_context, published(round_, record, words), opening)


def test_zero_words_lie_between_the_key_and_the_tally() -> None:
    round_, _, _ = finished()
    payload = payload_of(round_)
    assert payload.words == payload.params.key_words + ZEROS + len(WORDS)
