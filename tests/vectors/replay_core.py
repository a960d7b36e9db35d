"""Feeds the inputs of a case to the code, for what needs no session: one function a form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from secagg import labels
from secagg.chain import Answer, Ledger, Position
from secagg.config import Manifest, RoundHeader
from secagg.identity import Roster, SiteKeys
from secagg.initial import initial_adapter
from secagg.lanes import lanes_per_word, pack, words_for
from secagg.primitives.agreement import agree, derive, public_key
from secagg.primitives.prg import Stream
from secagg.primitives.shamir import combine, split
from secagg.primitives.signature import is_signed, sign
from secagg.projection import project
from secagg.quantize import next_range
from secagg.session import Metrics
from secagg.tally import WORDS, Tally
from secagg.vector import Layout, adapter_digest
from secagg.wire import encode_plain
from tests.vectors import form
from tests.vectors.form import Json
from tests.vectors.making import bad_chain
from tests.vectors.making.encoding import built, structs
from tests.vectors.making.numbers import quantizer_of, values_by_rule
from tests.vectors.making.sums import words_by_rule
from tests.vectors.replay import private, refused, unhex
from tests.vectors.scene import Session

# ---------------------------------------------------------------------- bytes


def encode(case: Json, inputs: Json) -> None:
    if "struct" not in inputs:
        items = inputs.get("items") or [bytes(count) for count in inputs["zero_bytes"]]
        plain = [int(each) if isinstance(each, str) and each.isdecimal() else each for each in items]
        assert encode_plain(plain).hex() == case["outputs"]["encoding"]
        return
    kind, outputs = structs()[inputs["struct"]], case["outputs"]
    value = built(kind, inputs["fields"])
    assert inputs["tag"] == kind.TAG
    if "plain" in outputs:
        assert encode_plain(value.plain()).hex() == outputs["plain"]
    if "encoding" in outputs:
        assert value.encode().hex() == outputs["encoding"]
        assert kind.decode(unhex(outputs["encoding"])) == value
    if "unsigned" in outputs:
        assert value.unsigned().hex() == outputs["unsigned"]


def decode(case: Json, inputs: Json) -> None:
    kind = structs()[inputs["struct"]]
    refused(case, lambda: kind.decode(unhex(inputs["encoding"])))
    if "correct" in inputs:
        kind.decode(unhex(inputs["correct"]))


def domain_separation(case: Json, inputs: Json) -> None:
    what, _, name = case["name"].partition(" ")
    if what == "label":
        assert b"secagg-lora/v1 " + inputs["purpose"].encode() + b"\x00" == labels.ALL[name]
        assert labels.ALL[name].hex() == case["outputs"]["label"]
    elif what == "digest":
        digest = hashlib.sha256(labels.ALL[DIGEST_LABELS[name]] + b"".join(map(unhex, inputs["over"]))).hexdigest()
        assert digest == case["outputs"]["digest"]
    else:
        key, label = private(inputs["seed"]), labels.ALL[inputs["label"]]
        parts = unhex(inputs["h0"]), unhex(inputs["unsigned"])
        public, signature = (unhex(case["outputs"][each]) for each in ("public_key", "signature"))
        assert sign(key, label, *parts) == signature
        assert is_signed(public, signature, label, *parts)
        another = labels.ALL["SIGN_READY" if inputs["label"] == "SIGN_ROSTER" else "SIGN_ROSTER"]
        assert not is_signed(public, signature, another, *parts)


DIGEST_LABELS = {
    "layout": "LAYOUT", "adapter": "ADAPTER", "roster": "ROSTER", "session id": "MANIFEST", "graph": "GRAPH",
    "h0": "HEADER", "seed commitment": "SEED_COMMITMENT", "h1, key roster": "KEY_ROSTER", "boxes": "BOXES",
    "h2, share set": "SHARE_SET", "masked words": "MASKED_WORDS", "h3, survivor set": "SURVIVOR_SET",
    "sum words": "SUM_WORDS", "transcript": "TRANSCRIPT", "fingerprint": "FINGERPRINT",
}  # fmt: skip


def derivation(case: Json, inputs: Json) -> None:
    if case["name"] == "agreement":
        ours, theirs = unhex(inputs["secret"]), unhex(inputs["their_secret"])
        shared = agree(ours, public_key(theirs))
        assert shared == agree(theirs, public_key(ours))
        found = {"public": public_key(ours), "their_public": public_key(theirs), "shared": shared}
        assert {name: value.hex() for name, value in found.items()} == case["outputs"]
        return
    ikm = unhex(inputs["ikm"])
    if "secret" in inputs:
        assert agree(unhex(inputs["secret"]), unhex(inputs["public"])) == ikm
    info = labels.ALL[inputs["label"]] + unhex(inputs["after_label"])
    assert derive(ikm, unhex(inputs["salt"]), info, inputs["length"]).hex() == case["outputs"]["okm"]


def stream(case: Json, inputs: Json) -> None:
    found = Stream(unhex(inputs["seed"]), inputs.get("skip", 0)).read(inputs["length"])
    assert found.hex() == case["outputs"]["stream"]
    if "words" in case["outputs"]:
        assert [str(word) for word in np.frombuffer(found, "<u8")] == case["outputs"]["words"]


def layout_in(tensors: Sequence[Sequence[Any]]) -> Layout:
    return Layout(tuple((name, tuple(shape)) for name, shape in tensors))


def initial(case: Json, inputs: Json) -> None:
    layout = layout_in(inputs["tensors"])
    values = initial_adapter(layout, unhex(inputs["nonce"]))
    found = {
        "layout": layout.digest().hex(),
        "values": form.floats(values),
        "adapter": adapter_digest(layout, values).hex(),
    }
    assert found == case["outputs"]


def sharing(case: Json, inputs: Json) -> None:
    t = inputs["threshold"]
    if "shares" in inputs:
        shares = {int(x): unhex(share) for x, share in inputs["shares"].items()}
        if "error" in case:
            refused(case, lambda: combine(shares, t))
        else:
            assert combine(shares, t).hex() == case["outputs"]["secret"]
        return
    secret, points, outputs = unhex(inputs["secret"]), inputs["points"], case["outputs"]
    shares = split(secret, t, points, lambda count: unhex(inputs["random"])[:count])
    assert {x: shares[int(x)].hex() for x in outputs["shares"]} == outputs["shares"]
    assert combine({x: shares[x] for x in points[:t]}, t) == secret
    p = 2**256 + 297  # and once more from the coefficients alone, by the formula of spec §5.6
    polynomial = [int.from_bytes(secret, "big"), *(int(each, 16) for each in outputs["coefficients"])]
    for x, share in outputs["shares"].items():
        assert sum(a * int(x) ** i for i, a in enumerate(polynomial)) % p == int(share, 16)


# ---------------------------------------------------------------------- numbers


def rounding(case: Json, inputs: Json) -> None:
    quantizer, outputs = quantizer_of(inputs), case["outputs"]
    values = form.floats_in(inputs["values"]) if "values" in inputs else values_by_rule(inputs["size"])
    blocks = quantizer.blocks(values, inputs["weight"], Stream(unhex(inputs["dither_seed"])))
    words = np.concatenate([block.copy() for block in blocks])
    assert (blocks.clipped, blocks.peak_q40) == (outputs["clipped"], outputs["peak_q40"])
    levels = np.array(lanes_of(words, inputs["lane_bits"], inputs["size"]), np.uint32) // inputs["weight"]
    if "words" in outputs:
        assert form.words(words) == outputs["words"]
        assert levels.tolist() == outputs["levels"]
    else:
        assert hashlib.sha256(words.astype("<u8").tobytes()).hexdigest() == outputs["words_sha256"]
        assert hashlib.sha256(levels.astype("<u4").tobytes()).hexdigest() == outputs["levels_sha256"]


def lanes_of(words: Any, lane_bits: int, size: int) -> list[int]:
    """The lanes of one word block, by integers (spec §10.4)."""
    lanes, mask = 64 // lane_bits, (1 << lane_bits) - 1
    return [int(word) >> lane_bits * lane & mask for lane in range(lanes) for word in words][:size]


def opening(case: Json, inputs: Json) -> None:
    quantizer, words, weight = quantizer_of(inputs), form.words_in(inputs["words"]), inputs["total_weight"]
    if "error" in case:
        refused(case, lambda: quantizer.open(words, weight))
        return
    opened, outputs = quantizer.open(words, weight), case["outputs"]
    assert form.floats(opened.values) == outputs["mean"]
    assert opened.largest == outputs["largest"]
    assert lanes_of(words, inputs["lane_bits"], inputs["size"]) == outputs["sums"]
    full = quantizer.params.levels * weight
    assert max(abs(2 * each - full) for each in outputs["sums"]) == outputs["largest"]


def lanes(case: Json, inputs: Json) -> None:
    width = inputs["lane_bits"]
    size = inputs["size"] if "size" in inputs else len(inputs["values"])
    values = np.array(inputs["values"], np.uint32) if "values" in inputs else (7 * np.arange(size) + 3) % (1 << 16)
    per_block = 32_768 * lanes_per_word(width)
    blocks = [values[at : at + per_block].astype(np.uint32) for at in range(0, size, per_block)]
    words = np.concatenate([packed(each, width) * np.uint64(inputs["weight"]) for each in blocks])
    if "words" in case["outputs"]:
        assert form.words(words) == case["outputs"]["words"]
        return
    found = {
        "count": words.size, "words_at_both_ends": form.words(np.concatenate((words[:2], words[-2:]))),
        "words_sha256": hashlib.sha256(words.astype("<u8").tobytes()).hexdigest(),
    }  # fmt: skip
    assert found == case["outputs"]


def packed(values: Any, lane_bits: int) -> Any:
    count = words_for(values.size, lane_bits)
    filled = np.zeros(count * lanes_per_word(lane_bits), np.uint32)
    filled[: values.size] = values
    return pack(filled, lane_bits, np.empty(count, np.uint64))


def tally(case: Json, inputs: Json) -> None:
    what = case["name"].partition(":")[0].partition(",")[0]
    {"words": tally_words, "sum": tally_sum, "range": tally_range}[what](case, inputs)


def tally_words(case: Json, inputs: Json) -> None:
    metrics = Metrics(*(inputs[name] for name in ("examples", "train_loss", "eval_loss", "eval_tokens")))
    words = Tally.of(metrics, inputs["weight"], inputs["clipped"], int(inputs["peak_q40"])).words()
    assert form.words(words) == case["outputs"]["words"]


def tally_sum(case: Json, inputs: Json) -> None:
    words, rest = form.words_in(inputs["words"]), (inputs["survivors"], inputs["size"], inputs["weight_cap"])
    assert words.size == len(WORDS)
    if "error" in case:
        refused(case, lambda: Tally.from_sum(words, *rest))
        return
    totals = Tally.from_sum(words, *rest).totals(inputs["size"])
    assert {name: getattr(totals, name) for name in case["outputs"]["totals"]} == case["outputs"]["totals"]


def tally_range(case: Json, inputs: Json) -> None:
    summed = Tally(inputs["sites"], inputs["weight"], 1, 1, 1, 1, inputs["clipped"], int(inputs["peak"]))
    found = next_range(inputs["range_q40"], summed, inputs["largest"], inputs["size"], inputs["levels"])
    assert found == case["outputs"]["next_range_q40"]


def projection(case: Json, inputs: Json) -> None:
    vector = form.words_in(inputs["words"]) if "words" in inputs else words_by_rule(inputs["size"])
    assert form.words(project(unhex(inputs["seed"]), vector)) == case["outputs"]["values"]


# ---------------------------------------------------------------------- log, model, policy


def log(case: Json, inputs: Json) -> None:
    manifest, header = Manifest.decode(unhex(inputs["manifest"])), RoundHeader.decode(unhex(inputs["header"]))
    last = Answer.decode(unhex(inputs["last"])) if inputs["last"] else None
    ledger = Ledger(manifest.digest(), last)
    if "stage" in inputs:
        evidence = unhex(inputs["evidence"])
        if "error" in case:
            refused(case, lambda: ledger.answer(header, inputs["stage"], evidence))
        else:
            assert ledger.answer(header, inputs["stage"], evidence)[1].encode().hex() == case["outputs"]["line"]
        return
    position = Position.decode(unhex(inputs["position"]))
    if "error" in case:
        refused(case, lambda: ledger.admit(position, header, manifest))
    else:
        ledger.admit(position, header, manifest)


class ListedSite(Session):
    """A session of which only keys and roster are used, and those are a file's."""

    def __init__(self, inputs: Json) -> None:
        object.__setattr__(self, "_inputs", inputs)

    def keys(self, site: str) -> SiteKeys:
        return SiteKeys(site, private(self._inputs["identity_seed"]))  # type: ignore[attr-defined]

    @property
    def roster(self) -> Roster:  # type: ignore[override]
        return Roster.decode(unhex(self._inputs["roster"]))  # type: ignore[attr-defined]


def consent(case: Json, inputs: Json) -> None:
    session, policy = ListedSite(inputs), bad_chain.policy_of(inputs["policy"])

    def call() -> Any:
        return bad_chain.consenting(session, unhex(inputs["manifest"]), inputs["loaded"], policy, inputs["now"])

    if "error" in case:
        refused(case, call)
    else:
        assert call().head.hex() == case["outputs"]["reply"]
