"""Whole attempts of ckks mode, and the trips of a site that differ from masked mode's (spec §13)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from secagg.ckks.messages import BlindAdvert, BlindBundle, BlindRoster, BlindShares, blind_roster_digest
from secagg.ckks.payload import KeyAndCiphertext, pad_seed
from secagg.ckks.sampling import hedged_seed, update_digest
from secagg.labels import BLIND_AAD, BLIND_KEY
from secagg.masked.graph import pair_seed, place, self_seed, tail_seed
from secagg.masked.messages import share_set_digest
from secagg.primitives.agreement import agree, derive, load
from secagg.session import Words
from tests.vectors import form
from tests.vectors.form import Json, bad, case_file, good
from tests.vectors.making.rounds import Silent, attempt_inputs, opened
from tests.vectors.making.trips import SITE_FORM, trip_case
from tests.vectors.scene import Played, Session

THREE = Session(3, scheme="ckks")
WEIGHTED = Session(5, size=21, weight_cap=3, rotate=1, scheme="ckks")
TWO_GONE = Session(5, colluders=0, size=21, rotate=1, scheme="ckks")

ROUNDS: dict[str, list[tuple[str, Session, Silent]]] = {
    "round_3_sites_0_dropouts": [("not rotated", THREE, {})],
    "round_3_sites_1_dropout": [
        ("silent in mask: its blind seed has left, its vector has not", THREE, {"mask": ["fjell"]}),
        ("silent in check: key and ciphertext travel", THREE, {"check": ["dale"]}),
    ],
    "round_5_sites_1_dropout": [
        ("weights; silent in mask: its blind seed opens nothing", WEIGHTED, {"mask": ["fjell"]}),
    ],
    "round_5_sites_2_dropouts": [
        ("one deals no shares, one leaves before its vector", TWO_GONE, {"share": ["dale"], "mask": ["lunde"]}),
        ("one leaves before its vector, one after it", TWO_GONE, {"mask": ["fjell"], "consent": ["aasen"]}),
    ],
}  # fmt: skip


def round_file(name: str) -> Json:
    """All attempts of one number of sites and dropouts."""
    cases = [_attempt(title, session, silent) for title, session, silent in ROUNDS[name]]
    about = (
        "Whole attempts, as those of masked/. opening: the Opening that every site of U3 has, with which it opens the "
        "aggregate."
    )
    return case_file(about, "11, 13", cases, "attempt")


def _attempt(name: str, session: Session, silent: Silent) -> Json:
    played = Played(session, silent=silent).run()
    inputs = attempt_inputs(played, silent)
    if played.error is not None:
        case = bad(name, inputs, played.error.code)
        case["error"]["phase"] = played.server.phase
        return {**case, "outputs": {"trips": played.trips}}
    return good(name, inputs, {"trips": played.trips, "exact": True, **opened(played)})


# ---------------------------------------------------------------------- trips of a site


def site_trips() -> Json:
    """Trips 0 to 2 of one site of three, and of one of five of which another dealt no shares."""
    cases = []
    for name, played, site in (
        ("three sites", Played(THREE).run(), "dale"),
        ("five sites of which one dealt no shares", Played(WEIGHTED, silent={"share": ["aasen"]}).run(), "fjell"),
    ):
        for phase, made in (("advertise", _advertised), ("share", _shared), ("mask", _masked)):
            cases.append(trip_case(f"{name}: {phase}", played, phase, site, **made(played, site)))
    about = (
        "Trips 0 to 2 of a site. blind_unsigned: what the signature of its BlindAdvert is over. blind_boxes: key and "
        "associated data of every blind box; the plaintext is z. In trip 2: the seeds that everything else follows "
        "from, its opening, and words: the masked words before the masks of section 9.4, with the pad; the tail that "
        "follows from hedged_seed and tail_seed stands in the reply."
    )
    return case_file(about, "13.2, 13.4", cases, SITE_FORM)


def _message(played: Played, phase: str, site: str) -> bytes:
    return next(request.head for name, request, _ in played.heads[phase] if name == site)


def _advertised(played: Played, site: str) -> Json:
    advert = BlindAdvert.decode(played.reply("advertise", site).head)
    return {"state": "Advertised", "blind_unsigned": advert.unsigned().hex()}


def _shared(played: Played, site: str) -> Json:
    context, adverts = played.context, BlindRoster.decode(_message(played, "share", site)).adverts
    roster, secret = blind_roster_digest(context.digest, adverts), load(played.draws[site].given["blind_secret"])
    boxes = {}
    for peer in (each for each in adverts if each.site != site):
        places = place(context, site) + place(context, peer.site)
        key = derive(agree(secret, peer.blind_key), context.digest, BLIND_KEY + places, 32)
        boxes[peer.site] = {"key": key.hex(), "aad": (BLIND_AAD + context.digest + roster + places).hex()}
    assert {box.site for box in BlindShares.decode(played.reply("share", site).head).boxes} == set(boxes)
    return {"state": "Shared", "blind_roster": roster.hex(), "blind_boxes": boxes}


def _masked(played: Played, site: str) -> Json:
    context, drawn, update = played.context, played.draws[site].given, played.updates[site]
    bundle = BlindBundle.decode(_message(played, "mask", site)).bundle
    adverts = {each.site: each.advert for each in BlindRoster.decode(_message(played, "share", site)).adverts}
    h2, places = share_set_digest(context.digest, bundle.statements), context.points
    added, subtracted = {"self": self_seed(context, h2, site, drawn["seed"]).hex()}, {}
    for peer in (each.site for each in bundle.statements if each.site != site):
        seed = pair_seed(context, h2, drawn["mask_secret"], site, peer, adverts[peer].mask_key).hex()
        (added if places[site] < places[peer] else subtracted)[peer] = seed
    hedged = hedged_seed(drawn["hedge"], context.digest, places[site], update_digest(update.values, update.weight))
    return {
        "state": "Masked", "h2": h2.hex(), "exact": True, "hedged_seed": hedged.hex(),
        "pad_seed": pad_seed(context, site, drawn["blind_seed"]).hex(),
        "tail_seed": tail_seed(context, h2, site, drawn["seed"]).hex(),
        "opening": played.opening(site).hex(),
        "words": form.words(_plain_words(played, site)), "added": added, "subtracted": subtracted,
    }  # fmt: skip


def _plain_words(played: Played, site: str) -> Words:
    """Key, zero and tally words under the pad."""
    drawn = played.draws[site].given
    payload = KeyAndCiphertext(played.context, site, drawn["blind_seed"])
    made = payload.contribute(played.updates[site], lambda _: drawn["hedge"])
    made.tail(bytes(48))  # the tally counts what was rounded for the tail
    return np.concatenate([block.copy() for block in made.blocks()])


FILES: dict[str, Any] = {
    "ckks/site_trips.json": site_trips,
    **{f"ckks/{name}.json": partial(round_file, name) for name in ROUNDS},
}
