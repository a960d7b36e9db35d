"""The process that runs TenSEAL: it takes jobs from its standard input, and dies with its parent (spec §21.6).

A message in either direction is one byte, a length of 8 little-endian bytes, and that many bytes. A job that the
process refuses is answered by REFUSED; one that crashes it, takes over a minute or too much memory ends it. It imports
tenseal, as nothing else does.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import numpy as np
import tenseal  # type: ignore[import-untyped]

from secagg.ckks_shared import frames
from secagg.ckks_shared.params import MODULUS_BITS, MOST_NOISE, RING_SIZE, SCALE_BITS, SLOTS
from secagg.errors import Malformed

GENERATE: Final = b"g"  # nothing -> a new secret
LOAD: Final = b"l"  # secret -> nothing
ENCRYPT: Final = b"e"  # int64 slots, 2,048 for each ciphertext -> words
DECRYPT: Final = b"d"  # words -> int64 slots
DONE: Final = b"+"
REFUSED: Final = b"-"
HEAD_BYTES: Final = 9
MOST_JOB: Final = 1 << 23  # bytes
MOST_JOB_S: Final = 60
MOST_MEMORY: Final = 1 << 32  # bytes of address space
_ANY_ERROR: Final = (Malformed, RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError)


class Cipher:
    """What a secret encrypts and decrypts; raises one of _ANY_ERROR for bytes that are not what they should be."""

    def __init__(self, secret: bytes) -> None:
        self._context = tenseal.context_from(secret, n_threads=1)
        if self._context.has_galois_keys() or self._context.has_relin_keys():
            raise ValueError("not a secret key alone")
        whole = _zeros(_new_context())
        start = len(whole) - _BEHIND - 8 * frames.RESIDUES
        self._before, self._behind = whole[:start], whole[-_BEHIND:]
        self._residues(_zeros(self._context))

    def encrypt(self, slots: bytes) -> bytes:
        """Words of symmetric encryptions."""
        rows = np.frombuffer(slots, "<i8").reshape(-1, SLOTS).astype(np.float64)
        made = (tenseal.ckks_vector(self._context, row.tolist()).serialize() for row in rows)
        return frames.pack(np.stack([self._residues(each) for each in made])).astype("<u8", copy=False).tobytes()

    def _residues(self, ciphertext: bytes) -> frames.Residues:
        """A fresh ciphertext's; what SEAL writes around them, its parameters and scale, is the same every time."""
        start, stop = len(self._before), len(self._before) + 8 * frames.RESIDUES
        if ciphertext[:start] != self._before or ciphertext[stop:] != self._behind:
            raise ValueError("not a ciphertext of these parameters")
        return np.frombuffer(ciphertext[start:stop], "<u8").astype(np.uint64, copy=False)

    def decrypt(self, words: bytes) -> bytes:
        """Rounded slots. Nothing of what was not near integers leaves this function."""
        residues = frames.unpack(np.frombuffer(words, "<u8").astype(np.uint64, copy=False))
        found = np.empty((len(residues), SLOTS))
        for row, each in zip(found, residues, strict=True):
            whole = self._before + each.astype("<u8", copy=False).tobytes() + self._behind
            row[:] = tenseal.ckks_vector_from(self._context, whole).decrypt()
        rounded = np.rint(found)
        if not np.abs(found - rounded).max() <= MOST_NOISE:  # nor if one is NaN
            raise ValueError("no integers")
        return rounded.astype("<i8").tobytes()


_BEHIND: Final = 9  # bytes behind the residues: the scale once more, in TenSEAL's own frame


def _new_context() -> Any:
    kind, symmetric = tenseal.SCHEME_TYPE.CKKS, tenseal.ENCRYPTION_TYPE.SYMMETRIC
    context = tenseal.context(
        kind, RING_SIZE, coeff_mod_bit_sizes=list(MODULUS_BITS), encryption_type=symmetric, n_threads=1
    )
    context.global_scale = 2.0**SCALE_BITS
    return context


def _zeros(context: Any) -> bytes:
    made: bytes = tenseal.ckks_vector(context, [0.0] * SLOTS).serialize()
    return made


def _with_secret(context: Any) -> bytes:
    made: bytes = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return made


class Jobs:
    """The process's state: the cipher it has loaded, if any."""

    def __init__(self) -> None:
        self._cipher: Cipher | None = None
        self.kinds: Final[dict[bytes, Callable[[bytes], bytes]]] = {
            GENERATE: self._generate, LOAD: self._load, ENCRYPT: self._encrypt, DECRYPT: self._decrypt,
        }  # fmt: skip

    def _generate(self, job: bytes) -> bytes:
        return _with_secret(_new_context())

    def _load(self, job: bytes) -> bytes:
        self._cipher = None
        self._cipher = Cipher(job)
        return b""

    def _loaded(self) -> Cipher:
        if self._cipher is None:
            raise ValueError("no key")
        return self._cipher

    def _encrypt(self, job: bytes) -> bytes:
        return self._loaded().encrypt(job)

    def _decrypt(self, job: bytes) -> bytes:
        return self._loaded().decrypt(job)


def main() -> None:
    """Answers jobs until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the key
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    jobs = Jobs()
    while header := source.read(HEAD_BYTES):
        _answer(jobs, header, source, target)


def _answer(jobs: Jobs, header: bytes, source: BinaryIO, target: BinaryIO) -> None:
    size = int.from_bytes(header[1:], "little")
    if size > MOST_JOB:
        raise SystemExit(1)
    job = source.read(size)
    signal.alarm(MOST_JOB_S)
    try:
        reply, kind = jobs.kinds[header[:1]](job), DONE
    except _ANY_ERROR:
        reply, kind = b"", REFUSED
    signal.alarm(0)
    target.write(kind + len(reply).to_bytes(8, "little") + reply)
    target.flush()
