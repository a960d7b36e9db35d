"""Microsoft SEAL as TenSEAL wraps it, fed with our residues: contexts, ciphertexts, keys, its Evaluator and Decryptor.

SEAL reads and writes files only. The layouts are those of its 4.x sources: serialization.h (a header of 16 bytes),
ciphertext.cpp, plaintext.cpp and dynarray.h; nothing is compressed.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.ckks.params import RingParams, primes
from secagg.ckks.ring import Ring, ring_for
from secagg.ckks.sampling import Residues

sealapi = pytest.importorskip("tenseal.sealapi")

_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, major, minor, compression, reserved, size
_MAGIC = 0xA15E


class Seal:
    """One context: our primes and one more, which SEAL keeps for key switching and ciphertexts do not have."""

    def __init__(self, params: RingParams, folder: Path) -> None:
        self.params, self._file = params, str(folder / "object")
        self.primes = primes(params.ring_size, len(params.primes) + 1)
        wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        wanted.set_poly_modulus_degree(params.ring_size)
        wanted.set_coeff_modulus([sealapi.Modulus(each) for each in self.primes])
        self.context = sealapi.SEALContext(wanted, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self.accepts = bool(self.context.parameters_set())
        self._version = self._written_version()
        self._ring: Ring = ring_for(params.ring_size, params.primes)

    def ciphertext(self, block: Residues, second: NDArray[np.uint64]) -> Any:
        """(block, second): coefficients, of which the last may be missing; values in NTT form."""
        padded = np.zeros((len(self.params.primes), self.params.ring_size))
        padded[:, : block.shape[1]] = block
        self._ring.reduce(padded, np.empty_like(padded))
        first = self._ring.residues(self._ring.forward(padded)).astype(np.uint64)
        data = np.stack([first, second])
        parts, count, size = data.shape
        scale = 2.0**self.params.delta_bits
        fixed = struct.pack("<32sBQQQdQ", self._id(self.context.first_parms_id()), 1, parts, size, count, scale, 1)
        return self._load(sealapi.Ciphertext(), fixed + self._array(data))

    def add(self, ciphertexts: list[Any]) -> Any:
        """Their sum by SEAL's Evaluator."""
        evaluator = sealapi.Evaluator(self.context)
        total = ciphertexts[0]
        for each in ciphertexts[1:]:
            evaluator.add_inplace(total, each)
        return total

    def decrypt(self, key: NDArray[np.int64], ciphertext: Any) -> NDArray[np.uint64]:
        """What SEAL's Decryptor gives under the key, as coefficients, residues (primes, N)."""
        ring = ring_for(self.params.ring_size, self.primes)
        values = ring.residues(ring.values_of(key)).astype(np.uint64)
        fixed = struct.pack("<32sQd", self._id(self.context.key_parms_id()), values.size, 1.0)
        secret = self._load(sealapi.SecretKey(), fixed + self._array(values))
        plain = sealapi.Plaintext()
        sealapi.Decryptor(self.context, secret).decrypt(ciphertext, plain)
        shape = (len(self.params.primes), self.params.ring_size)
        got = np.array([plain.data(each) for each in range(shape[0] * shape[1])], np.float64).reshape(shape)
        self._ring.reduce(got, np.empty_like(got))
        return self._ring.residues(self._ring.inverse(got)).astype(np.uint64)

    def _id(self, words: Any) -> bytes:
        return struct.pack("<4Q", *words)

    def _array(self, data: NDArray[np.uint64]) -> bytes:
        octets = data.astype("<u8").tobytes()
        return self._with_header(struct.pack("<Q", data.size) + octets)

    def _with_header(self, body: bytes) -> bytes:
        return _HEADER.pack(_MAGIC, _HEADER.size, *self._version, 0, 0, _HEADER.size + len(body)) + body

    def _load(self, target: Any, body: bytes) -> Any:
        Path(self._file).write_bytes(self._with_header(body))
        target.load(self.context, self._file)
        return target

    def _written_version(self) -> tuple[int, int]:
        sealapi.Plaintext().save(self._file)
        magic, _, major, minor, *_ = _HEADER.unpack_from(Path(self._file).read_bytes())
        assert magic == _MAGIC
        return major, minor


def fields_of(params: RingParams, residues: NDArray[np.uint64], coefficient: int) -> list[int]:
    """The fields of one coefficient, by the Chinese remainder theorem in plain integers."""
    q = params.modulus
    value = sum(
        int(row[coefficient]) * (q // prime) * pow(q // prime, -1, prime)
        for row, prime in zip(residues, params.primes, strict=True)
    )
    rounded = (value + (1 << (params.delta_bits - 1))) % q >> params.delta_bits
    return [(rounded >> (field * params.field_bits)) & ((1 << params.field_bits) - 1) for field in range(params.fields)]
