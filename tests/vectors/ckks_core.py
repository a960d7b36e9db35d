"""What our code makes of the inputs of a case of ckks mode that needs no session: one function a form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.ckks import frames
from secagg.ckks.cipher import _encode, _scales, _with_checks, blind, encrypt
from secagg.ckks.decoding import decrypt
from secagg.ckks.keys import key_words
from secagg.ckks.messages import BlindAdvert, BlindShares
from secagg.ckks.params import RingParams, choose, noise_bound, primes
from secagg.ckks.payload import ZEROS, KeyAndCiphertext, read_key_sum
from secagg.ckks.ring import _powers_of_root, ring_for
from secagg.ckks.sampling import (
    Residues,
    dither_seed,
    errors,
    hedged_seed,
    one_time_key,
    public_element,
    residue_mask,
    update_digest,
)
from secagg.ckks.states import Opening
from secagg.masked.masks import Masks
from secagg.masked.payload import quantizer_of
from secagg.primitives.aead import seal
from secagg.primitives.prg import Stream
from secagg.session import Packet
from secagg.tally import WORDS
from tests.vectors import form
from tests.vectors.form import Json
from tests.vectors.replay import context_of, refused, unhex

FIRST = 4  # residues of a row that stand in the file; the digest is of all

# ---------------------------------------------------------------------- rings and sampling


def ring_in(inputs: Json) -> RingParams:
    """The ring of the numbers of a case."""
    return choose(*(inputs[name] for name in ("bits", "sites", "weight_cap", "size")))


def parameters(inputs: Json) -> Json:
    params = ring_in(inputs)
    coefficients = [params.coefficients(block) for block in range(params.blocks)]
    return {
        "N": params.ring_size, "primes": list(params.primes), "q_bits": params.modulus.bit_length(),
        "w": params.field_bits, "F": params.fields, "delta": params.delta_bits, "coefficients": sum(coefficients),
        "blocks": params.blocks, "bound": noise_bound(params.sites), "key_bits": params.key_lane_bits,
        "key_words": params.key_words, "bytes": 8 * (params.words + params.key_words),
    }  # fmt: skip


def roots(inputs: Json) -> Json:
    degree, chosen = inputs["N"], primes(inputs["N"], inputs["count"])
    return {"primes": list(chosen), "roots": [int(_powers_of_root(degree, prime)[1]) for prime in chosen]}


def shown_small(values: NDArray[np.int8]) -> Json:
    """Short values: the first 16, and the digest of all, a byte each in two's complement."""
    return {"first": values[:16].tolist(), "sha256": hashlib.sha256(values.astype(np.int8).tobytes()).hexdigest()}


def shown_residues(rows: Residues) -> Json:
    """Residues (primes, coefficients): the first of every prime, and the digest of all, prime after prime."""
    whole = np.ascontiguousarray(rows, "<u4").tobytes()
    return {"first": rows[:, :FIRST].tolist(), "sha256": hashlib.sha256(whole).hexdigest()}


def sampling(inputs: Json) -> Json:
    return SAMPLED[inputs["what"]](inputs)


def _hedged(inputs: Json) -> Json:
    update = update_digest(form.floats_in(inputs["values"]), inputs["weight"])
    seed = hedged_seed(unhex(inputs["drawn"]), unhex(inputs["h0"]), inputs["place"], update)
    return {"update": update.hex(), "seed": seed.hex(), "dither_seed": dither_seed(seed).hex()}


SAMPLED: Mapping[str, Callable[[Json], Json]] = {
    "hedged seed": _hedged,
    "key": lambda inputs: shown_small(one_time_key(unhex(inputs["seed"]), inputs["count"])),
    "errors": lambda inputs: shown_small(errors(unhex(inputs["seed"]), inputs["block"], inputs["count"])),
    "public element": lambda inputs: shown_residues(
        public_element(ring_in(inputs), unhex(inputs["h0"]), inputs["block"])
    ),
    "self-mask": lambda inputs: shown_residues(
        residue_mask(ring_in(inputs), unhex(inputs["tail_seed"]), inputs["block"])
    ),
}


# ---------------------------------------------------------------------- one block


def level(j: Any, bits: int) -> Any:
    """The rule of the files; j: an integer, or an array of them."""
    return (7919 * j + 3) % (1 << bits)


def levels_by_rule(params: RingParams, weight: int) -> NDArray[np.uint32]:
    j = np.arange(params.size, dtype=np.int64)
    return (weight * level(j, params.bits)).astype(np.uint32)


def encryption(inputs: Json) -> Json:
    params, seed, block = ring_in(inputs), unhex(inputs["seed"]), inputs["block"]
    levels = levels_by_rule(params, inputs["weight"])
    blocks = [levels[at : at + params.block_values] for at in range(0, params.size, params.block_values)]
    whole = encrypt(params, unhex(inputs["h0"]), seed, blocks)
    ciphertext = next(each for index, each in enumerate(whole) if index == block)
    words = key_words(params, one_time_key(seed, params.ring_size))
    return {
        "coefficients": params.coefficients(block),
        "plain": shown_residues(_plain(params, blocks, block)),
        "ciphertext": shown_residues(ciphertext),
        "key_words_begin": form.words(words[:FIRST]),
        "key_words_sha256": hashlib.sha256(words.astype("<u8").tobytes()).hexdigest(),
    }


def _plain(params: RingParams, blocks: Sequence[NDArray[np.uint32]], block: int) -> Residues:
    """m_k mod every prime."""
    ring = ring_for(params.ring_size, params.primes)
    slots = next(each for index, each in enumerate(_with_checks(params, blocks)) if index == block)
    x = _encode(params, ring, _scales(params), slots)
    return ring.residues(ring.reduce(x, np.empty_like(x)))


# ---------------------------------------------------------------------- tails and sums


def payload_in(inputs: Json) -> KeyAndCiphertext:
    return KeyAndCiphertext(context_of(inputs))


def tails(inputs: Json) -> Json:
    """Reads one tail, several and their sum, or a sum."""
    payload = payload_in(inputs)
    if "sum" in inputs:
        return {"numbers": _listed(payload.sum_numbers(form.words_in(inputs["sum"])))}
    read = [form.words_in(each) for each in inputs["tails"]]
    total = payload.tail_sum()
    for each in read:
        total.add(each)
    return {"numbers": [_listed(payload.numbers(each)) for each in read], "sum": form.words(total.words())}


def _listed(blocks: Iterator[Any]) -> list[int]:
    return [int(each) for block in blocks for each in block]


def keys(inputs: Json) -> Json:
    """The sum of the sites' keys from the sum of their words."""
    params = payload_in(inputs).params
    total = sum((key_words(params, _key(params, seed)) for seed in inputs["seeds"]), np.zeros(1, np.uint64))
    words = np.concatenate((total, np.zeros(ZEROS + len(WORDS), np.uint64)))
    for index, amount in inputs["added"]:
        words[index] += np.uint64(int(amount))
    found, _ = read_key_sum(params, words, len(inputs["seeds"]))
    whole = found.astype("<i2").tobytes()
    return {"first": found[:16].tolist(), "sha256": hashlib.sha256(whole).hexdigest()}


def _key(params: RingParams, seed: str) -> NDArray[np.int8]:
    return one_time_key(unhex(seed), params.ring_size)


def decoding(inputs: Json) -> Json:
    """The sums of levels from the residues of a sum of ciphertexts, in the order of a tail, without masks."""
    context, params = context_of(inputs), payload_in(inputs).params
    key_sum = sum((_key(params, seed).astype(np.int64) for seed in inputs["seeds"]), np.zeros(1, np.int64))
    residues = np.array(inputs["residues"], np.uint32).reshape(len(params.primes), -1)
    found = decrypt(
        params, context.digest, key_sum, [residues], survivors=inputs["survivors"],
        total_weight=inputs["total_weight"],
    )  # fmt: skip
    return {"sums": [int(each) for block in found for each in block]}


def residues_of(inputs: Json, levels: Sequence[Sequence[int]]) -> list[list[int]]:
    """The residues of every site's ciphertext, in the order of a tail: a vector of one block."""
    context, params = context_of(inputs), payload_in(inputs).params
    made = []
    for seed, each in zip(inputs["seeds"], levels, strict=True):
        (block,) = encrypt(params, context.digest, unhex(seed), [np.array(each, np.uint32)])
        made.append(block.reshape(-1).tolist())
    return made


def tail_of(params: RingParams, residues: Sequence[int]) -> Any:
    """The words of a tail of one block."""
    return frames.write(params, [np.array(residues, np.uint32).reshape(len(params.primes), -1)])


# ---------------------------------------------------------------------- replay


def derived(outputs: Json, inputs: Json, reply: Packet) -> None:
    """What a case of a site lists of the steps in between leads from the inputs to the reply."""
    if "blind_unsigned" in outputs:
        assert BlindAdvert.decode(reply.head).unsigned().hex() == outputs["blind_unsigned"]
    if "blind_boxes" in outputs:
        for box in BlindShares.decode(reply.head).boxes:
            parts = outputs["blind_boxes"][box.site]
            assert outputs["blind_roster"] in parts["aad"]
            assert (
                seal(unhex(parts["key"]), unhex(inputs["random"]["blind_seed"]), unhex(parts["aad"])) == box.ciphertext
            )
    if "tail_seed" in outputs:
        _require_vector(outputs, inputs, reply)


def _require_vector(outputs: Json, inputs: Json, reply: Packet) -> None:
    """Masked words and tail follow from the hedged seed, the pad's seed and the tail's seed."""
    context, params, hedged = context_of(inputs), payload_in(inputs).params, unhex(outputs["hedged_seed"])
    plain = form.words_in(outputs["words"])
    Masks((), [unhex(outputs["pad_seed"])]).apply(plain)
    assert (plain[: params.key_words] == key_words(params, one_time_key(hedged, params.ring_size))).all()
    assert not plain[params.key_words : params.key_words + ZEROS].any() and plain[params.key_words + ZEROS] == 1
    update, dither = inputs["update"], Stream(dither_seed(hedged))
    levels = quantizer_of(context).levels(form.floats_in(update["values"]), update["weight"], dither)
    blocks = encrypt(params, context.digest, hedged, levels.weighted(params.block_values))
    tail = frames.write(params, blind(params, unhex(outputs["tail_seed"]), blocks))
    assert reply.words is not None and (tail == reply.words[plain.size :]).all()
    known = {each.site: each.seed.hex() for each in Opening.decode(unhex(outputs["opening"])).seeds}
    assert known[inputs["site"]] == inputs["random"]["blind_seed"]


FORMS: Mapping[str, Callable[[Json], Json]] = {
    "ckks ring": parameters, "ckks roots": roots, "ckks sampling": sampling, "ckks encryption": encryption,
    "ckks tails": tails, "ckks keys": keys, "ckks decoding": decoding,
}  # fmt: skip


def replayed(act: Callable[[Json], Json]) -> Callable[[Json, Json], None]:
    """The check of a form for the tests: outputs or error."""

    def check(case: Json, inputs: Json) -> None:
        if "error" in case:
            refused(case, lambda: act(inputs))
        else:
            assert act(inputs) == case["outputs"]

    return check
