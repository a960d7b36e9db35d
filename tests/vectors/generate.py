"""Writes every file of vectors: `python -m tests.vectors.generate`; with `--check` it compares instead.

Everything in the files follows from this code and secagg's; nothing is drawn from the system.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator
from itertools import islice

from tests.vectors.form import FOLDER, Json, text_of
from tests.vectors.making import (
    bad_chain,
    bad_replies,
    bad_requests,
    bad_sums,
    bad_survivors,
    ckks_lies,
    ckks_numbers,
    ckks_rounds,
    ckks_sums,
    encoding,
    numbers,
    rounds,
    schedule,
    shared_numbers,
    sums,
    trips,
)

FILES: dict[str, Callable[[], Json]] = {
    "encoding.json": encoding.encoding,
    "bad_noncanonical.json": encoding.bad_noncanonical,
    "bad_modulus.json": encoding.bad_modulus,
    "bad_thresholds.json": encoding.bad_thresholds,
    "domain_separation.json": schedule.domain_separation,
    "adapter.json": schedule.adapter,
    "hkdf.json": schedule.hkdf,
    "prg.json": schedule.prg,
    "shamir.json": schedule.shamir,
    "quantize.json": numbers.quantize,
    "opening.json": numbers.opening,
    "lanes.json": sums.lanes,
    "tally.json": sums.tally,
    "projections.json": sums.projections,
    "bad_replay_attempt.json": bad_chain.bad_replay_attempt,
    "bad_model_hash.json": bad_chain.bad_model_hash,
    "masked/advertise.json": trips.advertise,
    "masked/share_aead.json": trips.share_aead,
    "masked/masked_input.json": trips.masked_input,
    "masked/consistency.json": trips.consistency,
    "masked/unmask.json": trips.unmask,
    "masked/check.json": trips.check,
    "masked/aggregate.json": bad_sums.aggregates,
    **rounds.FILES,
    "masked/transcript_chain.json": rounds.transcript_chain,
    "masked/bad_header.json": bad_requests.bad_header,
    "masked/bad_advert.json": bad_requests.bad_advert,
    "masked/bad_low_order_key.json": bad_requests.bad_low_order_key,
    "masked/bad_share_set.json": bad_requests.bad_share_set,
    "masked/bad_swapped_share.json": bad_requests.bad_swapped_share,
    "masked/bad_reflection.json": bad_requests.bad_reflection,
    "masked/bad_small_u3.json": bad_survivors.bad_small_u3,
    "masked/bad_quorum_short.json": bad_survivors.bad_quorum_short,
    "masked/bad_quorum_duplicate_signer.json": bad_survivors.bad_quorum_duplicate_signer,
    "masked/bad_both_sets.json": bad_survivors.bad_both_sets,
    "masked/bad_replay_attempt.json": bad_survivors.bad_replay_attempt,
    "masked/bad_order.json": bad_survivors.bad_order,
    "masked/bad_reply_advertise.json": bad_replies.bad_reply_advertise,
    "masked/bad_reply_share.json": bad_replies.bad_reply_share,
    "masked/bad_reply_mask.json": bad_replies.bad_reply_mask,
    "masked/bad_reply_consent.json": bad_replies.bad_reply_consent,
    "masked/bad_reply_unmask.json": bad_replies.bad_reply_unmask,
    "masked/bad_reply_check.json": bad_replies.bad_reply_check,
    "masked/bad_record.json": bad_sums.bad_record,
    "masked/bad_sum_word.json": bad_sums.bad_sum_word,
    "masked/bad_attached_words.json": bad_sums.bad_attached_words,
    "masked/bad_projection.json": bad_sums.bad_projection,
    "masked/bad_share_index.json": bad_replies.bad_share_index,
    "ckks/parameters.json": ckks_numbers.parameters,
    "ckks/roots.json": ckks_numbers.roots,
    "ckks/sampling.json": ckks_numbers.sampling,
    "ckks/encryption.json": ckks_numbers.encryption,
    "ckks/tails.json": ckks_numbers.tails,
    "ckks/keys.json": ckks_numbers.keys,
    "ckks/decoding.json": ckks_numbers.decoding,
    **ckks_rounds.FILES,
    **ckks_lies.FILES,
    **ckks_sums.FILES,
    "ckks-shared/slots.json": shared_numbers.slots,
    "ckks-shared/words.json": shared_numbers.words,
}


def differences(name: str) -> Iterator[str]:
    """What a regeneration of the file would change, as lines of a diff."""
    path = FOLDER / name
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    made = text_of(FILES[name]())
    if there != made:
        yield from difflib.unified_diff(
            there.splitlines(), made.splitlines(), f"{name} (committed)", f"{name} (regenerated)", lineterm="", n=1
        )


def strays() -> list[str]:
    """Generated files that nothing generates any more; `published/` is written by hand."""
    found = (path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.json"))
    return sorted(name for name in found if name not in FILES and not name.startswith("published/"))


def write() -> None:
    for name, make in FILES.items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text_of(make()), encoding="utf-8")


def check() -> bool:
    """Prints the differences. Whether there are none."""
    same = not strays()
    for name in strays():
        print(f"{name}: nothing generates it")
    for name in FILES:
        changed = list(islice(differences(name), 40))
        same &= not changed
        for line in changed:
            print(line if len(line) <= 200 else f"{line[:200]}... ({len(line)} characters)")
    return same


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vectors.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    if parser.parse_args(arguments).check:
        return 0 if check() else 1
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
