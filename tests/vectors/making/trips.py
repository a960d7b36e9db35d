"""One trip of one site at a time: what it is asked, what it derives, what it answers (spec §9, §11)."""

from __future__ import annotations

import numpy as np

from secagg.masked.graph import box_aad, box_key, challenge_seed, pair_seed, rotation_seed, self_seed
from secagg.masked.messages import (
    KeyAdvert,
    KeyRoster,
    Projections,
    RoundRecord,
    SealedShares,
    ShareBundle,
    SurvivorSet,
    key_roster_digest,
    share_set_digest,
    survivor_set_digest,
)
from secagg.masked.payload import quantizer_of
from secagg.primitives.agreement import agree
from secagg.primitives.prg import Stream
from secagg.primitives.shamir import SHARE_BYTES, P, split
from secagg.session import Words
from secagg.tally import Tally
from tests.vectors import form
from tests.vectors.form import Json, file, good
from tests.vectors.making.numbers import levels_of
from tests.vectors.scene import Played, Session

PLAIN = Session(3)
ROTATED = Session(5, size=40, weight_cap=5, rotate=1)
TWO_GONE = Session(5, colluders=0, size=21, rotate=1)
SITE_FORM = "site answers"


def settled(session: Session, **options: object) -> Played:
    """A finished attempt in which every site's levels are far from every rounding (quantize.json)."""
    for salt in range(1000):
        played = Played(session, salt=salt, **options).run()  # type: ignore[arg-type]
        if all(_is_safe(played, site) for site in played.cohort if "dither_seed" in played.draws[site].given):
            return played
    raise AssertionError("no dither is far enough from every rounding")


def _is_safe(played: Played, site: str) -> bool:
    context, dither = played.context, played.draws[site].given["dither_seed"]
    quantizer, values = quantizer_of(context), played.updates[site].values
    return levels_of(quantizer.params, quantizer.range_q40, rotation_seed(context), dither, values)[1]


def plain_words(played: Played, site: str) -> Words:
    """x_u of spec §9.4: value words and tally words of a site before its masks."""
    quantizer, update = quantizer_of(played.context), played.updates[site]
    blocks = quantizer.blocks(update.values, update.weight, Stream(played.draws[site].given["dither_seed"]))
    values = np.concatenate([block.copy() for block in blocks])
    return np.concatenate((values, Tally.of(update.metrics, update.weight, blocks.clipped, blocks.peak_q40).words()))


def trip_case(name: str, played: Played, phase: str, site: str, **outputs: object) -> Json:
    """The site's answer of one phase, with all that led to it."""
    phases = list(played.heads)
    before = phases[: phases.index(phase)]
    asked = {each: request for each in (*before, phase) for who, request, _ in played.heads[each] if who == site}
    inputs = {
        **played.common(), "site": site, **played.site_inputs(site),
        "history": [asked[each].head.hex() for each in before], "message": asked[phase].head.hex(),
    }  # fmt: skip
    return good(name, inputs, {**outputs, "reply": form.packet(played.reply(phase, site))}, phase=phase)


def _places(played: Played) -> dict[str, int]:
    return played.context.points


def advertise() -> Json:
    cases = []
    for name, session, site in (("three sites", PLAIN, "dale"), ("five sites", ROTATED, "lunde")):
        played = settled(session)
        advert = KeyAdvert.decode(played.reply("advertise", site).head)
        cases.append(
            trip_case(
                name, played, "advertise", site, state="Advertised", h0=played.context.digest.hex(),
                session_id=session.manifest.digest().hex(), unsigned=advert.unsigned().hex(),
            )
        )  # fmt: skip
    return file("Trip 0: a site draws s, k and b, and signs their public halves.", "11.4.1", SITE_FORM, cases)


def share_aead() -> Json:
    cases = []
    rows = (
        ("three sites, threshold 3", PLAIN, {}, "dale"),
        ("five sites of which one advertised nothing", ROTATED, {"advertise": ["hauge"]}, "fjell"),
    )
    for name, session, silent, site in rows:
        played = settled(session, silent=silent)
        cases.append(trip_case(name, played, "share", site, **_sealed(played, site)))
    about = (
        "Trip 1: a site shares k and b, and seals one box for every other site of U1. boxes: key, associated data and "
        "plaintext (share of k, then share of b) of every box; the ciphertexts stand in the reply."
    )
    return file(about, "5.5, 5.6, 9.2, 11.4.2", SITE_FORM, cases)


def _sealed(played: Played, site: str) -> Json:
    context, drawn = played.context, played.draws[site].given
    adverts = KeyRoster.decode(_request(played, "share", site)).adverts
    h1, places = key_roster_digest(context.digest, adverts), _places(played)
    t, points = context.manifest.threshold, [places[each.site] for each in adverts]
    key_shares = split(drawn["mask_secret"], t, points, lambda _: drawn["mask_secret_coefficients"])
    seed_shares = split(drawn["seed"], t, points, lambda _: drawn["seed_coefficients"])
    boxes = {}
    for peer in (each for each in adverts if each.site != site):
        shared, x = agree(drawn["share_secret"], peer.share_key), places[peer.site]
        boxes[peer.site] = {
            "place": x, "key": box_key(context, shared, site, peer.site).hex(),
            "aad": box_aad(context, h1, site, peer.site).hex(), "plaintext": (key_shares[x] + seed_shares[x]).hex(),
        }  # fmt: skip
    own = places[site]
    return {
        "state": "Shared", "h1": h1.hex(), "boxes": boxes,
        "mask_secret_coefficients": _coefficients(drawn["mask_secret_coefficients"]),
        "seed_coefficients": _coefficients(drawn["seed_coefficients"]),
        "own_key_share": key_shares[own].hex(), "own_seed_share": seed_shares[own].hex(),
    }  # fmt: skip


def _coefficients(random: bytes) -> list[str]:
    """a_1 .. a_(t-1): the last 64 bytes make a_1."""
    numbers = [int.from_bytes(random[at : at + 64], "big") % P for at in range(0, len(random), 64)]
    return [each.to_bytes(SHARE_BYTES, "big").hex() for each in reversed(numbers)]


def _request(played: Played, phase: str, site: str) -> bytes:
    return next(request.head for name, request, _ in played.heads[phase] if name == site)


def masked_input() -> Json:
    cases = []
    rows = (
        ("three sites, lanes of 10 bits, not rotated", PLAIN, {}, ("aasen", "dale", "fjell")),
        ("one of five dealt no shares, lanes of 16 bits, rotated, weights", ROTATED, {"share": ["aasen"]}, ("fjell",)),
        ("five sites, lanes of 12 bits, rotated", TWO_GONE, {}, ("lunde",)),
    )
    for name, session, silent, sites in rows:
        played = settled(session, silent=silent)
        for site in sites:
            cases.append(trip_case(f"{name}: {site}", played, "mask", site, **_masked(played, site)))
    about = (
        "Trip 2: a site opens its boxes, makes its words and masks them. words: x_u, before any mask; they follow from "
        "the update as in quantize.json and tally.json. exact: as there. added, subtracted: the seeds of the masks."
    )
    return file(about, "9.3, 9.4, 10, 11.4.3", SITE_FORM, cases)


def _masked(played: Played, site: str) -> Json:
    context, drawn = played.context, played.draws[site].given
    statements = ShareBundle.decode(_request(played, "mask", site)).statements
    h2, places = share_set_digest(context.digest, statements), _places(played)
    adverts = {each.site: each for each in KeyRoster.decode(_request(played, "share", site)).adverts}
    added = {"self": self_seed(context, h2, site, drawn["seed"]).hex()}
    subtracted = {}
    for peer in (each.site for each in statements if each.site != site):
        seed = pair_seed(context, h2, drawn["mask_secret"], site, peer, adverts[peer].mask_key).hex()
        (added if places[site] < places[peer] else subtracted)[peer] = seed
    return {
        "state": "Masked", "h2": h2.hex(), "rotation_seed": rotation_seed(context).hex(), "exact": is_exact(played),
        "words": form.words(plain_words(played, site)), "added": added, "subtracted": subtracted,
    }  # fmt: skip


def is_exact(played: Played) -> bool:
    """Whether no step up to rint rounds: range 1, multiples of 1/256, blocks of 1, 4, 16."""
    return played.context.header.range_q40 == 1 << 40 and played.session.size != ROTATED.size


def consistency() -> Json:
    cases = []
    rows = (
        ("all three survive", PLAIN, {}, "dale"),
        ("one of five is gone", ROTATED, {"mask": ["dale"]}, "aasen"),
        ("two of five are gone, one of them before it dealt shares", TWO_GONE, {"share": ["dale"], "mask": ["hauge"]},
         "fjell"),
    )  # fmt: skip
    for name, session, silent, site in rows:
        played = settled(session, silent=silent)
        vectors = SurvivorSet.decode(_request(played, "consent", site)).vectors
        h3 = survivor_set_digest(played.context.digest, vectors).hex()
        cases.append(trip_case(name, played, "consent", site, state="Signed", h3=h3))
    return file("Trip 3: a site signs the one survivor set it has seen.", "11.4.4", SITE_FORM, cases)


def unmask() -> Json:
    cases = []
    rows = (
        ("three seeds", PLAIN, {}, "dale"),
        ("four seeds and the key of a dropout", ROTATED, {"mask": ["dale"]}, "aasen"),
        ("three seeds and the keys of two", TWO_GONE, {"mask": ["dale", "hauge"]}, "lunde"),
        ("a dropout after its vector: its seed, and its signature is not in the proof", TWO_GONE,
         {"mask": ["dale"], "consent": ["hauge"]}, "fjell"),
    )  # fmt: skip
    for name, session, silent, site in rows:
        played = settled(session, silent=silent)
        cases.append(trip_case(name, played, "unmask", site, state="Spent"))
    about = "Trip 4: for every site of U2 one share, of its seed if it survived and of its mask secret if not."
    return file(about, "11.4.5", SITE_FORM, cases)


def check() -> Json:
    cases = []
    rows = (
        ("three sites", PLAIN, {}, "dale"),
        (
            "five sites, one of them gone, another silent by now",
            ROTATED,
            {"mask": ["dale"], "check": ["hauge"]},
            "aasen",
        ),
    )
    for name, session, silent, site in rows:
        played = settled(session, silent=silent)
        transcript = RoundRecord.decode(_request(played, "check", site)).transcript()
        outputs = {
            "state": "Checked", "transcript": transcript.hex(),
            "challenge_seed": challenge_seed(played.context, transcript).hex(),
            "masked_words": form.words(played.archive.get(site)),
            "values": Projections.decode(played.reply("check", site).head).values.hex(),
        }  # fmt: skip
        cases.append(trip_case(name, played, "check", site, **outputs))
    about = (
        "Trip 5: a site projects the masked words it sent on the challenge of the record. masked_words: those words."
    )
    return file(about, "11.4.6, 15.2", SITE_FORM, cases)


def boxes_in(head: bytes) -> dict[str, bytes]:
    """The ciphertexts of a SealedShares, by receiver."""
    return {box.site: box.ciphertext for box in SealedShares.decode(head).boxes}
