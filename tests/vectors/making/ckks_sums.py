"""Aggregates of ckks mode that do not open, for lack of an opening or because of a liar (spec §11.7, §13.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from secagg.ckks.payload import KeyAndCiphertext
from secagg.ckks.states import Opening
from secagg.masked.messages import MaskedAggregate, Projections, RoundRecord, sum_words_digest
from secagg.session import Packet, Words
from tests.vectors import ckks_core, form
from tests.vectors.form import Json, bad, case_file, drawn
from tests.vectors.making.ckks_lies import FIVE, SERVER, signed_vector
from tests.vectors.making.ckks_rounds import THREE
from tests.vectors.making.lies import PEER, at, error_of, of, swapped, without
from tests.vectors.scene import Played


def bad_aggregate() -> Json:
    """Without an opening, with a false one, and with a false sum."""
    about = "Aggregates that a site does not open. opening, right_opening: the site's Opening, with either."
    return case_file(about, "11.7, 11.8, 13.6", [*_of_openings(), *_of_false_sums()], "aggregate")


def bad_ciphertext() -> Json:
    """What a malicious site puts into the sum."""
    about = (
        "Aggregates that nobody opens because of what one site has sent, under its own signature. right_head and "
        "right_words are those of a round in which it sent what it should have."
    )
    return case_file(about, "11.7, 13.6", _of_malicious_sites(), "aggregate")


def _case(name: str, played: Played, head: bytes, words: Words, opening: bytes, code: str) -> Json:
    honest = Played(played.session, silent=played.silent).run()
    right, right_opening = honest.server.result().payload, honest.opening()
    assert right.words is not None
    error = error_of(lambda: played.scheme.open(played.context, Packet(head, words), opening))
    assert (error.code, getattr(error, "site", "")) == (code, ""), f"{name}: {error!r}"
    inputs = {
        **played.common(), "head": head.hex(), "opening": opening.hex(),
        "right_head": right.head.hex(), "right_words": form.words(right.words), "right_opening": right_opening.hex(),
    }  # fmt: skip
    if words.size != right.words.size:
        return bad(name, {**inputs, "words": form.words(words)}, code)
    differ = np.flatnonzero(words != right.words).tolist()
    added = [[index, str((int(words[index]) - int(right.words[index])) % 2**64)] for index in differ]
    return bad(name, {**inputs, "added": added}, code)


def _of_openings() -> list[Json]:
    played = Played(THREE, silent={"check": ["fjell"]}).run()
    right, opening = played.server.result().payload, Opening.decode(played.opening())
    assert right.words is not None
    other = replace(of(opening.seeds, "fjell"), seed=drawn("z"))
    rows = {
        "no opening": (b"", "sealed"),
        "an opening without one survivor's seed": (Opening(without(opening.seeds, "fjell")).encode(), "sealed"),
        "an opening with another seed": (Opening(swapped(opening.seeds, "fjell", other)).encode(), SERVER),
    }
    return [_case(name, played, right.head, right.words, each, code) for name, (each, code) in rows.items()]


def _of_false_sums() -> list[Json]:
    """The server alters the sum after the fact, or before the sites project for it."""
    played = Played(THREE, silent={"check": ["fjell"]}).run()
    right, payload = played.server.result().payload, KeyAndCiphertext(played.context)
    assert right.words is not None
    tail_at, params = payload.words, payload.params
    at_end = payload.words + payload.tail_sum_words
    false = right.words.copy()
    false[tail_at] += np.uint64(1)
    cases = [_case("the sum is altered", played, right.head, false, played.opening(), SERVER)]
    shifts = {
        "a residue one more, and all signed for it": (tail_at, 1),
        "a residue by its prime more, which changes no ciphertext, and all signed for it": (tail_at, params.primes[0]),
        "a key word one more, and all signed for it": (0, 1),
    }
    for name, (index, amount) in shifts.items():
        words = right.words.copy()
        words[index] += np.uint64(amount)
        head = _signed_for(words[:at_end])
        cases.append(_case(name, played, head, words, played.opening(), SERVER))
    short = np.concatenate((right.words[: at_end - 1], right.words[at_end:]))
    cases.append(_case("a word too few", played, right.head, short, played.opening(), SERVER))
    return cases


def _signed_for(total: Words) -> bytes:
    """An aggregate whose record names this sum, with true projections of the sites' vectors for it."""
    played = at("check", THREE)
    context = played.context
    record = RoundRecord.decode(played.request("dale").head)
    record = replace(record, sum_words=sum_words_digest(context.digest, total))
    replies = [played.clients[site].handle(Packet(record.encode())) for site in ("aasen", "dale")]
    return MaskedAggregate(record, tuple(Projections.decode(reply.head) for reply in replies)).encode()


def _of_malicious_sites() -> list[Json]:
    """What is in the sum under its site's own signature."""
    payload = KeyAndCiphertext(FIVE.context())
    params, start = payload.params, payload.words
    lanes = 64 // params.key_lane_bits

    def residue(words: Words) -> None:
        tail = np.array(list(_residues(payload, words)), np.uint32)
        tail[0] = (int(tail[0]) + 1) % params.primes[0]
        words[start:] = ckks_core.tail_of(params, tail.tolist())

    def word(index: int, amount: int) -> Callable[[Words], None]:
        def change(words: Words) -> None:
            words[index] += np.uint64(amount)

        return change

    rows = {
        "a ciphertext off by one": residue,
        "a key other than the one encrypted under": word(2, 1),
        "a zero word of 1": word(params.key_words, 1),
        "a bit above the lanes of a key word": word(0, 1 << lanes * params.key_lane_bits),
        "a tally of two sites": word(params.key_words + 8, 1),
        "a total weight of one more": word(params.key_words + 9, 1),
    }
    return [_spoilt(name, change) for name, change in rows.items()]


def _residues(payload: KeyAndCiphertext, words: Words) -> list[int]:
    """The residues of a vector's tail."""
    return [int(each) for block in payload.numbers(words[payload.words :]) for each in block]


def _spoilt(name: str, change: Callable[[Words], None]) -> Json:
    """A site that sends something else than it computed, and is silent from then on: its vector travels whole."""
    played = at("mask", FIVE, silent={"consent": [PEER]})
    exchanged = []
    for site, request in sorted(played.server.requests().items()):
        reply = played.clients[site].handle(request)
        if site == PEER:
            assert reply.words is not None
            words = reply.words.copy()
            change(words)
            reply = signed_vector(FIVE, reply, words)
        exchanged.append((site, request, reply))
    played.heads["mask"] = exchanged
    played.server.receive([(site, reply) for site, _, reply in exchanged])
    played.run()
    right = played.server.result().payload
    assert right.words is not None
    return _case(f"a malicious site: {name}", played, right.head, right.words, played.opening(), SERVER)


FILES: dict[str, Callable[[], Json]] = {
    "ckks/bad_aggregate.json": bad_aggregate,
    "ckks/bad_ciphertext.json": bad_ciphertext,
}
