"""How levels and tally become ciphertexts, and a sum of ciphertexts sums of both (spec §21.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secagg.ckks_shared import frames
from secagg.ckks_shared.params import CIPHERTEXT_WORDS, HEAD_SLOTS, LIMB_BITS, ONE, SLOTS, Packing
from secagg.ckks_shared.workers import DECRYPT, ENCRYPT, Failed, run
from secagg.config import Manifest
from secagg.errors import FaultyServer
from secagg.rotate import BLOCK
from secagg.session import Words

Slots = NDArray[np.int64]
_FREE: Final = SLOTS - 1  # of a ciphertext, behind its 1
_PIECE: Final = 1 << 17  # slots worked on at a time, about
_LIMB: Final = (1 << LIMB_BITS) - 1
_NO_SUM: Final = "the sum is none of the survivors' updates"


def packing_of(manifest: Manifest) -> Packing:
    """How the session's values lie in ciphertexts."""
    quantizer = manifest.quantizer
    return Packing(quantizer.bits, len(manifest.sites), quantizer.weight_cap, manifest.size)


def piece_values(packing: Packing) -> int:
    """How many values `encrypt` takes at a time: whole slots, and whole blocks of the rotation."""
    return BLOCK * packing.fields * max(1, _PIECE // BLOCK // packing.fields)


def encrypt(packing: Packing, secret: bytes, pieces: Iterable[NDArray[Any]], tally: Callable[[], Words]) -> Words:
    """A site's ciphertexts, uint64 (packing.words,).

    pieces: its weighted levels, `piece_values` at a time. tally: its words, known behind the last piece.
    Raises Failed if TenSEAL fails here.
    """
    words = np.empty(packing.words, np.uint64)
    start = CIPHERTEXT_WORDS
    for made in run(secret, ENCRYPT, slots_of(packing, pieces, tally)):
        if start == words.size:  # the first ciphertext is made last, with the tally
            start = 0
        stop = start + len(made) // 8
        words[start:stop] = np.frombuffer(made, "<u8")
        start = stop
    return words


def slots_of(packing: Packing, pieces: Iterable[NDArray[Any]], tally: Callable[[], Words]) -> Iterator[bytes]:
    """The slots of up to 64 ciphertexts at a time, 8 bytes each; those of the first ciphertext come last, alone."""
    slots = (_value_slots(packing, piece) for piece in pieces)
    chunks = _cut(slots, _FREE - HEAD_SLOTS, frames.GROUP * _FREE)
    first = next(chunks)
    for chunk in chunks:
        yield _with_ones(chunk)
    yield _with_ones(np.concatenate((_limbs(tally()), first)))


def _value_slots(packing: Packing, values: NDArray[Any]) -> Slots:
    """Fields side by side, the lowest first, less the centre."""
    whole = np.zeros((-(-values.size // packing.fields), packing.fields), np.int64)
    whole.reshape(-1)[: values.size] = values
    slots = whole[:, packing.fields - 1]
    for field in range(packing.fields - 2, -1, -1):
        slots = (slots << packing.field_bits) + whole[:, field]
    return slots - packing.centre


def _limbs(words: Words) -> Slots:
    return np.stack((words & np.uint64(_LIMB), words >> np.uint64(LIMB_BITS)), axis=1).astype(np.int64).reshape(-1)


def _with_ones(chunk: Slots) -> bytes:
    """The slots of as many ciphertexts as the chunk needs, each with its 1 in front."""
    rows = np.zeros((-(-chunk.size // _FREE), _FREE), np.int64)
    rows.reshape(-1)[: chunk.size] = chunk
    ones = np.full((len(rows), 1), ONE, np.int64)
    return np.concatenate((ones, rows), axis=1).astype("<i8", copy=False).tobytes()


def _cut(arrays: Iterable[NDArray[Any]], first: int, then: int) -> Iterator[NDArray[Any]]:
    """The same numbers in pieces of `first`, and then of `then` until the last, which is what is left; not empty."""
    wanted, held, have = first, list[NDArray[Any]](), 0
    for array in arrays:
        rest = array
        while have + rest.size > wanted:
            yield np.concatenate((*held, rest[: wanted - have]))
            rest, wanted, held, have = rest[wanted - have :], then, [], 0
        held.append(rest)
        have += rest.size
    yield np.concatenate(held)


class Decrypted:
    """A sum as its key opens it. tally: its words, uint64 (8,). sums: of the weighted levels, once, in pieces.

    Raises FaultyServer, at once and from `sums`, for what no survivors' ciphertexts sum to.
    """

    def __init__(self, packing: Packing, secret: bytes, words: Words, survivors: int) -> None:
        """words: uint64 (packing.words,), of which `frames.require_residues` holds."""
        self._packing, self._survivors = packing, survivors
        jobs = (each.astype("<u8", copy=False).tobytes() for each in _first_and_rest(words))
        self._replies = run(secret, DECRYPT, jobs)
        first = self._slots(self._next())
        self.tally = self._tally(first[:HEAD_SLOTS])
        self._first = first[HEAD_SLOTS:]

    def _next(self) -> bytes:
        try:
            return next(self._replies)
        except Failed as error:
            raise FaultyServer("the sum does not decrypt to integers") from error

    def _slots(self, reply: bytes) -> Slots:
        rows = np.frombuffer(reply, "<i8").reshape(-1, SLOTS)
        if (rows[:, 0] != ONE * self._survivors).any():
            raise FaultyServer("a ciphertext of the sum does not count every survivor once")
        return rows[:, 1:].reshape(-1)

    def _tally(self, limbs: Slots) -> Words:
        if int(limbs.min()) < 0 or int(limbs.max()) > self._survivors * _LIMB:
            raise FaultyServer(_NO_SUM)
        words = [int(low) + (int(high) << LIMB_BITS) for low, high in limbs.reshape(-1, 2)]
        if max(words) >> 64:
            raise FaultyServer(_NO_SUM)
        return np.array(words, np.uint64)

    def sums(self) -> Iterator[NDArray[np.uint64]]:
        """All `size` of them, in pieces of a multiple of 4,096 up to the last."""
        size = piece_values(self._packing)
        return _cut(self._fields(), size, size)

    def _fields(self) -> Iterator[NDArray[np.uint64]]:
        packing, left = self._packing, self._packing.value_slots
        slots = self._first
        values = packing.size
        while True:
            if slots[left:].any():
                raise FaultyServer("a slot behind the last value is not zero")
            found = self._values(slots[:left])
            left -= min(left, slots.size)
            if found[values:].any():
                raise FaultyServer("a field behind the last value is not zero")
            yield found[:values]
            values -= min(values, found.size)
            if not left:
                break
            slots = self._slots(self._next())
        next(self._replies, None)  # the processes are free again

    def _values(self, slots: Slots) -> NDArray[np.uint64]:
        packing = self._packing
        whole = slots + packing.centre * self._survivors
        if whole.size and (int(whole.min()) < 0 or int(whole.max()) >> packing.fields * packing.field_bits):
            raise FaultyServer(_NO_SUM)
        fields = np.empty((whole.size, packing.fields), np.uint64)
        for field in range(packing.fields):
            fields[:, field] = (whole >> field * packing.field_bits) & ((1 << packing.field_bits) - 1)
        return fields.reshape(-1)


def _first_and_rest(words: Words) -> Iterator[Words]:
    yield words[:CIPHERTEXT_WORDS]
    yield from frames.groups(words[CIPHERTEXT_WORDS:])
