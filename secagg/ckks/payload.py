"""What a ckks vector holds: one-time key and tally under masks and pad, then the ciphertext (spec §13.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from secagg.ckks import frames
from secagg.ckks.cipher import blind, encrypt
from secagg.ckks.decoding import Integers
from secagg.ckks.keys import key_sum, key_words
from secagg.ckks.params import RingParams, choose
from secagg.ckks.sampling import Residues, dither_seed, hedged_seed, one_time_key, residue_mask, update_digest
from secagg.ckks.sums import ResidueSum
from secagg.config import SERVER_READS_SUM, Manifest, RoundContext
from secagg.errors import FaultyServer, Malformed, Misuse, Refused
from secagg.labels import BLIND_PAD
from secagg.masked.graph import place
from secagg.masked.masks import Masks
from secagg.masked.payload import Contribution, TailSum, quantizer_of
from secagg.primitives.agreement import derive
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.quantize import Quantizer
from secagg.session import Rng, Update, Words
from secagg.tally import WORDS, Tally

ZEROS: Final = 8  # words that are zero at every site, so that a sum which is not theirs shows
RANDOM: Final = 32


class KeyAndCiphertext:
    """One round's payload; implements `secagg.masked.payload.Payload`."""

    def __init__(self, context: RoundContext, site: str = "", blind_seed: bytes = b"") -> None:
        """site, blind_seed: of the site that contributes; nobody else needs them, nor a seed if there is no pad.

        Raises Misuse.
        """
        manifest = context.manifest
        self.params = ring_of(manifest)
        self._context, self._site, self._blind_seed = context, site, blind_seed
        self._quantizer = quantizer_of(context)
        self.words = self.params.key_words + ZEROS + len(WORDS)
        self.tail_words = self.params.words
        self.tail_sum_words = -(-self.params.residues // 2)
        if manifest.quantizer.levels != self.params.levels:
            raise Misuse("the ring is not the manifest's")

    def contribute(self, update: Update, rng: Rng) -> Contribution:
        """The update under a fresh one-time key."""
        return _Encrypted(self.params, self._quantizer, self._context, self._site, self._blind_seed, update, rng)

    def tail_sum(self) -> TailSum:
        """An empty sum of ciphertexts, their self-masks on."""
        return _CiphertextSum(self.params)

    def numbers(self, tail: Words) -> Iterator[Words]:
        """A ciphertext's residues, block by block."""
        return (block.reshape(-1).astype(np.uint64) for block in frames.read(self.params, tail))

    def sum_numbers(self, tail_sum: Words) -> Iterator[Words]:
        """The sums of residues, not reduced, block by block."""
        return (block.reshape(-1).astype(np.uint64) for block in self.sum_blocks(tail_sum))

    def sum_blocks(self, tail_sum: Words) -> Iterator[Residues]:
        """The same as (primes, coefficients), uint32. Raises Malformed."""
        numbers = np.ascontiguousarray(tail_sum, "<u8").view("<u4")
        if tail_sum.shape != (self.tail_sum_words,) or numbers[self.params.residues :].any():
            raise Malformed("the sum of ciphertexts has another length, or bytes behind its end")
        start = 0
        for block in range(self.params.blocks):
            shape = len(self.params.primes), self.params.coefficients(block)
            yield numbers[start : start + shape[0] * shape[1]].reshape(shape).astype(np.uint32, copy=False)
            start += shape[0] * shape[1]

    def unmasked(self, tail_sum: Words, seeds: Mapping[str, bytes]) -> Iterator[Residues]:
        """The sum of ciphertexts mod q without their self-masks. seeds: 48 bytes for each survivor."""
        moduli = np.array(self.params.primes, np.uint64)[:, None]
        for block, residues in enumerate(self.sum_blocks(tail_sum)):
            total = residues.astype(np.uint64)
            for seed in seeds.values():
                total += moduli - residue_mask(self.params, seed, block)
            yield (total % moduli).astype(np.uint32)


class _Encrypted:
    def __init__(
        self, params: RingParams, quantizer: Quantizer, context: RoundContext, site: str, blind_seed: bytes,
        update: Update, rng: Rng,
    ) -> None:  # fmt: skip
        digest = update_digest(update.values, update.weight)
        self._seed = hedged_seed(rng(RANDOM), context.digest, context.points[site], digest)
        self._levels = quantizer.levels(update.values, update.weight, Stream(dither_seed(self._seed)))
        self._params, self._context, self._update = params, context, update
        self._pads = (pad_seed(context, site, blind_seed),) if is_blind(context.manifest) else ()

    def tail(self, seed: bytes) -> Words:
        params = self._params
        levels = self._levels.weighted(params.block_values)
        return frames.write(params, blind(params, seed, encrypt(params, self._context.digest, self._seed, levels)))

    def blocks(self) -> Iterator[Words]:
        levels, update = self._levels, self._update
        key = key_words(self._params, one_time_key(self._seed, self._params.ring_size))
        tally = Tally.of(update.metrics, update.weight, levels.clipped, levels.peak_q40).words()
        words = np.concatenate((key, np.zeros(ZEROS, np.uint64), tally))
        Masks(self._pads, ()).apply(words)
        yield words


class _CiphertextSum:
    def __init__(self, params: RingParams) -> None:
        self._params, self._sum = params, ResidueSum(params)

    def add(self, tail: Words) -> None:
        self._sum.add(tail)

    def words(self) -> Words:
        numbers = np.zeros(2 * -(-self._params.residues // 2), "<u4")
        start = 0
        for block in self._sum.unreduced():
            numbers[start : start + block.size] = block.reshape(-1)
            start += block.size
        return numbers.view("<u8").astype(np.uint64, copy=False)


def ring_of(manifest: Manifest) -> RingParams:
    """The ring of the session: every site derives it from the manifest. Raises Misuse."""
    return choose(manifest.quantizer.bits, len(manifest.sites), manifest.quantizer.weight_cap, manifest.size)


def is_blind(manifest: Manifest) -> bool:
    """Whether the sum of the keys is padded against the server. Raises Refused for an option that says neither."""
    said = [each.value for each in manifest.options if each.name == SERVER_READS_SUM]
    if said not in ([], ["yes"]):
        raise Refused(f"the option {SERVER_READS_SUM} is not yes")
    return not said


def pad_seed(context: RoundContext, site: str, blind_seed: bytes) -> bytes:
    """The 48-byte seed of a site's blind pad, from its 32-byte blind seed."""
    return derive(blind_seed, context.digest, BLIND_PAD + place(context, site), SEED_BYTES)


def read_key_sum(params: RingParams, words: Words, survivors: int) -> tuple[Integers, Words]:
    """The sum of the one-time keys, int64 (N,), and the tally words, pads gone. Raises FaultyServer."""
    count = params.key_words
    if words[count : count + ZEROS].any():
        raise FaultyServer("a word that is zero at every site is not zero in the sum")
    return key_sum(params, words[:count], survivors), words[count + ZEROS :]
