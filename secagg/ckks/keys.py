"""How a one-time key goes through the masked protocol: as lanes of words, whose sum is that of the keys (spec §13).

A lane holds s + 64, which is never negative, so no lane of the sum carries into the next.
"""

from __future__ import annotations

import numpy as np

from secagg.ckks.decoding import Integers
from secagg.ckks.params import ETA, RingParams
from secagg.ckks.sampling import Small
from secagg.errors import FaultyServer, Misuse
from secagg.lanes import lanes_per_word, pack, unpack
from secagg.session import Words


def key_words(params: RingParams, key: Small) -> Words:
    """A site's key, (N,), as words, uint64 (params.key_words,); secret until masks are added."""
    if key.dtype != np.int8 or key.shape != (params.ring_size,):
        raise Misuse(f"expected a key of {params.ring_size} int8 values")
    lanes = np.zeros(params.key_words * lanes_per_word(params.key_lane_bits), np.uint32)
    lanes[: key.size] = key.astype(np.int32) + ETA
    return pack(lanes, params.key_lane_bits, np.empty(params.key_words, np.uint64))


def key_sum(params: RingParams, words: Words, survivors: int) -> Integers:
    """The sum of the survivors' keys, int64 (N,), from the sum of their words, all masks and pads gone.

    Raises FaultyServer for what no keys sum to.
    """
    if words.dtype != np.uint64 or words.shape != (params.key_words,):
        raise Misuse(f"expected a key sum of {params.key_words} uint64 words")
    room = np.empty(params.key_words * lanes_per_word(params.key_lane_bits), np.uint64)
    lanes = unpack(words, params.key_lane_bits, room)
    if lanes[params.ring_size :].any() or int(lanes.max()) > 2 * ETA * survivors:
        raise FaultyServer("the words are no sum of the survivors' keys")
    return lanes[: params.ring_size].astype(np.int64) - ETA * survivors
