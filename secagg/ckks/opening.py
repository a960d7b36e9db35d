"""What a ckks aggregate says to a site that holds the survivors' blind seeds (spec §13.6)."""

from __future__ import annotations

from collections.abc import Mapping

from secagg.ckks.decoding import decrypt
from secagg.ckks.payload import KeyAndCiphertext, is_blind, pad_seed, read_key_sum
from secagg.config import RoundContext
from secagg.errors import Sealed
from secagg.masked.graph import tail_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import share_set_digest
from secagg.masked.opening import CheckedSum, checked_sum
from secagg.masked.payload import quantizer_of
from secagg.quantize import next_range
from secagg.session import Mean, Packet
from secagg.tally import Tally


def open_aggregate(context: RoundContext, aggregate: Packet, blind_seeds: Mapping[str, bytes]) -> Mean:
    """The mean update. blind_seeds: z of the survivors, 32 bytes each; none are needed if the sum has no pads.

    Raises Sealed if one is missing; Malformed or by blame for what no survivors' vectors sum to.
    """
    payload = KeyAndCiphertext(context)
    checked = checked_sum(context, payload, aggregate)
    survivors = tuple(each.site for each in checked.record.vectors)
    padded = survivors if is_blind(context.manifest) else ()
    if set(padded) - blind_seeds.keys():
        raise Sealed("the sum is blind to whoever lacks a survivor's blind seed")
    words = checked.words.copy()
    Masks((), [pad_seed(context, site, blind_seeds[site]) for site in padded]).apply(words)
    key_sum, tally_words = read_key_sum(payload.params, words, len(survivors))
    manifest = context.manifest
    tally = Tally.from_sum(tally_words, len(survivors), manifest.size, manifest.quantizer.weight_cap)
    residues = payload.unmasked(checked.tail, _tail_seeds(context, checked))
    sums = decrypt(
        payload.params, context.digest, key_sum, residues, survivors=len(survivors), total_weight=tally.weight
    )
    opened = quantizer_of(context).open_sums(sums, tally.weight)
    range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, manifest.quantizer.levels)
    return Mean(opened.values, tally.totals(manifest.size), survivors, checked.transcript, range_q40)


def _tail_seeds(context: RoundContext, checked: CheckedSum) -> dict[str, bytes]:
    """The seed of every survivor's ciphertext mask, from the b that the record reveals."""
    share_set = share_set_digest(context.digest, checked.record.statements)
    return {each.site: tail_seed(context, share_set, each.site, each.secret) for each in checked.record.seeds}
