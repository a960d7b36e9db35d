"""Ciphertexts as words: every residue travels, no other does, and sums are SEAL's own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pytest

from secagg.ckks_shared import frames
from secagg.ckks_shared.params import CIPHERTEXT_WORDS, PRIME
from secagg.errors import Malformed, Misuse
from tests.ckks_shared.made import context_bytes, residues_of
from tests.sim import some_shared_key


@pytest.mark.parametrize("ciphertexts", [1, 2, 65])
def test_words_hold_every_residue_and_nothing_else(ciphertexts: int) -> None:
    residues = residues_of(1, ciphertexts)
    residues[0, :3] = PRIME - 1, 0, 1
    words = frames.pack(residues)
    assert words.shape == (ciphertexts * CIPHERTEXT_WORDS,)
    assert np.array_equal(frames.unpack(words), residues)


def test_words_lie_as_the_spec_says() -> None:
    residues = residues_of(2)
    words = frames.pack(residues)
    plain = [int(each) for each in residues[0]]
    for p in range(15):
        for column in (0, 1, 511):
            nibble = plain[512 * 15 + column] >> 4 * p & 15
            assert int(words[512 * p + column]) == plain[512 * p + column] | nibble << 60


@pytest.mark.parametrize("at", [0, 511, 4095, 4096, 512 * 15 - 1, 512 * 15, 8191])
def test_a_residue_that_is_not_below_the_modulus_is_malformed(at: int) -> None:
    residues = residues_of(3, 2)
    residues[1, at] = PRIME - 1
    frames.require_residues(frames.pack(residues))
    residues[1, at] = PRIME
    with pytest.raises(Malformed, match="not below the modulus"):
        frames.require_residues(frames.pack(residues))


@pytest.mark.parametrize("count", [CIPHERTEXT_WORDS - 1, CIPHERTEXT_WORDS + 1, 1])
def test_a_part_of_a_ciphertext_is_our_own_mistake(count: int) -> None:
    with pytest.raises(Misuse, match="a ciphertext has"):
        frames.require_residues(np.zeros(count, np.uint64))
    with pytest.raises(Misuse, match="a ciphertext has"):
        frames.require_residues(np.zeros(CIPHERTEXT_WORDS, np.int64))
    with pytest.raises(Misuse, match="a ciphertext has"):
        frames.require_residues(np.zeros((1, CIPHERTEXT_WORDS), np.uint64))


def test_sums_are_those_of_residues_modulo_q() -> None:
    one, other = residues_of(4, 66), residues_of(5, 66)
    one[0, :2], other[0, :2] = (PRIME - 1, 0), (PRIME - 1, 0)
    one[0, 2], other[0, 2] = PRIME - 1, 1
    total = frames.pack(one)
    frames.add(total, frames.pack(other))
    expected = (one.astype(object) + other.astype(object)) % PRIME
    assert (frames.unpack(total).astype(object) == expected).all()


def test_a_sum_takes_no_ciphertexts_of_another_length() -> None:
    with pytest.raises(Misuse, match="as many words"):
        frames.add(np.zeros(2 * CIPHERTEXT_WORDS, np.uint64), np.zeros(CIPHERTEXT_WORDS, np.uint64))


_SEAL_ADDS = """
import base64, json, sys, tenseal as ts
secret, public = (base64.b64decode(each) for each in json.loads(sys.stdin.read()))
context = ts.context_from(secret, n_threads=1)
one, other = (ts.ckks_vector(context, [float(i * k) for i in range(2048)]).serialize() for k in (3, -5))
server = ts.context_from(public, n_threads=1)  # as a server would have it: parameters, and no key of any kind
assert not server.has_secret_key() and not server.has_relin_keys() and not server.has_galois_keys()
total = (ts.ckks_vector_from(server, one) + ts.ckks_vector_from(server, other)).serialize()
print(json.dumps([base64.b64encode(each).decode() for each in (one, other, total)]))
"""


def test_seal_with_an_add_only_context_gives_the_same_sum_bit_for_bit() -> None:
    public = context_bytes(secret=False)
    assert len(public) < 100
    given = json.dumps([base64.b64encode(each).decode() for each in (some_shared_key().secret, public)])
    done = subprocess.run(
        [sys.executable, "-c", _SEAL_ADDS], input=given, capture_output=True, text=True, check=True, timeout=120
    )
    made = [base64.b64decode(each) for each in json.loads(done.stdout)]
    one, other, total = (np.frombuffer(each[-9 - 65536 : -9], "<u8").astype(np.uint64)[None] for each in made)
    words = frames.pack(one)
    frames.add(words, frames.pack(other))
    assert np.array_equal(frames.unpack(words), total)
