"""Records that a site does not project for, and aggregates that nobody opens (spec §11.4.6, §11.7, §15.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secagg.masked.graph import challenge_seed
from secagg.masked.masks import unmask
from secagg.masked.messages import (
    MaskedAggregate,
    Projections,
    Revealed,
    RoundRecord,
    SurvivorSet,
    SurvivorSignature,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.masked.opening import masks_in_sum
from secagg.projection import project
from secagg.session import Packet, Words
from tests.vectors import form
from tests.vectors.form import Json, bad, case_file, drawn
from tests.vectors.making.lies import (
    FIVE,
    ME,
    PEER,
    SITE_REFUSES,
    at,
    by_site,
    error_of,
    flipped,
    message_to,
    of,
    raw,
    refused,
    resigned,
    swapped,
    without,
)
from tests.vectors.making.rounds import opened
from tests.vectors.scene import Played, Session

GONE, BOTH = "aasen", "faulty-peer-or-server"
THREE = Session(3)
PEER3, OTHER3 = "fjell", "aasen"


# ---------------------------------------------------------------------- records


def bad_record() -> Json:
    """A record of another attempt, of another survivor set, or with secrets that are not the committed ones."""
    played = at("check", silent={"mask": [GONE]})
    record: RoundRecord = message_to(played)
    theirs, stranger = of(record.vectors, PEER), of(record.signatures, PEER)
    rows: dict[str, tuple[RoundRecord, str, str]] = {
        "the header of attempt 2": (replace(record, header=replace(record.header, attempt=2)), "faulty-server", ""),
        "an altered advert": (_with(record, "adverts", PEER, seed_commitment=drawn("x")), BOTH, PEER),
        "an altered statement": (_with(record, "statements", PEER, boxes=drawn("x")), BOTH, PEER),
        "an altered vector": (_with(record, "vectors", PEER, words=drawn("x")), BOTH, PEER),
        "a false signature in the quorum": (
            _with(record, "signatures", PEER, signature=flipped(stranger.signature, 40)), BOTH, PEER),
        "a quorum short by one": (replace(record, signatures=without(record.signatures, PEER)), "faulty-server", ""),
        "a survivor set too small": (replace(record, vectors=without(record.vectors, PEER)), "faulty-server", ""),
        "a seed too few": (replace(record, seeds=without(record.seeds, PEER)), "faulty-server", ""),
        "no key of the dropout": (replace(record, keys=()), "faulty-server", ""),
        "key and seed of a survivor": (
            replace(record, keys=by_site((*record.keys, Revealed(PEER, drawn("k"))))), "faulty-server", ""),
        "another seed than the committed one": (_with(record, "seeds", PEER, secret=drawn("b")), "faulty-server", ""),
        "another key than the advertised one": (_with(record, "keys", GONE, secret=drawn("k")), "faulty-server", ""),
    }  # fmt: skip
    assert theirs.site == PEER
    cases = [refused(name, played, lie, code, blamed) for name, (lie, code, blamed) in rows.items()]
    cases.append(_of_another_set())
    about = "Records that a site in state Spent does not answer. It cannot see whether the sum in one is right."
    return case_file(about, "11.4.6, 11.5", cases, SITE_REFUSES)


def _with(record: RoundRecord, name: str, site: str, **changes: bytes) -> RoundRecord:
    items = getattr(record, name)
    return replace(record, **{name: swapped(items, site, replace(of(items, site), **changes))})


def _of_another_set() -> Json:
    """A whole record over a survivor set that a quorum signed, but not this site: only its memory stops it."""
    first, played = at("consent"), at("check")
    smaller = SurvivorSet(without(message_to(first).vectors, PEER))
    signers = [name for name in FIVE.names if name != PEER]
    signed = [SurvivorSignature.decode(first.clients[name].handle(Packet(smaller.encode())).head) for name in signers]
    record: RoundRecord = message_to(played)
    keys = (Revealed(PEER, played.draws[PEER].given["mask_secret"]),)
    lie = replace(
        record, vectors=smaller.vectors, signatures=tuple(signed), seeds=without(record.seeds, PEER), keys=keys
    )  # fmt: skip
    return refused("a whole record over a smaller survivor set than the site signed", played, lie, "faulty-server")


# ---------------------------------------------------------------------- aggregates


class Scene:
    """A round at its end: who answered the check, and what a liar may make of the aggregate."""

    def __init__(self, session: Session = THREE, gone: str = "", silent: str = "") -> None:
        quiet = {"mask": [gone] if gone else [], "check": [silent] if silent else []}
        self.session, self.mask = session, {"mask": quiet["mask"]}
        self.played = at("check", session, silent=quiet)
        self.record: RoundRecord = message_to(self.played)
        self.asked = [name for name in sorted(self.played.server.requests()) if name != silent]
        self.held = Played(session, silent=quiet).run()
        self.right: Packet = self.held.server.result().payload
        head = MaskedAggregate.decode(self.right.head)
        assert head.record == self.record
        self.projections = head.projections
        assert self.right.words is not None
        self.words: Words = self.right.words

    @property
    def sum_size(self) -> int:
        return self.words.size // (1 + len(self.record.vectors) - len(self.projections))

    def honest(self, record: RoundRecord) -> tuple[Projections, ...]:
        """What the sites that are asked sign when they are shown this record."""
        fresh = at("check", self.session, silent=self.mask)
        replies = [fresh.clients[name].handle(Packet(record.encode())) for name in self.asked]
        return tuple(Projections.decode(reply.head) for reply in replies)

    def restated(self, words: Words) -> RoundRecord:
        """The record with the digest of another sum."""
        digest = sum_words_digest(self.played.context.digest, words[: self.sum_size])
        return replace(self.record, sum_words=digest)

    def signed(self, message: Projections, site: str) -> Projections:
        return resigned(self.played.context, self.played.session.keys(site), message)

    def packet(
        self,
        record: RoundRecord | None = None,
        projections: Sequence[Projections] | None = None,
        words: Words | None = None,
    ) -> Packet:
        head = MaskedAggregate(record or self.record, tuple(self.projections if projections is None else projections))
        return Packet(head.encode(), self.words if words is None else words)

    def case(self, name: str, lie: Packet, code: str = "faulty-server", blamed: str = "") -> Json:
        played = self.played
        error = error_of(lambda: played.scheme.open(played.context, lie))
        assert (error.code, getattr(error, "site", "")) == (code, blamed), f"{name}: {error!r}"
        right = {f"right_{key}": value for key, value in form.packet(self.right).items()}
        inputs = {**played.common(), **form.packet(lie), **right}
        return bad(name, inputs, code, blamed)


def _plus(words: Words, at_word: int, value: int) -> Words:
    changed = words.copy()
    changed[at_word] = (int(words[at_word]) + value) % 2**64
    return changed


def aggregates() -> Json:
    """Aggregates that open, with projections of all survivors, of some, and of none."""
    whole, partial, dropped = Scene(), Scene(silent=PEER3), Scene(FIVE, gone=GONE)
    none = np.concatenate([whole.words, *(whole.played.archive.get(each.site) for each in whole.record.vectors)])
    bare = whole.packet(projections=(), words=none)
    cases = [
        _good_case(whole, "everybody's projections"),
        _good_case(partial, "one site's words in place of its projections"),
        _good_case(whole, "everybody's words in place of projections", bare),
        _good_case(dropped, "the key of a dropout is revealed"),
    ]
    return case_file("Aggregates from which the mean follows.", "11.7, 15.2", cases, "aggregate")


def _good_case(scene: Scene, name: str, aggregate: Packet | None = None) -> Json:
    outputs = {key: value for key, value in opened(scene.held).items() if key != "aggregate"}
    return form.good(name, {**scene.played.common(), **form.packet(aggregate or scene.right)}, outputs)


def bad_sum_word() -> Json:
    """A server that publishes another sum than that of the survivors' vectors."""
    whole, cases = Scene(), []
    for name, changed in (
        ("one word of X is 1 more", _plus(whole.words, 0, 1)),
        ("one word of X is 2^63 more", _plus(whole.words, 2, 2**63)),
        ("the last word of X, the peak, is 1 more", _plus(whole.words, -1, 1)),
    ):
        record = whole.restated(changed)
        cases.append(whole.case(f"{name}; the record is as it was", whole.packet(words=changed)))
        cases.append(whole.case(f"{name}; the record says so", whole.packet(record, words=changed)))
        lie = whole.packet(record, whole.honest(record), changed)
        cases.append(whole.case(f"{name}; the record says so, and every site signed for it", lie))
    cases += _by_colluders(whole)
    about = (
        "Aggregates with a false sum; head, words: what is published; right_head, right_words: the true one. Even "
        "where every survivor signed projections for a record with the false sum in it, they give it away."
    )
    return case_file(about, "11.7, 15.2", cases, "aggregate")


def bad_attached_words() -> Json:
    """The words of a survivor that gave no projections stand behind X; here the server alters them."""
    partial, cases = Scene(silent=PEER3), []
    size, attached = partial.sum_size, partial.words
    for name, changed in (
        ("a word of the attached vector is 1 more", _plus(attached, size, 1)),
        ("X and the attached vector are both 1 more", _plus(_plus(attached, 0, 1), size, 1)),
    ):
        record = partial.restated(changed)
        lie = partial.packet(record, partial.honest(record), changed)
        cases.append(partial.case(name, lie))
    for name, changed in (
        ("a word too few", attached[:-1]), ("a word too many", np.append(attached, attached[:1])),
        ("X alone", attached[:size]), ("X, and two vectors", np.concatenate((attached, attached[size:]))),
    ):  # fmt: skip
        cases.append(partial.case(name, partial.packet(words=changed)))
    cases.append(_of_too_few())
    about = (
        "Aggregates of three sites of which one gave no projections; head, words: what is published; right_head, "
        "right_words: the true one."
    )
    return case_file(about, "11.7", cases, "aggregate")


def _of_too_few() -> Json:
    """Four sites that all collude sign a survivor set of four where five must survive; all else is right."""
    scene = Scene(Session(5, least=5))
    played, context = scene.played, scene.played.context
    vectors = without(scene.record.vectors, PEER)
    h3 = survivor_set_digest(context.digest, vectors)
    drafts = [SurvivorSignature(each.site, h3, bytes(64)) for each in vectors]
    signatures = tuple(resigned(context, played.session.keys(each.site), each) for each in drafts)
    keys = (Revealed(PEER, played.draws[PEER].given["mask_secret"]),)
    record = replace(
        scene.record, vectors=vectors, signatures=signatures, seeds=without(scene.record.seeds, PEER), keys=keys
    )
    sent = [played.archive.get(each.site) for each in vectors]
    total = np.sum(sent, axis=0, dtype=np.uint64)
    masks = masks_in_sum(context, record)
    unmask(total, masks.minus, masks.plus)
    record = replace(record, sum_words=sum_words_digest(context.digest, total))
    lie = scene.packet(record, (), np.concatenate([total, *sent]))
    return scene.case("four survivors where five must survive, by four that collude", lie)


def _by_colluders(scene: Scene) -> list[Json]:
    """A colluding site signs projections that make the false sum agree: what is left are tally and lanes."""
    tally = scene.words.size - 8
    rows = {
        "a site is counted twice": _plus(scene.words, tally, 1),
        "the weights add up to too much": _plus(scene.words, tally + 1, 100),
        "a lane above levels x T": _plus(scene.words, 0, 1000 - (int(scene.words[0]) & 1023)),
        "a bit above the lanes": _plus(scene.words, 1, 2**62),
    }
    cases = [
        scene.case(f"with a colluder: {name}", _colluding(scene, changed, scene.restated(changed)))
        for name, changed in rows.items()
    ]
    peak = _plus(scene.words, -1, 1)
    name = "with a colluder: well-formed, and not the sum that the record names"
    return [*cases, scene.case(name, _colluding(scene, peak, scene.record))]


def _colluding(scene: Scene, changed: Words, record: RoundRecord) -> Packet:
    honest = scene.honest(record)
    seed = challenge_seed(scene.played.context, record.transcript())
    shift = project(seed, changed - scene.words)
    mine = of(honest, PEER3)
    values = (mine.words() + shift).astype("<u8").tobytes()
    return scene.packet(record, swapped(honest, PEER3, scene.signed(replace(mine, values=values), PEER3)), changed)


def bad_projection() -> Json:
    """Projections that are false, not signed, of another record, or of a site that has none to give."""
    whole, partial = Scene(), Scene(silent=PEER3)
    dropped = Scene(FIVE, gone=GONE)
    mine, theirs = of(whole.projections, ME), of(whole.projections, PEER3)
    altered = replace(theirs, values=flipped(theirs.values, 500))
    ghost = dropped.signed(replace(of(dropped.projections, PEER), site=GONE, values=bytes(1024)), GONE)
    elsewhere = whole.signed(replace(theirs, record=drawn("other record")), PEER3)

    def swap(message: Projections) -> tuple[Projections, ...]:
        return swapped(whole.projections, PEER3, message)

    rows: list[tuple[str, Scene, Packet, str, str]] = [
        ("a value altered", whole, whole.packet(projections=swap(altered)), "faulty-peer-or-server", PEER3),
        ("a value altered, and signed", whole, whole.packet(projections=swap(whole.signed(altered, PEER3))),
         "faulty-server", ""),
        ("all values zero, and signed", whole,
         whole.packet(projections=swap(whole.signed(replace(theirs, values=bytes(1024)), PEER3))), "faulty-server", ""),
        ("of another record, and signed", whole, whole.packet(projections=swap(elsewhere)), "faulty-server", ""),
        ("signed by another site", whole, whole.packet(projections=swap(whole.signed(theirs, OTHER3))),
         "faulty-peer-or-server", PEER3),
        ("another site's under this name", whole, whole.packet(projections=swap(replace(mine, site=PEER3))),
         "faulty-peer-or-server", PEER3),
        ("of a dropout as well, all zero", dropped, dropped.packet(projections=by_site((*dropped.projections, ghost))),
         "faulty-server", ""),
        ("left out, and no words in their place", whole, whole.packet(projections=without(whole.projections, PEER3)),
         "faulty-server", ""),
        ("left out, and another site's words in their place", whole,
         whole.packet(projections=without(whole.projections, PEER3),
                      words=np.concatenate((whole.words, whole.played.archive.get(ME)))), "faulty-server", ""),
        ("given, and the words too", partial, partial.packet(projections=by_site((*partial.projections, theirs))),
         "faulty-server", ""),
    ]  # fmt: skip
    cases = [scene.case(name, lie, code, blamed) for name, scene, lie, code, blamed in rows]
    plain: Any = [whole.record.plain(), [each.plain() for each in whole.projections]]
    for name, listed in (("one twice", [*plain[1], plain[1][-1]]), ("out of order", plain[1][::-1])):
        head = raw(23, plain[0], listed)
        cases.append(whole.case(name, Packet(head, whole.words), "malformed"))
    about = "Aggregates whose projections are not those of the survivors; right_head, right_words: the true one."
    return case_file(about, "11.7, 15.2", cases, "aggregate")
