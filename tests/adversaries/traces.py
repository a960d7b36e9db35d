"""What a decryption has besides its integers, in every width it could be written in: for looking that it is nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from secagg.ckks.decoding import decrypt
from secagg.ckks.opening import _tail_seeds
from secagg.ckks.payload import KeyAndCiphertext, pad_seed, read_key_sum
from secagg.ckks.ring import ring_for
from secagg.ckks.sampling import Residues, public_element
from secagg.ckks.states import Opening
from secagg.config import RoundContext
from secagg.masked.masks import Masks
from secagg.masked.opening import checked_sum
from secagg.session import Packet, Words

WINDOW = 24  # bytes that are looked for at a time
INTEGERS = (np.int16, np.int32, np.int64, np.float32, np.float64)
REALS = (np.float32, np.float64)


def traces(context: RoundContext, aggregate: Packet, opening: bytes) -> dict[str, list[bytes]]:
    """By name: the sum of keys, the errors, the residues and the numbers before rounding. Raises as `open`."""
    payload = KeyAndCiphertext(context)
    checked = checked_sum(context, payload, aggregate)
    survivors = [each.site for each in checked.record.vectors]
    words = checked.words.copy()
    seeds = {each.site: each.seed for each in Opening.decode(opening).seeds if each.site in survivors}
    Masks((), [pad_seed(context, site, seed) for site, seed in seeds.items()]).apply(words)
    keys, _ = read_key_sum(payload.params, words, len(survivors))
    (block,) = payload.unmasked(checked.tail, _tail_seeds(context, checked))
    assert list(decrypt(payload.params, context.digest, keys, [block], survivors=len(survivors)))
    return {
        "the sum of keys": [keys.astype(kind).tobytes() for kind in INTEGERS],
        "the words of the sum of keys": [words[: payload.params.key_words].tobytes()],
        **_of_block(payload, context, keys, block),
    }


def _of_block(payload: KeyAndCiphertext, context: RoundContext, keys: Words, block: Residues) -> dict[str, list[bytes]]:
    params = payload.params
    ring = ring_for(params.ring_size, params.primes)
    product = ring.multiply(public_element(params, context.digest, 0), ring.values_of(keys))[:, : block.shape[1]]
    rest = (block.astype(np.int64) - product.astype(np.int64)) % np.array(params.primes)[:, None]
    whole = [_composed(column, params.primes) for column in rest.T]
    half, unit = 1 << (params.delta_bits - 1), 2.0**params.delta_bits
    error = np.array([(each + half) % (2 * half) - half for each in whole])
    assert 0 < np.abs(error).max() < 64 * params.sites
    reals = np.array([each / unit for each in whole])
    return {
        "the errors": [error.astype(kind).tobytes() for kind in INTEGERS],
        "the errors in units": [(error / unit).astype(kind).tobytes() for kind in REALS],
        "the residues without a S": [rest.astype(kind).tobytes() for kind in (np.uint32, np.int64, np.float64)],
        "the integers before rounding": [b"".join(each.to_bytes(16, "little") for each in whole)],
        "the numbers before rounding": [reals.astype(kind).tobytes() for kind in REALS],
    }


def _composed(residues: Iterable[int], primes: tuple[int, ...]) -> int:
    """The integer below q that has these residues."""
    q = int(np.prod([int(each) for each in primes], dtype=object))
    return sum(int(r) * (q // p) * pow(q // p, -1, p) for r, p in zip(residues, primes, strict=True)) % q


def shown(found: Mapping[str, list[bytes]], everything: bytes) -> Iterator[str]:
    """The names of what shows: forty windows of each width, but for those that say nothing, as of zeros."""
    for name, widths in found.items():
        for whole in widths:
            step = max(WINDOW, len(whole) // 40)
            windows = [whole[start : start + WINDOW] for start in range(0, len(whole) - WINDOW, step)]
            telling = [each for each in windows if len(set(each)) > 3]
            assert telling, name
            if any(each in everything for each in telling):
                yield name
