"""Labels, digests, derived keys, streams and shares: everything that turns bytes into bytes (spec §5, §8, §9)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from secagg import labels
from secagg.identity import fingerprint
from secagg.initial import initial_adapter
from secagg.masked.messages import (
    RoundRecord,
    boxes_digest,
    key_roster_digest,
    masked_words_digest,
    seed_commitment,
    share_set_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.primitives.agreement import agree, derive, public_key
from secagg.primitives.prg import Stream
from secagg.primitives.shamir import SHARE_BYTES, P, split
from secagg.vector import Layout, adapter_digest
from secagg.wire import encode_plain
from tests.vectors import form
from tests.vectors.form import Json, bad, drawn, file, good
from tests.vectors.making.encoding import sample, structs
from tests.vectors.scene import Session

# ---------------------------------------------------------------------- labels, digests, signatures


def domain_separation() -> Json:
    cases = [
        good(f"label {name}", {"purpose": label[len(labels.PROTOCOL) + 1 : -1].decode()}, {"label": label.hex()})
        for name, label in labels.ALL.items()
        if name != "PROTOCOL"
    ]
    cases += [good(f"digest {name}", {"over": over}, {"digest": digest.hex()}) for name, over, digest in _digests()]
    cases += _signatures()
    about = (
        "Every label of the registry (its purpose is the input), every digest of section 8.3, and a signature of every "
        "kind. over: the bytes that follow the label, as the parts they are made of, in order. A signature is by the "
        "Ed25519 seed listed, over label, h0 if the message belongs to a round, and `unsigned`."
    )
    return file(about, "8", "domain separation", cases)


def _digests() -> list[tuple[str, list[str], bytes]]:
    """Name, the parts behind the label, the digest as the code computes it."""
    session = Session(3, size=21)
    h0 = session.context().digest
    words = np.arange(5, dtype=np.uint64) + np.uint64(2**63)
    adverts, statements, boxes, vectors = (
        tuple(sample(structs()[name], index) for index in range(2))
        for name in ("KeyAdvert", "ShareStatement", "Box", "MaskedVector")
    )

    def ordered(items: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(sorted(items, key=lambda each: each.site))

    def listed(items: tuple) -> str:  # type: ignore[type-arg]
        return encode_plain([each.plain() for each in items]).hex()

    adverts, statements, boxes, vectors = map(ordered, (adverts, statements, boxes, vectors))
    manifest, header = session.manifest, session.context().header
    initial, layout = session.initial, session.layout
    record = sample(structs()["RoundRecord"])
    assert isinstance(record, RoundRecord)
    tensors = encode_plain([[name, list(shape)] for name, shape in layout.tensors]).hex()
    graph = encode_plain([1, list(session.names)]).hex()
    return [
        ("layout", [tensors], layout.digest()),
        ("adapter", [layout.digest().hex(), form.floats(initial)], adapter_digest(layout, initial)),
        ("roster", [session.roster.unsigned().hex()], session.roster.digest()),
        ("session id", [manifest.encode().hex()], manifest.digest()),
        ("graph", [graph], manifest.graph_digest()),
        ("h0", [header.encode().hex()], h0),
        ("seed commitment", [h0.hex(), drawn("b").hex()], seed_commitment(h0, drawn("b"))),
        ("h1, key roster", [h0.hex(), listed(adverts)], key_roster_digest(h0, adverts)),
        ("boxes", [listed(boxes)], boxes_digest(boxes)),
        ("h2, share set", [h0.hex(), listed(statements)], share_set_digest(h0, statements)),
        ("masked words", [h0.hex(), form.words(words)], masked_words_digest(h0, words)),
        ("h3, survivor set", [h0.hex(), listed(vectors)], survivor_set_digest(h0, vectors)),
        ("sum words", [h0.hex(), form.words(words)], sum_words_digest(h0, words)),
        ("transcript", [record.encode().hex()], record.transcript()),
        ("fingerprint", [drawn("key").hex()], bytes.fromhex(fingerprint(drawn("key")).replace(" ", ""))),
    ]


SIGNED = {  # message: its label, and whether h0 stands behind the label (spec §4.5)
    "SitePublic": ("SIGN_SITE_PUBLIC", False), "Roster": ("SIGN_ROSTER", False), "Here": ("SIGN_HELLO", False),
    "ModelCard": ("SIGN_MODEL_CARD", False), "Consent": ("SIGN_CONSENT", False), "Ready": ("SIGN_READY", False),
    "RoundOpen": ("SIGN_ROUND_OPEN", True), "KeyAdvert": ("SIGN_KEY_ADVERT", True),
    "ShareStatement": ("SIGN_SEALED_SHARES", True), "MaskedVector": ("SIGN_MASKED_VECTOR", True),
    "SurvivorSignature": ("SIGN_SURVIVORS", True), "UnmaskShares": ("SIGN_UNMASK_SHARES", True),
    "Projections": ("SIGN_PROJECTIONS", True), "BlindAdvert": ("SIGN_BLIND_ADVERT", True),
}  # fmt: skip


def _signatures() -> list[Json]:
    session = Session(3)
    keys, h0 = session.keys("dale"), session.context().digest
    cases = []
    for name, (label, inside) in SIGNED.items():
        message = sample(structs()[name])
        parts = (h0, message.unsigned()) if inside else (message.unsigned(),)
        inputs = {
            "seed": session.seeds["dale"].hex(), "label": label, "h0": h0.hex() if inside else "",
            "unsigned": message.unsigned().hex(),
        }  # fmt: skip
        outputs = {"public_key": keys.public.hex(), "signature": keys.sign(labels.ALL[label], *parts).hex()}
        cases.append(good(f"signature {name}", inputs, outputs))
    return cases


# ---------------------------------------------------------------------- keys and seeds

INFOS = {  # derivation: label, length (spec §9.2)
    "key of a box": ("SHARE_KEY", 32),
    "seed of a pair mask": ("PAIR_MASK", 48),
    "seed of a self mask": ("SELF_MASK", 48),
    "seed of the rotation signs": ("ROTATION", 48),
    "seed of the challenge of a record": ("CHALLENGE", 48),
    "seed of the initial adapter": ("INITIAL_VALUES", 48),
}


def hkdf() -> Json:
    h0, h2 = drawn("h0"), drawn("h2")
    ours, theirs = drawn("s_u"), drawn("s_v")
    shared = agree(ours, public_key(theirs))
    pair = {"secret": ours.hex(), "public": public_key(theirs).hex()}
    cases = [
        good("agreement", {"secret": ours.hex(), "their_secret": theirs.hex()},
             {"public": public_key(ours).hex(), "their_public": public_key(theirs).hex(), "shared": shared.hex()}),
    ]  # fmt: skip
    rows = [
        ("key of a box, place 1 to place 4", "key of a box", shared, h0, _places(1, 4), pair),
        ("key of a box, place 4 to place 1", "key of a box", shared, h0, _places(4, 1), pair),
        ("seed of the pair mask of places 1 and 4", "seed of a pair mask", shared, h0,
         _places(1, 4) + h2 + labels.VECTOR_UPDATE, pair),
        ("seed of the self mask of place 3", "seed of a self mask", drawn("b"), h0,
         _places(3) + h2 + labels.VECTOR_UPDATE, {}),
        ("seed of the rotation signs", "seed of the rotation signs", h0, b"", b"", {}),
        ("seed of the challenge of a record", "seed of the challenge of a record", drawn("transcript"), h0, b"", {}),
        ("seed of the initial adapter", "seed of the initial adapter", drawn("nonce"), b"", b"", {}),
    ]  # fmt: skip
    for name, row, ikm, salt, rest, more in rows:
        label, length = INFOS[row]
        info = labels.ALL[label] + rest
        inputs = {**more, "ikm": ikm.hex(), "salt": salt.hex(), "label": label, "after_label": rest.hex()}
        cases.append(good(name, {**inputs, "length": length}, {"okm": derive(ikm, salt, info, length).hex()}))
    about = (
        "The rows of section 9.2. info = the label and then after_label; an empty salt stands for 32 zero bytes. Where "
        "secret and public are given, the IKM is their X25519."
    )
    return file(about, "5.3, 5.4, 9.2", "derivation", cases)


def _places(*places: int) -> bytes:
    return b"".join(place.to_bytes(4, "big") for place in places)


def prg() -> Json:
    cases = []
    for name, seed in (
        ("a drawn seed", drawn("stream", count=48)),
        ("seed 00..2f", bytes(range(48))),
        ("the counter wraps after two blocks", drawn("stream", count=32) + (2**128 - 2).to_bytes(16, "big")),
        ("the counter carries over 64 bits", drawn("stream", count=32) + (2**64 - 1).to_bytes(16, "big")),
    ):
        stream = Stream(seed).read(80)
        words = [str(int.from_bytes(stream[at : at + 8], "little")) for at in range(0, 80, 8)]
        cases.append(good(name, {"seed": seed.hex(), "length": 80}, {"stream": stream.hex(), "words": words}))
    seed = drawn("stream", "long", count=48)
    tail = Stream(seed).read((1 << 20) + 16)[-16:]
    inputs = {"seed": seed.hex(), "skip": 1 << 20, "length": 16}
    cases.append(good("16 bytes from 2^20 on", inputs, {"stream": tail.hex()}))
    about = "Streams of AES-256-CTR from a 48-byte seed: key, then initial counter block. words: the stream as words."
    return file(about, "9.3", "stream", cases)


def adapter() -> Json:
    cases = []
    layouts = {f"{size} values": Session(3, size=size).layout for size in (21, 24, 40)}
    two = (("a.lora_A.weight", (2, 3)), ("a.lora_B.weight", (2, 2)), ("b.lora_A.weight", (1, 2, 3)))
    for name, layout in {**layouts, "two lora_A, one of three extents": Layout(two)}.items():
        nonce = drawn("nonce", name)
        values = initial_adapter(layout, nonce)
        inputs = {"tensors": [[tensor, list(shape)] for tensor, shape in layout.tensors], "nonce": nonce.hex()}
        outputs = {
            "layout": layout.digest().hex(), "values": form.floats(values),
            "adapter": adapter_digest(layout, values).hex(),
        }  # fmt: skip
        cases.append(good(name, inputs, outputs))
    about = "The adapter that training starts from: binary32 little-endian, its layout's digest and its own."
    return file(about, "8.3, 10.1", "initial adapter", cases)


# ---------------------------------------------------------------------- sharing


def shamir() -> Json:
    cases = []
    for threshold, points, name in (
        (1, [1, 2], "threshold 1: every share is the secret"),
        (2, [1, 2, 3], "threshold 2 of 3"),
        (4, [1, 3, 4, 5, 6], "threshold 4 of 5, point 2 left out"),
        (67, list(range(1, 101)), "threshold 67 of 100"),
    ):
        cases.append(_sharing(name, drawn("secret", name), threshold, points))
    for text, secret in (("zero", bytes(32)), ("2^256 - 1", b"\xff" * 32)):
        cases.append(_sharing(f"the secret {text}", secret, 3, [1, 2, 3]))
    cases += _combinations()
    about = (
        "random: the bytes that our code draws, in one piece: 64 for each coefficient, big-endian, reduced mod p, the "
        "highest power first. coefficients: a_1 .. a_(t-1), which is all that the shares depend on. shares: by point, "
        "33 bytes big-endian. The cases named `combine` give shares and want the secret, or `malformed`."
    )
    return file(about, "5.6", "sharing", cases)


def _sharing(name: str, secret: bytes, threshold: int, points: list[int]) -> Json:
    random = drawn("coefficients", name, count=64 * (threshold - 1))
    shares = split(secret, threshold, points, lambda count: random[:count])
    high = [int.from_bytes(random[at : at + 64], "big") % P for at in range(0, len(random), 64)]
    shown_points = points if len(points) < 10 else [1, 50, 100]
    return good(
        name,
        {"secret": secret.hex(), "threshold": threshold, "points": points, "random": random.hex()},
        {
            "coefficients": [each.to_bytes(SHARE_BYTES, "big").hex() for each in reversed(high)],
            "shares": {str(x): shares[x].hex() for x in shown_points},
        },
    )


def _combinations() -> list[Json]:
    secret, random = drawn("secret"), drawn("coefficients", count=128)
    shares = split(secret, 3, [1, 3, 4, 6], lambda count: random[:count])

    def given(points: tuple[int, ...], **lies: bytes) -> Json:
        each = {str(x): lies.get(f"p{x}", shares[x]).hex() for x in points}
        return {"threshold": 3, "shares": each}

    cases = [good(f"combine points {list(points)}", given(points), {"secret": secret.hex()})
             for points in (*combinations((1, 3, 4, 6), 3), (1, 3, 4, 6))]  # fmt: skip
    cases.append(
        good("combine four, the last false: the three smallest points count",
             given((1, 3, 4, 6), p6=bytes(33)), {"secret": secret.hex()})
    )  # fmt: skip
    above = (2**256 + 5).to_bytes(33, "big")
    cases += [
        bad("combine: a share of p", given((1, 3, 4), p3=P.to_bytes(33, "big")), "malformed"),
        bad("combine: a share of 2^264 - 1", given((1, 3, 4), p4=b"\xff" * 33), "malformed"),
        bad("combine: a share of 32 bytes", given((1, 3, 4), p1=bytes(32)), "malformed"),
        bad("combine: a result above 2^256", given((1, 3, 4), p1=above, p3=above, p4=above), "malformed"),
    ]
    return cases
