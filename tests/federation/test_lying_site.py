"""What one site may tell the server: it costs that site the round, is put down to it by name, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedserver.plan import ServerError
from secagg.chain import Position
from secagg.config import Manifest
from secagg.enrol import Consent, ModelCard, Ready, signed_by
from secagg.errors import Refused
from secagg.identity import SiteKeys
from secagg.labels import SIGN_MASKED_VECTOR
from secagg.masked.messages import MaskedVector, masked_words_digest
from secagg.session import Packet
from secagg.vector import Layout
from tests.federation.direct import PHASES, Bench, Where
from tests.sim import Dice

LIAR, OTHER = "site-02", "site-04"
Change = Callable[[Bench, Where, Packet], Packet]


def lie(bench: Bench, kind: str, change: Change, phase: str = "", rounds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Alters what LIAR answers to one kind of request."""

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == LIAR and where.kind == kind and where.round in rounds and where.phase == (phase or kind):
            return change(bench, where, packet)
        return packet

    bench.link.alter_reply = reply


# ---------------------------------------------------------------------- what it loaded


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("base_model", b"B" * 32, "another base model"),
        ("tokenizer", b"T" * 32, "another tokenizer"),
        ("layout", Layout((("m.lora_A.weight", (8, 51)), ("m.lora_B.weight", (60, 8)))), "an adapter of another shape"),
    ],
)
def test_a_site_that_loaded_something_else_is_named_in_two_lines(
    bench: Bench, name: str, value: Any, what: str
) -> None:
    setattr(bench.learners[LIAR], name, value)
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert ended.value.problem == f"{LIAR} loaded {what} than the other sites"
    assert "\n" not in ended.value.remedy
    assert not any(learner.trained for learner in bench.learners.values())


def test_a_late_joiner_with_another_model_refuses_by_itself_and_the_session_goes_on(bench: Bench) -> None:
    bench.learners[LIAR].base_model = b"B" * 32
    bench.link.offline.add(LIAR)

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("unmask", 1) and where.site == OTHER:
            bench.link.offline.clear()
        return packet

    bench.link.alter_reply = reply
    result = bench.run(min_sites=4)
    bench.assert_right(result, *[bench.but(LIAR)] * 2, saved_at=bench.but(LIAR))
    assert set(bench.codes(LIAR)) == {("consent", "refused")}


def test_a_false_card_to_a_resumed_server_does_not_hold_it_up(bench: Bench) -> None:
    """The server reads the adapter's layout from a card; only one that fits the manifest will do."""

    def misstate(bench: Bench, where: Where, packet: Packet) -> Packet:
        card = ModelCard.decode(packet.head)
        tensors = (replace(card.tensors[0], rows=9), *card.tensors[1:])
        return Packet(signed_by(bench.consortium.keys[LIAR], replace(card, tensors=tensors)).encode())

    bench.run(rounds=1)
    bench.link.offline.add("site-01")  # so that the liar is the first to answer
    lie(bench, "propose", misstate)
    bench.assert_result(bench.run(), bench.but("site-01"))


# ---------------------------------------------------------------------- whose word it is


def stranger(site: str) -> SiteKeys:
    return SiteKeys(site, Ed25519PrivateKey.from_private_bytes(Dice("stranger")(32)))


MESSAGES = {"propose": ModelCard, "consent": Consent, "start": Ready}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_answer_signed_by_another_key_counts_for_nothing(bench: Bench, kind: str) -> None:
    def forge(bench: Bench, where: Where, packet: Packet) -> Packet:
        return Packet(signed_by(stranger(LIAR), MESSAGES[kind].decode(packet.head)).encode())

    lie(bench, kind, forge)
    bench.assert_right(bench.run(), *[bench.but(LIAR)] * 2, saved_at=bench.but(LIAR) if kind != "start" else None)
    assert {(each["site"], each["code"]) for each in bench.events("fault")} == {(LIAR, "faulty-site")}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_answer_in_another_sites_name_counts_for_nothing(bench: Bench, kind: str) -> None:
    def pretend(bench: Bench, where: Where, packet: Packet) -> Packet:
        draft = replace(MESSAGES[kind].decode(packet.head), site=OTHER)
        return Packet(signed_by(bench.consortium.keys[LIAR], draft).encode())

    lie(bench, kind, pretend)
    bench.assert_right(bench.run(), *[bench.but(LIAR)] * 2, saved_at=bench.but(LIAR) if kind != "start" else None)


@pytest.mark.parametrize("kind", [*MESSAGES, "finish"])
def test_an_answer_that_does_not_decode_counts_for_nothing(bench: Bench, kind: str) -> None:
    lie(bench, kind, lambda bench, where, packet: Packet(packet.head[:-1]))
    took_part = bench.names if kind == "finish" else bench.but(LIAR)
    enrolled = kind in ("start", "finish")
    bench.assert_right(bench.run(), *[took_part] * 2, saved_at=None if enrolled else bench.but(LIAR))
    assert (LIAR, "malformed") in {(each["site"], each["code"]) for each in bench.events("fault")}
    assert (LIAR in bench.events("finished")[-1]["saved_at"]) == (kind == "start")


@pytest.mark.parametrize("phase", PHASES)
def test_a_replys_flipped_byte_costs_the_site_the_round_and_is_put_down_to_it(bench: Bench, phase: str) -> None:
    def flip(bench: Bench, where: Where, packet: Packet) -> Packet:
        return Packet(packet.head[:-1] + bytes([packet.head[-1] ^ 1]), packet.words)

    lie(bench, "answer", flip, phase, rounds=(1,))
    first = bench.names if phase in ("consent", "unmask", "check") else bench.but(LIAR)
    bench.assert_right(bench.run(), first, bench.names)
    (fault,) = bench.events("fault")
    assert fault["site"] == LIAR
    assert fault["code"] == ("faulty-site" if phase == "share" else "faulty-peer-or-server")


def test_a_void_round_names_the_site_whose_answer_was_faulty(bench: Bench) -> None:
    """Two sites vanish, one of them by a faulty answer: the message tells them apart."""

    def reply(where: Where, packet: Packet) -> Packet | None:
        if not where.asks("share"):
            return packet
        return None if where.site == OTHER else Packet(b"\x00") if where.site == LIAR else packet

    bench.link.alter_reply = reply
    bench.run()
    assert bench.events("void")[0]["why"] == (
        "3 sites are left, the threshold is 4; "
        f"missing: {LIAR} (a faulty answer, malformed), {OTHER} (no answer in share)"
    )


# ---------------------------------------------------------------------- where it stands


def at(position: Callable[[Position], Position]) -> Change:
    def change(bench: Bench, where: Where, packet: Packet) -> Packet:
        ready = Ready.decode(packet.head)
        return Packet(
            signed_by(bench.consortium.keys[LIAR], replace(ready, position=position(ready.position))).encode()
        )

    return change


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (lambda honest: replace(honest, round=0), "behind"),
        (lambda honest: replace(honest, round=100_000), "behind"),
        (lambda honest: replace(honest, adapter=Dice("a")(32)), "another-adapter"),
        (lambda honest: replace(honest, session=Dice("s")(32)), "faulty-site"),
    ],
    ids=["stale", "ahead", "another adapter", "another session"],
)
def test_a_position_that_is_not_the_others_leaves_the_site_out(
    bench: Bench, position: Callable[[Position], Position], said: str
) -> None:
    lie(bench, "start", at(position))
    result = bench.run(rounds=3)
    ahead = position(Position(bytes(32), 0, bytes(32), bytes(32), 1)).round > 3  # then nobody sends it the last round
    bench.assert_result(result, bench.but(LIAR) if ahead else None)
    for contributors in bench.contributors()[1:]:
        assert contributors == bench.but(LIAR)
    noticed = {each["code"] for each in bench.events("fault")} | {"behind" for each in bench.events("behind")}
    assert noticed == {said}


def test_a_site_that_ends_with_another_adapter_is_not_said_to_have_saved_it(bench: Bench) -> None:
    lie(bench, "finish", at(lambda honest: replace(honest, adapter=Dice("a")(32))))
    bench.run()
    assert bench.events("finished")[-1]["saved_at"] == list(bench.but(LIAR))
    assert [(each["site"], each["code"]) for each in bench.events("fault")] == [(LIAR, "another-adapter")]


# ---------------------------------------------------------------------- refusals and rubbish


def refuses_everything(bench: Bench, *names: str) -> None:
    honest = dict(bench.link.members)

    class Refuser:
        finished = False

        def __init__(self, name: str) -> None:
            self._name = name

        def handle(self, kind: str, packets: Any) -> Packet:
            if kind == "answer":
                raise Refused("for no reason")
            return honest[self._name].handle(kind, packets)

    for name in names:
        bench.link.members[name] = Refuser(name)  # type: ignore[assignment]


def test_a_site_that_refuses_every_phase_costs_a_line_of_the_journal_a_round(bench: Bench) -> None:
    refuses_everything(bench, LIAR)
    bench.assert_right(bench.run(), *[bench.but(LIAR)] * 2)
    assert [(each["site"], each["code"], each["round"]) for each in bench.events("refused")] == [
        (LIAR, "refused", 1),
        (LIAR, "refused", 2),
    ]


def test_a_flood_of_refusals_ends_the_run_with_the_sites_names_after_one_attempt(bench: Bench) -> None:
    refuses_everything(bench, LIAR, OTHER)
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert f"{LIAR}, {OTHER} refuse it" in ended.value.problem
    assert "\n" not in ended.value.problem + ended.value.remedy
    assert len(bench.events("refused")) == 2


def test_words_that_are_no_update_end_the_session_before_anybody_takes_the_sum(bench: Bench) -> None:
    """Masks hide who sent them; but the sum is never kept, handed on or applied (spec §18.2, poisoning)."""

    def rubbish(bench: Bench, where: Where, packet: Packet) -> Packet:
        assert packet.words is not None
        words = packet.words.copy()
        words[-8] += np.uint64(1)  # counts itself twice
        header = header_digest(bench)
        draft = replace(MaskedVector.decode(packet.head), words=masked_words_digest(header, words))
        signature = bench.consortium.keys[LIAR].sign(SIGN_MASKED_VECTOR, header, draft.unsigned())
        return Packet(replace(draft, signature=signature).encode(), words)

    lie(bench, "answer", rubbish, "mask")
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert ended.value.problem.startswith("the sum of round 1 is no sum of updates (the sum does not count every")
    assert LIAR in ended.value.problem and "new session" in ended.value.remedy
    assert bench.contributors() == []
    assert not (bench.folder / "out" / "state" / "rounds" / "000001").exists()


def header_digest(bench: Bench) -> bytes:
    manifest = Manifest.decode((bench.folder / "out" / "state" / "manifest.cbor").read_bytes())
    return Position.start(manifest).header(manifest, 1).digest()
