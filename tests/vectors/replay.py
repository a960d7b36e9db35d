"""Feeds the inputs of a case to the sessions: one function a form (tests/vectors/README.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.config import Manifest, Policy, RoundContext, RoundHeader
from secagg.errors import SecAggError
from secagg.identity import Roster, ServerKeys, SiteKeys
from secagg.masked.masks import Masks
from secagg.masked.messages import KeyAdvert, MaskedVector, Projections, RoundRecord, SealedShares, SurvivorSignature
from secagg.primitives.aead import seal
from secagg.primitives.shamir import P
from secagg.projection import project
from secagg.schemes import scheme_named
from secagg.session import ClientSession, InMemory, Packet, Words
from tests.vectors.form import Json, packet, packet_in, update_in, words, words_in
from tests.vectors.scene import Given

POLICY = Policy(least_colluders=0, largest_weight=1 << 20)
Check = Callable[[Json, Json], None]  # case, inputs


# ---------------------------------------------------------------------- from JSON


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def context_of(inputs: Mapping[str, Any]) -> RoundContext:
    """An attempt as a site sees it."""
    manifest = Manifest.decode(unhex(inputs["manifest"]))
    roster, header = Roster.decode(unhex(inputs["roster"])), RoundHeader.decode(unhex(inputs["header"]))
    return RoundContext(manifest, roster, header)


def private(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(unhex(seed))


def client_of(context: RoundContext, site: str, inputs: Mapping[str, Any]) -> ClientSession:
    """A fresh session of the site."""
    keys = SiteKeys(site, private(inputs["identity_seed"]))
    scheme = scheme_named(context.manifest.scheme)
    return scheme.client(context, keys, POLICY, update_in(inputs["update"]), Given(inputs["random"]))


def client_after_history(inputs: Mapping[str, Any]) -> ClientSession:
    client = client_of(context_of(inputs), inputs["site"], inputs)
    for head in inputs["history"]:
        client.handle(Packet(unhex(head)))
    return client


def server_of(inputs: Mapping[str, Any]) -> Any:
    context = replace(context_of(inputs), cohort=tuple(inputs["cohort"]))
    return scheme_named(context.manifest.scheme).server(context, ServerKeys(private(inputs["server_seed"])), InMemory())


def replies_in(replies: list[Json]) -> list[tuple[str, Packet]]:
    return [(each["site"], packet_in(each)) for each in replies]


def refused(case: Json, call: Callable[[], object]) -> None:
    """Asserts that the call ends in the error that the case names."""
    with pytest.raises(SecAggError) as caught:
        call()
    assert named(caught.value) == case["error"], caught.value


def named(error: SecAggError) -> Json:
    site = getattr(error, "site", "")
    return {"code": error.code} | ({"site": site} if site else {})


# ---------------------------------------------------------------------- sites


def site_answers(case: Json, inputs: Json) -> Packet:
    """The reply, which is what the case says."""
    client = client_after_history(inputs)
    reply = client.handle(Packet(unhex(inputs["message"])))
    assert packet(reply) == case["outputs"]["reply"]
    assert client.stage == case["outputs"]["state"].lower()
    derived(case["outputs"], inputs, reply)
    return reply


def derived(outputs: Json, inputs: Json, reply: Packet) -> None:
    """What the case lists of the steps in between leads from the inputs to the reply."""
    context = context_of(inputs)
    if "h0" in outputs:
        assert (outputs["h0"], outputs["session_id"]) == (context.digest.hex(), context.manifest.digest().hex())
        assert KeyAdvert.decode(reply.head).unsigned().hex() == outputs["unsigned"]
    if "boxes" in outputs:
        message = SealedShares.decode(reply.head)
        assert message.statement.key_roster.hex() == outputs["h1"]
        assert {box.site for box in message.boxes} == set(outputs["boxes"])
        for box in message.boxes:
            parts = outputs["boxes"][box.site]
            assert seal(*(unhex(parts[name]) for name in ("key", "plaintext", "aad"))) == box.ciphertext
        _require_shares(outputs, inputs, context)
    if "added" in outputs:
        assert reply.words is not None
        assert MaskedVector.decode(reply.head).share_set.hex() == outputs["h2"]
        plain = words_in(outputs["words"])
        seeds = [[unhex(seed) for seed in outputs[name].values()] for name in ("added", "subtracted")]
        Masks(*seeds).apply(plain)
        assert (plain == reply.words[: plain.size]).all()
        assert plain.size == reply.words.size or "tail_seed" in outputs
    if "challenge_seed" in outputs:
        record = RoundRecord.decode(unhex(inputs["message"]))
        assert record.transcript().hex() == outputs["transcript"] == Projections.decode(reply.head).record.hex()
        assert words(project(unhex(outputs["challenge_seed"]), words_in(outputs["masked_words"]))) == outputs["values"]
        assert Projections.decode(reply.head).values.hex() == outputs["values"]
    if "h3" in outputs:
        assert SurvivorSignature.decode(reply.head).survivor_set.hex() == outputs["h3"]


def _require_shares(outputs: Json, inputs: Json, context: RoundContext) -> None:
    """The shares of every box and one's own are values of the two polynomials (spec §5.6)."""
    own = [outputs["own_key_share"] + outputs["own_seed_share"]]
    sent = [(parts["place"], parts["plaintext"]) for parts in outputs["boxes"].values()]
    for place, plaintext in [(context.points[inputs["site"]], own[0]), *sent]:
        halves = plaintext[:66], plaintext[66:]
        for secret, share in zip(("mask_secret", "seed"), halves, strict=True):
            constant = int(inputs["random"][secret], 16)
            polynomial = [constant, *(int(each, 16) for each in outputs[f"{secret}_coefficients"])]
            assert sum(a * place**i for i, a in enumerate(polynomial)) % P == int(share, 16)


def site_refuses(case: Json, inputs: Json) -> None:
    client = client_after_history(inputs)
    assert client.stage == case["state"].lower()
    before = client.to_bytes()
    refused(case, lambda: client.handle(packet_in(inputs["message"])))
    assert client.to_bytes() == before
    if "right" in inputs:
        assert packet(client.handle(Packet(unhex(inputs["right"]["message"])))) == inputs["right"]["reply"]


def site_in_order(_: Json, inputs: Json) -> None:
    client = client_of(context_of(inputs), inputs["site"], inputs)
    messages = [unhex(each) for each in inputs["messages"]]
    for step in inputs["steps"]:
        assert client.stage == step["state"].lower()
        before = client.to_bytes()
        for each in step["wrong"]:
            wanted, head = {"error": {"code": each["code"]}}, messages[each["message"]]
            refused(wanted, lambda head=head: client.handle(Packet(head)))
        due = messages[step.get("right", 0)]
        beside = packet_in({"head": due.hex(), "words": "0100000000000000"})
        refused({"error": {"code": step["words_beside"]}}, lambda beside=beside: client.handle(beside))
        assert client.to_bytes() == before
        if "right" in step:
            assert client.handle(Packet(due)).head.hex() == step["reply"]


# ---------------------------------------------------------------------- server


def server_refuses(case: Json, inputs: Json) -> None:
    server = server_of(inputs)
    for phase in inputs["earlier"]:
        assert server.phase == phase["phase"]
        server.receive(replies_in(phase["replies"]))
    assert server.phase == case["phase"]
    assert server.faults == {}
    liar = inputs["reply"]["site"]
    server.receive(replies_in([inputs["reply"], *inputs["others"]]))
    assert set(server.faults) == {liar}
    assert named(server.faults[liar]) == case["error"]
    if case["phase"] in ("advertise", "share", "mask", "consent"):
        assert liar not in server.requests()


def attempt(case: Json, inputs: Json) -> None:
    """Every request and every reply, byte for byte, and then the aggregate or the error."""
    context, server = context_of(inputs), server_of(inputs)
    clients = {site: client_of(context, site, each) for site, each in inputs["sites"].items()}
    quiet: set[str] = set()
    for trip in case["outputs"]["trips"]:
        assert server.phase == trip["phase"]
        requests = server.requests()
        assert {site: request.head.hex() for site, request in requests.items()} == requests_in(trip)
        quiet |= set(inputs["silent"].get(trip["phase"], ()))
        asked = sorted(requests.items())
        replies = [(site, clients[site].handle(request)) for site, request in asked if site not in quiet]
        assert [{"site": site, **packet(reply)} for site, reply in replies] == trip["replies"]
        if "error" in case and trip is case["outputs"]["trips"][-1]:
            wanted = {"error": {"code": case["error"]["code"]}}
            refused(wanted, lambda replies=replies: server.receive(replies))
            assert server.phase == case["error"]["phase"]
            return
        server.receive(replies)
    assert packet(server.result().payload) == case["outputs"]["aggregate"]
    opens(context, case["outputs"])


def aggregate_opens(case: Json, inputs: Json) -> None:
    """The aggregate opens, or is refused for what the case names while the right one beside it opens."""
    context = context_of(inputs)
    opening, right = (unhex(inputs.get(name, "")) for name in ("opening", "right_opening"))
    if "error" not in case:
        outputs = {**case["outputs"], "opening": opening.hex()}
        opens(context, {**outputs, "aggregate": {"head": inputs["head"], "words": inputs["words"]}})
        return
    scheme = scheme_named(context.manifest.scheme)
    lie = Packet(unhex(inputs["head"]), beside_in(inputs))
    refused(case, lambda: scheme.open(context, lie, opening))
    scheme.open(context, packet_in({"head": inputs["right_head"], "words": inputs["right_words"]}), right)


def beside_in(inputs: Json) -> Words:
    """The words of a false aggregate: listed, or the right ones with amounts added mod 2^64."""
    if "words" in inputs:
        return words_in(inputs["words"])
    beside = words_in(inputs["right_words"])
    for index, amount in inputs["added"]:
        beside[index] += np.uint64(int(amount))
    return beside


def requests_in(trip: Json) -> dict[str, str]:
    return {site: group["head"] for group in trip["requests"] for site in group["to"]}


def opens(context: RoundContext, outputs: Json) -> Any:
    """The aggregate, from its bytes alone, opens to what the case says."""
    from tests.vectors.form import floats
    from tests.vectors.making.rounds import totals

    opening = unhex(outputs.get("opening", ""))
    mean = scheme_named(context.manifest.scheme).open(context, packet_in(outputs["aggregate"]), opening)
    assert floats(mean.values) == outputs["mean"]
    assert list(mean.contributors) == outputs["survivors"]
    assert totals(mean) == outputs["totals"]
    assert mean.transcript.hex() == outputs["transcript"]
    assert mean.next_range_q40 == outputs["next_range_q40"]
    return mean
