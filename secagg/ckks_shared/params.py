"""The ring, and how values lie in slots, from value bits, sites and weight cap (spec §21.4).

Every number of the scheme stands here, with its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from secagg.tally import WORDS

NAME: Final = "ckks-shared"
KEY_OPTION: Final = "shared-key"  # 64 hexadecimal digits: the name of the key
RING_SIZE: Final = 4096  # N: at most log2 q = 109 for 128 bits (HomomorphicEncryption.org standard, 2018, ternary)
MODULUS_BITS: Final = (60, 46)  # 106 in all; ciphertexts have the first alone, keys both
PRIME: Final = (1 << 60) - (1 << 14) + 1  # q: the 60-bit prime that SEAL takes for N = 4096
SLOTS: Final = RING_SIZE // 2
CIPHERTEXT_WORDS: Final = 2 * RING_SIZE * 15 // 16  # 7,680: its 8,192 residues have 60 bits each
SCALE_BITS: Final = 19  # Delta = 2^19: a slot of 2^39 has coefficients below 2^58 < q / 2

# A slot of the sum holds integers below 2^40 in all, raised or lowered to -2^39..2^39. What separates it from an
# integer, each but with probability 2^-157 by Hoeffding's bound: the errors of 100 symmetric encryptions, of 42 bits
# for a coefficient, 0.042; rounding to coefficients, the same at all 100 sites if they send the same, 0.064; rounding
# residues to doubles, 0.020. The transforms in doubles add some 1e-15 of 2^39.
SLOT_BITS: Final = 40
MOST_NOISE: Final = 0.25

LIMB_BITS: Final = 32  # of a tally word: the sum over 100 sites stays below 2^39
HEAD_SLOTS: Final = 2 * len(WORDS)  # tally limbs, low one first
ONE: Final = 1  # the first slot of every ciphertext, so that each one's sum counts the survivors


@dataclass(frozen=True, slots=True)
class Packing:
    """How `size` values of `bits` bits lie in ciphertexts, so that the sum of `sites` of them carries nowhere.

    Slot 0 of every ciphertext holds 1. In the first one 16 slots of tally limbs follow. Then come value slots, to the
    end of the last ciphertext: value j * fields + i lies in field i of value slot j, from bit i * field_bits on, and
    `centre` is taken off each value slot. Slots behind the last value are 0.
    """

    bits: int
    sites: int
    weight_cap: int
    size: int

    @property
    def most_value(self) -> int:
        """The largest weighted level of one site."""
        return self.weight_cap * ((1 << self.bits) - 1)

    @property
    def field_bits(self) -> int:
        """w: as many as the largest sum has; at most 32, as the quantiser's lanes."""
        return (self.sites * self.most_value).bit_length()

    @property
    def fields(self) -> int:
        """k, of one slot: at least 1."""
        return SLOT_BITS // self.field_bits

    @property
    def centre(self) -> int:
        """Half of a site's largest slot."""
        return sum(self.most_value << (i * self.field_bits) for i in range(self.fields)) // 2

    @property
    def value_slots(self) -> int:
        """Slots that hold values."""
        return -(-self.size // self.fields)

    @property
    def ciphertexts(self) -> int:
        """How many a site sends."""
        return -(-(self.value_slots + HEAD_SLOTS) // (SLOTS - 1))

    @property
    def words(self) -> int:
        """8-byte words of what a site sends, and of the sum."""
        return self.ciphertexts * CIPHERTEXT_WORDS
