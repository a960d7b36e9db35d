"""What a server may try on a site, and the error with which the site refuses it (spec §11.4)."""

from __future__ import annotations

from dataclasses import replace

from secagg.masked.messages import (
    KeyRoster,
    SurvivorSet,
)
from tests.vectors.form import Json, case_file, drawn
from tests.vectors.making.lies import (
    ME,
    OTHER,
    PEER,
    SITE_REFUSES,
    at,
    by_site,
    flipped,
    message_to,
    of,
    raw,
    refused,
    reopened,
    resigned,
    swapped,
    without,
)
from tests.vectors.making.trips import boxes_in

LOW_ORDER = {
    "0": bytes(32),
    "1": (1).to_bytes(32, "little"),
    "of order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "of order 8, the other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": (2**255 - 20).to_bytes(32, "little"),
}
ALIASES = {
    "p, that is 0": (2**255 - 19).to_bytes(32, "little"),
    "p + 1, that is 1": (2**255 - 18).to_bytes(32, "little"),
    "0 with the top bit": bytes(31) + b"\x80",
    "2^256 - 1": b"\xff" * 32,
}


def _file(about: str, spec: str, cases: list[Json]) -> Json:
    return case_file(about, spec, cases, SITE_REFUSES)


# ---------------------------------------------------------------------- trips 0 and 1


def bad_header() -> Json:
    """A server that gives sites different adapters, or names another model than they agreed to."""
    played = at("advertise")
    message = message_to(played)
    cases = []
    for field in ("adapter", "previous", "session", "roster", "graph"):
        header = replace(message.header, **{field: flipped(getattr(message.header, field))})
        for digest, of_what in ((played.context.digest, "this site's"), (header.digest(), "its own")):
            lie = reopened(played, replace(message, header=header), digest)
            cases.append(refused(f"another {field}, signed over {of_what} h0", played, lie, "faulty-server"))
    for field, value in (("range_q40", 1 << 41), ("round", 2), ("attempt", 2)):
        header = replace(message.header, **{field: value})
        lie = reopened(played, replace(message, header=header), header.digest())
        cases.append(refused(f"another {field}", played, lie, "faulty-server"))
    scheme = raw(
        10, [*message.header.plain()[:4], "other", *message.header.plain()[5:]], list(message.cohort), bytes(64)
    )
    cases.append(refused("another scheme", played, scheme, "faulty-server"))
    about = (
        "Headers that are not the one the site's own position gives (section 7.7), above all with another global "
        "adapter: sites with different adapters never mask together."
    )
    return _file(about, "7.6, 7.7, 11.4.1", cases)


def bad_low_order_key() -> Json:
    played = at("share")
    roster = message_to(played)
    theirs = of(roster.adverts, PEER)
    keys, cases = played.session.keys(PEER), []
    for what, key in {**LOW_ORDER, **ALIASES}.items():
        for field in ("share_key", "mask_key"):
            advert = resigned(played.context, keys, replace(theirs, **{field: key}))
            lie = KeyRoster(swapped(roster.adverts, PEER, advert))
            cases.append(refused(f"{field} is {what}", played, lie, "faulty-site", PEER))
    twice = resigned(played.context, keys, replace(theirs, share_key=theirs.mask_key))
    cases.append(
        refused("one key for two uses", played, KeyRoster(swapped(roster.adverts, PEER, twice)), "faulty-site", PEER)
    )
    copied = resigned(played.context, keys, replace(theirs, mask_key=of(roster.adverts, OTHER).mask_key))
    cases.append(
        refused("a key of two sites", played, KeyRoster(swapped(roster.adverts, PEER, copied)), "faulty-server")
    )
    about = "A key roster, well signed, in which one key has low order, a second encoding, or a second owner."
    return _file(about, "5.3, 11.4.2", cases)


def bad_advert() -> Json:
    played = at("share")
    roster = message_to(played)
    theirs, mine = of(roster.adverts, PEER), of(roster.adverts, ME)
    stranger = replace(played.session.keys(PEER), identity=played.session.server_keys.identity)
    cases = []
    for field in ("share_key", "mask_key", "seed_commitment", "signature"):
        altered = replace(theirs, **{field: flipped(getattr(theirs, field), 3)})
        lie = KeyRoster(swapped(roster.adverts, PEER, altered))
        cases.append(refused(f"an altered {field}", played, lie, "faulty-peer-or-server", PEER))
    middle = resigned(played.context, stranger, theirs)
    cases.append(
        refused("signed by the server", played, KeyRoster(swapped(roster.adverts, PEER, middle)),
                "faulty-peer-or-server", PEER)
    )  # fmt: skip
    own = resigned(played.context, played.session.keys(ME), replace(mine, seed_commitment=drawn("other")))
    cases.append(
        refused("the site's own advert altered", played, KeyRoster(swapped(roster.adverts, ME, own)), "faulty-server")
    )
    cases.append(
        refused("the site's own advert missing", played, KeyRoster(without(roster.adverts, ME)), "faulty-server")
    )
    ghost = resigned(
        played.context, played.session.keys("borg"), replace(theirs, site="borg", share_key=drawn("x")[:31] + b"\0")
    )
    lie = KeyRoster(by_site((*roster.adverts, ghost)))
    cases.append(refused("a site of the roster that is not in the cohort", played, lie, "faulty-server"))
    return _file("Key rosters that misstate somebody's advert.", "11.4.2", cases)


# ---------------------------------------------------------------------- trip 2


def _box_lies(names: set[str]) -> list[Json]:
    first = at("mask")
    again = at("mask", attempt=2)
    bundle, mine = message_to(first), boxes_in(first.reply("share", ME).head)
    box = {each.site: each.ciphertext for each in bundle.boxes}
    to_another = {each.site: each.ciphertext for each in message_to(first, OTHER).boxes}
    lies = {
        "the box from another sender": box[OTHER],
        "the box for another receiver": to_another[PEER],
        "the site's own box for that sender, reflected": mine[PEER],
        "the same box of attempt 2": {each.site: each.ciphertext for each in message_to(again).boxes}[PEER],
        "the first byte flipped": flipped(box[PEER], 0),
        "the first byte of the second share flipped": flipped(box[PEER], 33),
        "the last byte flipped": flipped(box[PEER], 81),
        "its two shares exchanged": box[PEER][33:66] + box[PEER][:33] + box[PEER][66:],
    }
    cases = []
    for name, ciphertext in lies.items():
        if name in names:
            boxes = swapped(bundle.boxes, PEER, replace(of(bundle.boxes, PEER), ciphertext=ciphertext))
            cases.append(refused(name, first, replace(bundle, boxes=boxes), "faulty-peer-or-server", PEER))
    return cases


REFLECTED = "the site's own box for that sender, reflected"


def bad_swapped_share() -> Json:
    names = {
        "the box from another sender", "the box for another receiver", "the same box of attempt 2",
        "the first byte flipped", "the first byte of the second share flipped", "the last byte flipped",
        "its two shares exchanged",
    }  # fmt: skip
    played = at("mask")
    bundle = message_to(played)
    cases = _box_lies(names)
    cases += [
        refused("a box is missing", played, replace(bundle, boxes=without(bundle.boxes, PEER)), "faulty-server"),
        refused("a sender is missing", played,
                replace(bundle, statements=without(bundle.statements, PEER)), "faulty-server"),
        refused("a box from the site itself", played,
                replace(bundle, boxes=by_site((*bundle.boxes, replace(bundle.boxes[0], site=ME)))), "faulty-server"),
    ]  # fmt: skip
    about = "Share bundles in which a box is another than its sender sealed for this site, over this key roster."
    return _file(about, "9.2, 11.4.3", cases)


def bad_reflection() -> Json:
    """What the site itself said comes back to it under another's name, or changed."""
    cases = _box_lies({REFLECTED})
    share, consent = at("share"), at("consent")
    adverts, vectors = message_to(share).adverts, message_to(consent).vectors
    echo = replace(of(adverts, ME), site=PEER)
    lie: KeyRoster | SurvivorSet = KeyRoster(swapped(adverts, PEER, echo))
    cases.append(refused("its advert under another name", share, lie, "faulty-peer-or-server", PEER))
    keys = share.session.keys(PEER)
    mine = of(adverts, ME)
    copied = resigned(share.context, keys, replace(of(adverts, PEER), share_key=mine.share_key, mask_key=mine.mask_key))
    cases.append(
        refused("its keys in another's advert, signed by that one", share, KeyRoster(swapped(adverts, PEER, copied)),
                "faulty-server")
    )  # fmt: skip
    echo_vector = replace(of(vectors, ME), site=PEER)
    lie = SurvivorSet(swapped(vectors, PEER, echo_vector))
    cases.append(refused("its vector message under another name", consent, lie, "faulty-peer-or-server", PEER))
    mask = at("mask")
    bundle = message_to(mask)
    other = resigned(mask.context, mask.session.keys(ME), replace(of(bundle.statements, ME), boxes=drawn("other")))
    lies = replace(bundle, statements=swapped(bundle.statements, ME, other))
    cases.append(refused("its own statement with other boxes, well signed", mask, lies, "faulty-server"))
    other_vector = resigned(consent.context, consent.session.keys(ME), replace(of(vectors, ME), words=drawn("other")))
    lie = SurvivorSet(swapped(vectors, ME, other_vector))
    cases.append(refused("its own vector message with other words, well signed", consent, lie, "faulty-server"))
    return _file("A site's own words come back to it, reflected or changed.", "11.4, 18.1", cases)


def bad_share_set() -> Json:
    played = at("mask")
    bundle = message_to(played)
    theirs = of(bundle.statements, PEER)
    keys = played.session.keys(PEER)
    elsewhere = resigned(played.context, keys, replace(theirs, key_roster=drawn("other h1")))
    cases = []
    for name, forged in (
        ("over another key roster", elsewhere),
        ("with another digest of boxes", replace(theirs, boxes=drawn("boxes"))),
        ("signed by another site", resigned(played.context, played.session.keys(OTHER), theirs)),
    ):
        lie = replace(bundle, statements=swapped(bundle.statements, PEER, forged))
        cases.append(refused(f"a statement {name}", played, lie, "faulty-peer-or-server", PEER))
    return _file("Share sets in which a statement is not its site's, or over another h1.", "11.4.3", cases)
