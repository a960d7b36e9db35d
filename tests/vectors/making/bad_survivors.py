"""What a server may try on a site about who survives, in which order, and with what it heard before (spec §11.4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secagg.masked.messages import (
    KeyRoster,
    ShareBundle,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
)
from secagg.session import ClientSession, Packet
from tests.vectors.form import Json, case_file, drawn, file
from tests.vectors.making.lies import (
    FIVE,
    ME,
    OTHER,
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
    reopened,
    resigned,
    swapped,
    twin_of,
    without,
)
from tests.vectors.scene import Played, Session


def _file(about: str, spec: str, cases: list[Json]) -> Json:
    return case_file(about, spec, cases, SITE_REFUSES)


# ---------------------------------------------------------------------- trips 3 and 4


def bad_small_u3() -> Json:
    """Sets below the fewest survivors, and a survivor set that is not U2's."""
    cases = []
    opening = at("advertise")
    few = reopened(opening, replace(message_to(opening), cohort=FIVE.names[:3]))
    cases.append(refused("a cohort of 3", opening, few, "refused"))
    lacking = reopened(opening, replace(message_to(opening), cohort=tuple(n for n in FIVE.names if n != ME)))
    cases.append(refused("a cohort without the site", opening, lacking, "faulty-server"))
    more = reopened(opening, replace(message_to(opening), cohort=tuple(sorted((*FIVE.names, "borg")))))
    cases.append(refused("a cohort with a site outside the session", opening, more, "faulty-server"))
    share = at("share")
    cases.append(refused("U1 of 3", share, KeyRoster(message_to(share).adverts[:3]), "refused"))
    mask = at("mask")
    bundle = message_to(mask)
    small = ShareBundle(bundle.statements[:3], without(bundle.boxes, "hauge", "lunde"))
    cases.append(refused("U2 of 3", mask, small, "refused"))
    consent = at("consent")
    vectors = message_to(consent).vectors
    cases.append(refused("U3 of 3", consent, SurvivorSet(vectors[:3]), "refused"))
    cases.append(refused("U3 of the site alone", consent, SurvivorSet((of(vectors, ME),)), "refused"))
    cases.append(refused("U3 without the site", consent, SurvivorSet(without(vectors, ME)), "faulty-server"))
    cases += _false_survivors(consent)
    partial = at("consent", silent={"share": [OTHER]})
    vectors = message_to(partial).vectors
    ghost = resigned(partial.context, partial.session.keys(OTHER), replace(vectors[0], site=OTHER))
    cases.append(refused("U3 with a site outside U2", partial, SurvivorSet((*vectors, ghost)), "faulty-server"))
    return _file("Sets of sites that are too small (m = 4), or not within the set before.", "11.4", cases)


def _false_survivors(played: Played) -> list[Json]:
    vectors = message_to(played).vectors
    theirs = of(vectors, PEER)
    elsewhere = resigned(played.context, played.session.keys(PEER), replace(theirs, share_set=drawn("other h2")))
    forged = replace(theirs, words=drawn("other words"))
    return [
        refused("a vector over another share set", played, SurvivorSet(swapped(vectors, PEER, elsewhere)),
                "faulty-peer-or-server", PEER),
        refused("a vector that its site did not sign", played, SurvivorSet(swapped(vectors, PEER, forged)),
                "faulty-peer-or-server", PEER),
    ]  # fmt: skip


def bad_quorum_short() -> Json:
    played = at("unmask", silent={"mask": [OTHER]})
    signatures = message_to(played).signatures
    context, keys = played.context, played.session.keys
    theirs = of(signatures, PEER)
    another = resigned(context, keys(PEER), replace(theirs, survivor_set=drawn("other h3")))
    ghost = resigned(context, keys(OTHER), replace(theirs, site=OTHER))
    forged = replace(theirs, signature=flipped(theirs.signature, 40))
    cases = [
        refused("q - 1 signatures", played, SurvivorProof(without(signatures, PEER)), "faulty-server"),
        refused("one signature", played, SurvivorProof((of(signatures, ME),)), "faulty-server"),
        refused("a dropout signs in a survivor's place", played,
                SurvivorProof((*without(signatures, PEER), ghost)), "faulty-server"),
        refused("a dropout signs as well", played, SurvivorProof((*signatures, ghost)), "faulty-server"),
        refused("one signature on another survivor set", played,
                SurvivorProof(swapped(signatures, PEER, another)), "faulty-server"),
        refused("one signature is false", played, SurvivorProof(swapped(signatures, PEER, forged)),
                "faulty-peer-or-server", PEER),
        refused("one signature is another site's", played,
                SurvivorProof(swapped(signatures, PEER, replace(of(signatures, ME), site=PEER))),
                "faulty-peer-or-server", PEER),
    ]  # fmt: skip
    return _file("Proofs without a quorum: q = 4, and U3 has four sites.", "11.4.5", cases)


def bad_quorum_duplicate_signer() -> Json:
    played = at("unmask")
    signatures = [each.plain() for each in message_to(played).signatures]
    one = signatures[0]
    cases = [
        refused("the last of q - 1 signers once more", played, raw(18, [*signatures[:3], signatures[2]]), "malformed"),
        refused("one signer four times", played, raw(18, [one] * 4), "malformed"),
        refused("a signer again, not next to itself", played, raw(18, [*signatures[:3], one]), "malformed"),
        refused("five good signatures, out of order", played, raw(18, signatures[::-1]), "malformed"),
    ]
    return _file("Proofs in which a signer would count twice, or that are not in order.", "4.4, 11.4.5", cases)


def bad_both_sets() -> Json:
    """One site as survivor and as dropout: whoever holds both its secrets can unmask its vector."""
    first = at("consent")
    smaller = SurvivorSet(without(message_to(first).vectors, PEER))
    after = at("unmask")
    cases = [refused("a second survivor set, without a survivor of the first", after, smaller, "faulty-server")]
    signed = [first.clients[name].handle(Packet(smaller.encode())) for name in FIVE.names if name not in (ME, PEER)]
    smaller_proof = SurvivorProof(tuple(SurvivorSignature.decode(each.head) for each in signed))
    cases.append(refused("signatures on a smaller set than the site signed", after, smaller_proof, "faulty-server"))
    quorum = SurvivorSignature.decode(after.reply("consent", ME).head)
    mixed = SurvivorProof(by_site((*smaller_proof.signatures, quorum)))
    cases.append(refused("a quorum of which the others signed a smaller set", after, mixed, "faulty-server"))
    spent = Played(FIVE).until("unmask")
    spent_proof = message_to(spent)
    _step_site(spent, "unmask")
    cases.append(refused("a second proof after the shares have left", spent, spent_proof, "faulty-server"))
    return _file("A server that wants both shares of one site.", "11.4.4, 11.4.5, B.1", cases)


def _step_site(played: Played, phase: str) -> None:
    """Lets every site answer the phase, without telling the server."""
    asked = played.server.requests()
    played.heads[phase] = [(site, asked[site], played.clients[site].handle(asked[site])) for site in asked]


# ---------------------------------------------------------------------- order


def bad_order() -> Json:
    """Every request at every state but the one that is due, and what is no request at all."""
    return order_file(Played(Session(3)).run(), "11.4")


def order_file(played: Played, spec: str, *no_requests: bytes) -> Json:
    """The file of one site of the attempt. no_requests: more of what is none in its scheme."""
    assert played.error is None
    right = [of_site(played, phase) for phase in played.heads]
    messages = [*right, *_no_requests(played), *no_requests]
    fresh = Played(played.session)
    client, draws = twin_of(fresh, ME)
    steps = []
    for step in range(len(right) + 1):
        wrong = [{"message": i, "code": _code(client, head)} for i, head in enumerate(messages) if i != step]
        due = step if step < len(right) else 0
        words = Packet(messages[due], np.ones(1, np.uint64))
        beside = error_of(lambda words=words: client.handle(words)).code  # type: ignore[misc]
        row: Json = {"state": client.stage.capitalize(), "wrong": wrong, "words_beside": beside}
        if step < len(right):
            row |= {"right": step, "reply": client.handle(Packet(messages[step])).head.hex()}
        steps.append(row)
    inputs = {**fresh.common(), "site": ME, **fresh.site_inputs(ME), "random": draws.listed()}
    inputs |= {"messages": [each.hex() for each in messages], "steps": steps}
    about = (
        "One site from Fresh to its last state. steps: at each, messages (by their place in `messages`, from 0) "
        "that it refuses with the code given, without any change; then the right request and its reply. "
        "words_beside: the code if the right request (at the last state: the first) carries one word 1 beside it."
    )
    case = {"name": "every message at every state", "inputs": inputs, "outputs": {}}
    return file(about, spec, "site in order", [case])


def of_site(played: Played, phase: str) -> bytes:
    return next(request.head for name, request, _ in played.heads[phase] if name == ME)


def _code(client: ClientSession, head: bytes) -> str:
    """How the site refuses it."""
    before = client.to_bytes()
    error = error_of(lambda: client.handle(Packet(head)))
    assert client.to_bytes() == before
    return error.code


def _no_requests(played: Played) -> list[bytes]:
    advert = played.reply("advertise", ME).head
    return [b"", b"\x80", b"\xa0", raw(200, 1), advert, of_site(played, "advertise")[:-1]]


# ---------------------------------------------------------------------- replay


def bad_replay_attempt() -> Json:
    """Messages of attempt 1 that return in attempt 2 of the same round."""
    first, cases = Played(FIVE, salt="first").run(), []
    opening = at("advertise", attempt=2)
    cases.append(refused("RoundOpen", opening, first.heads["advertise"][0][1].head, "faulty-server"))
    share = at("share", attempt=2)
    old_roster = KeyRoster.decode(of_site(first, "share"))
    adverts = message_to(share).adverts
    lie = KeyRoster(swapped(adverts, PEER, of(old_roster.adverts, PEER)))
    cases.append(refused("one KeyAdvert", share, lie, "faulty-peer-or-server", PEER))
    cases.append(refused("the whole KeyRoster", share, old_roster, "faulty-peer-or-server", "aasen"))
    mask = at("mask", attempt=2)
    old_bundle, bundle = ShareBundle.decode(of_site(first, "mask")), message_to(mask)
    statements = swapped(bundle.statements, PEER, of(old_bundle.statements, PEER))
    cases.append(
        refused("one ShareStatement", mask, replace(bundle, statements=statements), "faulty-peer-or-server", PEER)
    )
    boxes = swapped(bundle.boxes, PEER, of(old_bundle.boxes, PEER))
    cases.append(refused("one Box", mask, replace(bundle, boxes=boxes), "faulty-peer-or-server", PEER))
    consent = at("consent", attempt=2)
    old_set, vectors = SurvivorSet.decode(of_site(first, "consent")), message_to(consent).vectors
    lie_set = SurvivorSet(swapped(vectors, PEER, of(old_set.vectors, PEER)))
    cases.append(refused("one MaskedVector", consent, lie_set, "faulty-peer-or-server", PEER))
    unmask = at("unmask", attempt=2)
    old_proof = SurvivorProof.decode(of_site(first, "unmask"))
    signatures = swapped(message_to(unmask).signatures, PEER, of(old_proof.signatures, PEER))
    cases.append(refused("one SurvivorSignature", unmask, SurvivorProof(signatures), "faulty-server"))
    cases.append(refused("the whole SurvivorProof", unmask, old_proof, "faulty-server"))
    return _file("Messages of attempt 1 replayed to a site in attempt 2.", "7.6, 11.4, 18.1", cases)
