"""Streams are plain AES-256-CTR, wherever they start and however they are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import Misuse
from secagg.primitives.prg import SEED_BYTES, Stream
from tests.vectors.form import read

NIST = read("published/aes_256_ctr.json")["cases"][0]
KEY, COUNTER, PLAINTEXT = (bytes.fromhex(NIST["inputs"][name]) for name in ("key", "counter", "plaintext"))
CIPHERTEXT = bytes.fromhex(NIST["outputs"]["ciphertext"])
KEYSTREAM = bytes(a ^ b for a, b in zip(PLAINTEXT, CIPHERTEXT, strict=True))
SEED = bytes(range(SEED_BYTES))


def test_the_stream_is_the_one_of_nist_sp_800_38a() -> None:
    assert Stream(KEY + COUNTER).read(64) == KEYSTREAM


@pytest.mark.parametrize("start", [0, 16, 32, 48])
def test_a_stream_that_starts_later_gives_the_rest(start: int) -> None:
    assert Stream(KEY + COUNTER, start).read(64 - start) == KEYSTREAM[start:]


def test_the_counter_carries_through_all_128_bits() -> None:
    last = Stream(bytes(32) + b"\xff" * 16, 16).read(16)
    assert last == Stream(bytes(SEED_BYTES)).read(16)
    assert last == Stream(bytes(32) + b"\xff" * 16).read(32)[16:]


@given(st.lists(st.integers(0, 300), max_size=8))
def test_pieces_join_to_the_whole(lengths: list[int]) -> None:
    stream = Stream(SEED)
    assert b"".join(stream.read(length) for length in lengths) == Stream(SEED).read(sum(lengths))


@pytest.mark.parametrize("words", [1, 3, 1 << 15, (1 << 15) + 1, (1 << 16) + 7])
def test_filling_an_array_writes_the_stream_as_little_endian_words(words: int) -> None:
    out = np.full(words, 7, np.uint64)
    Stream(SEED).fill(out)
    assert out.tobytes() == Stream(SEED).read(8 * words)
    assert int(out[0]) == int.from_bytes(Stream(SEED).read(8), "little")


@pytest.mark.parametrize(("length", "start"), [(47, 0), (49, 0), (48, 8), (48, -16)])
def test_another_seed_length_or_a_start_inside_an_aes_block_is_refused(length: int, start: int) -> None:
    with pytest.raises(Misuse):
        Stream(bytes(length), start)


def test_a_stream_prints_without_its_seed() -> None:
    assert repr(Stream(SEED)) == "Stream()"
