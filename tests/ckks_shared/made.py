"""Rounds, words and TenSEAL contexts for tests of ckks-shared mode."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from secagg.ckks_shared.messages import Contribution, SumRecord, ciphertext_digest
from secagg.ckks_shared.params import PRIME, Packing
from secagg.ckks_shared.payload import encrypt, packing_of, piece_values
from secagg.identity import SiteKeys
from secagg.labels import SIGN_CONTRIBUTION
from secagg.masked.messages import sum_words_digest
from secagg.session import Aggregate, Packet, Words
from secagg.tally import WORDS
from tests.sim import Round, federation, some_shared_key

NAME = "ckks-shared"


def shared_round(n: int = 5, size: int = 40, **options: Any) -> Round:
    """A round of this scheme. Options of `federation`."""
    manifest = {"scheme": NAME, **options.pop("manifest", {})}
    return federation(n, size, manifest=manifest, **options)


def residues_of(seed: int, ciphertexts: int = 1) -> np.ndarray:
    """uint64 (ciphertexts, 8192), below q."""
    return np.random.default_rng(seed).integers(0, PRIME, (ciphertexts, 8192), np.uint64)


def encrypted(packing: Packing, values: np.ndarray, tally: Words | None = None) -> Words:
    """A site's ciphertexts of these weighted levels."""
    step = piece_values(packing)
    pieces = [values[start : start + step].astype(np.uint32) for start in range(0, values.size, step)]
    words = np.ones(len(WORDS), np.uint64) if tally is None else tally
    return encrypt(packing, some_shared_key().secret, pieces, lambda: words)


def signed(round_: Round, site: str, words: Words) -> Packet:
    """A site's reply over words of any kind, under its true signature."""
    keys: SiteKeys = round_.consortium.keys[site]
    header = round_.context.digest
    draft = Contribution(site, ciphertext_digest(header, words), bytes(64))
    signature = keys.sign(SIGN_CONTRIBUTION, header, draft.unsigned())
    return Packet(replace(draft, signature=signature).encode(), words)


def with_sum(round_: Round, aggregate: Aggregate, words: Words) -> Aggregate:
    """The aggregate as a server makes it that puts other words in the place of the sum."""
    record = SumRecord.decode(aggregate.payload.head)
    record = replace(record, sum_words=sum_words_digest(round_.context.digest, words))
    return Aggregate(Packet(record.encode(), words), aggregate.contributors)


def words_of(round_: Round) -> int:
    """How many words a site of the round sends."""
    return packing_of(round_.context.manifest).words


_MAKE = """
import base64, sys, tenseal as ts
context = ts.context(ts.SCHEME_TYPE.CKKS, {ring}, coeff_mod_bit_sizes={bits}, n_threads=1{kind})
context.global_scale = 2.0 ** {scale}
for name in {more}:
    getattr(context, f"generate_{{name}}_keys")()
made = context.serialize(
    save_public_key=False, save_secret_key={secret}, save_galois_keys=bool({more}), save_relin_keys=bool({more})
)
sys.stdout.write(base64.b64encode(made).decode())
"""


@cache
def context_bytes(
    ring: int = 4096, bits: tuple[int, ...] = (60, 46), scale: int = 19, secret: bool = True, symmetric: bool = True,
    more: tuple[str, ...] = (),
) -> bytes:  # fmt: skip
    """A TenSEAL context of other parameters, or with other keys, made in a process of its own."""
    kind = ", encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC" if symmetric else ""
    code = _MAKE.format(ring=ring, bits=list(bits), scale=scale, secret=secret, kind=kind, more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return base64.b64decode(done.stdout)
