"""ckks mode: what does the server learn alone, what with one site, and does anything that a site says give more?

Alone it learns nothing of a round but who took part, and afterwards what sites say of where they stand: a digest and
the next range. With what one site keeps it learns the sums of keys and of levels, and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from nacl.public import PrivateKey, SealedBox

from fedclient import site as fedclient_site
from fedclient.store import SessionStore
from fedserver.checkpoint import Checkpoint
from secagg.chain import Position
from secagg.ckks import frames
from secagg.ckks.payload import KeyAndCiphertext
from secagg.config import RoundContext
from secagg.enrol import OpeningFor, OpeningWanted, signed_by
from secagg.errors import FaultyServer
from secagg.initial import initial_adapter
from secagg.masked.messages import masked_words_digest
from secagg.schemes import scheme_named
from secagg.session import Packet
from secagg.vector import adapter_digest
from tests.adversaries.ending import Ending
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Lab, Story
from tests.adversaries.parties import random_input
from tests.adversaries.traces import shown, traces
from tests.adversaries.worlds import other_inputs, views_are_identical
from tests.federation.direct import LAYOUT, Bench, Where
from tests.masked.stage import resigned
from tests.sim import Dice, site_name

pytestmark = [pytest.mark.parametrize("scheme", ["ckks"], indirect=True), pytest.mark.usefixtures("scheme")]

NAMES = tuple(site_name(i) for i in range(1, 8))
WHOLE = Story.of(*NAMES)
WITHOUT = WHOLE.but("site-01")
VICTIM, LIAR, HELPER = "site-02", "site-07", "site-06"
HONEST = NAMES[:5]


def ended(lab: Lab, story: Story = WITHOUT) -> Ending:
    """An attempt that one site drops out of, up to what the server can publish."""
    attempt = lab.attempt().run(WHOLE, "mask")
    for phase in (attempt.consent, attempt.unmask):
        phase(story)
    return Ending(attempt, story)


def finished(lab: Lab) -> Ending:
    """The same, checked, published and opened by every site."""
    ending = ended(lab)
    ending.attempt.check(ending.record, *(w for w in WITHOUT.u3 if w in lab.machines))
    packet = ending.packet(ending.record, ending.sum, ending.attempt.projections.values())
    for name in lab.honest:
        assert ending.attempt.finish(name, packet)
    return ending


# ---------------------------------------------------------------------- the server alone


def test_the_server_alone_cannot_tell_inputs_with_any_other_sum_apart() -> None:
    """Every byte of a whole round, and of what sites say when it is over but for the two things below."""
    known = views_are_identical(finished, n=7, cap=5)
    assert known.open_to() == []
    here = Lab(7, cap=5)
    finished(here)
    others = other_inputs(here, known)
    sums = [sum(each[name].values.astype(np.float64) for name in WITHOUT.u3) for each in (here.inputs, others)]
    assert (sums[0] != sums[1]).sum() > 5
    assert len({sum(each[name].weight for name in WITHOUT.u3) for each in (here.inputs, others)}) == 2


def test_what_sites_say_when_a_round_is_over_is_a_digest_of_the_adapter_and_the_next_range() -> None:
    """Not hidden from the server (spec §18.2): it can check a guess of the sum, and sees how wide updates were."""
    said = []
    for seed in ("one", "other"):
        lab = Lab(7, inputs={name: random_input((seed, name), 12) for name in NAMES})
        finished(lab)
        said.append([Position.decode(each.reply) for each in lab.view.heard if each.reply[:2] == _POSITION])
    assert [len(each) for each in said] == [7, 7]
    (one,), (other,) = (set(each) for each in said)
    assert one.adapter != other.adapter
    transcript = replace(other, adapter=one.adapter, range_q40=one.range_q40, transcript=one.transcript)
    assert transcript == one


_POSITION = Position.start(Lab(3).manifest).encode()[:2]


def test_with_the_blind_seeds_of_all_survivors_but_one_no_sum_is_open() -> None:
    def attack(lab: Lab) -> None:
        finished(lab)
        lab.steal_openings(VICTIM)
        known = what_it_can_compute(lab.view)
        vector = next(each for each in known.vectors if each.site == "site-05")
        (pad,) = [mask for mask in vector.masks if not mask.share_set]
        del lab.view.stolen[pad.public[0]]

    assert views_are_identical(attack, n=7).open_to() == []


def test_the_two_worlds_are_told_apart_when_their_sums_differ_and_one_sites_seeds_are_known() -> None:
    """The method is not empty: the very inputs that the server alone cannot tell apart."""
    here = Lab(7)
    ended(here)
    others = other_inputs(here, what_it_can_compute(here.view))
    here.steal_openings(VICTIM)
    known = what_it_can_compute(here.view)
    sent, form = [each.sent for each in known.vectors], here.form
    with pytest.raises(AssertionError, match="different open sums"):
        form.other_world(sent, known.sums, known.secrets, here.inside(), here.inputs, others)


# ---------------------------------------------------------------------- the server and one site


def test_with_what_one_site_keeps_the_server_has_the_sum_and_nothing_more() -> None:
    """Stolen after the round: the sum opens, its terms do not, nor does anything of the site that dropped out."""

    def attack(lab: Lab) -> None:
        finished(lab)
        lab.steal_openings(VICTIM)

    known = views_are_identical(attack, n=7, cap=5)
    assert known.open_to() == [dict.fromkeys(WITHOUT.u3, 1)]
    assert not known.both()


def test_what_one_site_keeps_opens_no_other_attempt_and_no_other_round() -> None:
    def attack(lab: Lab) -> None:
        lab.attempt(1).run(WHOLE, "consent")
        lab.attempt(2).run(WHOLE)
        lab.steal_openings(VICTIM)
        lab.attempt(1, lab.next_round()).run(WHOLE)

    known = views_are_identical(attack, n=7)
    (terms,) = known.sums
    assert {known.vectors[index].context.header.attempt for index in terms} == {2}
    assert {known.vectors[index].context.header.round for index in terms} == {1}


@pytest.mark.parametrize("dealt", range(1, 6))
def test_a_colluder_knows_the_seeds_of_those_that_dealt_to_it_and_no_others(dealt: int) -> None:
    """It was shown to some sites only: the others' share set is another, and so is what they deal to whom."""

    def attack(lab: Lab) -> None:
        attempt = lab.attempt()
        attempt.advertise(*lab.honest)
        some, rest = lab.honest[:dealt], lab.honest[dealt:]
        stories = {some: Story(NAMES, (*some, LIAR), (*some, LIAR)), rest: Story(NAMES[:-1], rest, rest)}
        for told, story in stories.items():
            attempt.share(story, *told)
        for told, story in stories.items():
            attempt.mask(story, *told)
            if attempt.vectors.keys() & {*told}:
                attempt.consent(story, *told)
                attempt.unmask(story, *told)

    known = views_are_identical(attack, n=7, colluding=(LIAR,))
    assert not known.both()
    assert known.open_to() == ([dict.fromkeys(NAMES[:dealt], 1)] if dealt >= 4 else [])
    assert {each.site for each in known.vectors} == {1: {*NAMES[1:6]}, 4: {*NAMES[:4]}, 5: {*NAMES[:5]}}.get(
        dealt, set()
    )


def test_who_steals_an_identity_key_borrows_what_opens_the_sessions_rounds_so_far(bench: Bench) -> None:
    """Not defended (spec §18.2): a peer cannot tell the thief from a site that missed rounds. It has sums, no terms."""
    bench.run(rounds=2)
    store = Checkpoint(bench.folder / "out" / "state")
    manifest, stolen, secret = store.manifest(), bench.consortium.keys[VICTIM], PrivateKey(Dice("thief")(32))
    assert manifest is not None
    adapter = initial_adapter(LAYOUT, manifest.nonce)
    position = Position.start(manifest)
    for round_ in (1, 2):
        draft = OpeningWanted(VICTIM, manifest.digest(), round_, 1, bytes(secret.public_key), bytes(64))
        reply = bench.link.members["site-01"].handle("lend", [Packet(signed_by(stolen, draft).encode())])
        opening = SealedBox(secret).decrypt(OpeningFor.decode(reply.head).sealed)
        context = RoundContext(manifest, bench.consortium.roster, position.header(manifest, 1))
        mean = scheme_named(manifest.scheme).open(context, store.aggregate(round_), opening)
        adapter = np.add(adapter, mean.values, dtype=np.float32)
        position = position.after(mean, adapter_digest(LAYOUT, adapter))
    assert adapter.tobytes() == _saved(bench, "site-01")


# ---------------------------------------------------------------------- a ciphertext that is not its site's own


def other_tail(ending_of: Callable[[Lab], Sequence[np.ndarray]]) -> Callable[[Lab], None]:
    """An attack in which a colluder, who sends last, sends this in place of its own ciphertext."""

    def attack(lab: Lab) -> None:
        attempt = lab.attempt().run(WHOLE, "mask")
        payload = KeyAndCiphertext(attempt.context)
        attempt.survivors(WHOLE)  # both colluders have made their vectors
        liar = lab.view.colluders[LIAR]
        adverts, statements = attempt.roster(WHOLE), attempt.statements(WHOLE)
        vector, words = liar.vector(attempt.context, adverts, statements)
        moduli = np.array(payload.params.primes, np.int64)[:, None]
        tails = {name: _blocks(payload, words) for name, words in attempt.words.items()}
        blocks = [(each % moduli).astype(np.uint32) for each in ending_of(tails)]  # type: ignore[arg-type]
        lie = np.concatenate([words[: payload.words], frames.write(payload.params, blocks)])
        digest = masked_words_digest(attempt.context.digest, lie)
        signed = resigned(attempt.context, liar.keys, replace(vector, words=digest))
        _force(liar, signed, lie)
        for phase in (attempt.consent, attempt.unmask):
            phase(WHOLE)
        ending = Ending(attempt, WHOLE)
        attempt.check(ending.record)
        given = [
            *attempt.projections.values(),
            *(ending.projections(w, ending.record, ending.words[w]) for w in lab.colluding),
        ]
        packet = ending.packet(ending.record, ending.sum, given)
        for name in lab.honest:
            before = lab.machines[name].position, lab.machines[name].adapter.tobytes()
            assert not attempt.finish(name, packet)
            assert lab.view.heard[-1].refusal == f"{FaultyServer.code} "
            assert before == (lab.machines[name].position, lab.machines[name].adapter.tobytes())

    return attack


def _blocks(payload: KeyAndCiphertext, words: np.ndarray) -> list[np.ndarray]:
    return [block.astype(np.int64) for block in frames.read(payload.params, words[payload.words :])]


def _force(colluder, vector, words) -> None:  # type: ignore[no-untyped-def]
    """From here on the colluder sends this vector whatever it is asked for."""
    colluder._vector = lambda *_: (vector, words)
    colluder._made = {key: made for key, made in colluder._made.items() if not isinstance(made, tuple)}


TAILS = {
    "a copy of one site's": lambda tails: tails[VICTIM],
    "minus one site's": lambda tails: [-each for each in tails[VICTIM]],
    "minus all the others'": lambda tails: [
        -sum(each) for each in zip(*(tails[w] for w in (*HONEST, HELPER)), strict=True)
    ],
    "the difference of two sites'": lambda tails: [a - b for a, b in zip(tails[VICTIM], tails["site-03"], strict=True)],
    "twice its own": lambda tails: [2 * each for each in tails[LIAR]],
    "nothing": lambda tails: [0 * each for each in tails[LIAR]],
    "one residue altered": lambda tails: [
        each + (np.arange(each.size) == 3).reshape(each.shape) for each in tails[LIAR]
    ],
}


@pytest.mark.parametrize("what", TAILS)
def test_a_colluder_that_builds_on_others_ciphertexts_makes_every_site_refuse_and_learns_nothing_by_it(
    what: str,
) -> None:
    """Refusals too are the same on other inputs with the same sum: what a site says depends on nothing more."""
    known = views_are_identical(other_tail(TAILS[what]), n=7, colluding=(HELPER, LIAR))
    assert known.open_to() == [dict.fromkeys(HONEST, 1)]
    assert not known.both()


# ---------------------------------------------------------------------- what a site says and writes (IND-CPA-D)


def test_what_a_site_makes_of_a_sum_is_the_same_whatever_the_keys_and_the_errors() -> None:
    """Li and Micciancio (2021) need an output that depends on the errors: this depends on the integers alone."""
    made = []
    inputs = Lab(7, cap=5).inputs
    for seed in range(3):
        ending = ended(Lab(7, cap=5, seed=seed, inputs=inputs))
        packet = ending.packet(ending.record, ending.sum, ())
        mean = ending.attempt.lab.machines[VICTIM].finish(1, packet)
        made.append(
            (ending.sum.tobytes(), mean.transcript, replace(mean, transcript=b"", values=mean.values.tobytes()))
        )
    assert len({each[0] for each in made}) == len({each[1] for each in made}) == 3
    assert made[0][2] == made[1][2] == made[2][2]


def test_nothing_unrounded_no_error_and_no_sum_of_keys_is_in_anything_that_real_sites_send_or_write(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies, refusals, lent openings; state (unsealed too), log, adapter, transcript; and all that the server has.

    A site that was away borrows what opens the rounds; another is sent a false sum and refuses it.
    """
    opened: list[tuple[object, Packet, bytes]] = []
    scheme = fedclient_site.scheme_named("ckks")
    inner = type(scheme).open

    def seen(self, context, aggregate, opening=b""):  # type: ignore[no-untyped-def]
        opened.append((context, aggregate, opening))
        return inner(self, context, aggregate, opening)

    monkeypatch.setattr(type(scheme), "open", seen)
    late, said, lied = "site-03", bytearray(), []
    for name in ("save_client", "save_opening", "_write"):
        monkeypatch.setattr(SessionStore, name, noted(getattr(SessionStore, name), said))
    bench.link.offline.add(late)

    def reply(where: Where, packet: Packet) -> Packet:
        said.extend(packet.head)
        said.extend(b"" if packet.words is None else packet.words.tobytes())
        if where.asks("check", 1) and where.site == "site-05":
            bench.link.offline.clear()
        return packet

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "start" and where.site == "site-02" and len(packets) > 1 and not lied:
            lied.append(where)
            false = packets[1].words
            assert false is not None
            with pytest.raises(FaultyServer):
                bench.link.members["site-02"].handle(
                    "start", [packets[0], replace(packets[1], words=false + np.uint64(1))]
                )
        return packets

    bench.link.alter_reply, bench.link.alter_request = reply, request
    bench.run(rounds=2, min_sites=4)
    assert lied and list(bench.events("lent"))
    said.extend("".join(str(error) for _, error in bench.link.refusals).encode())
    said.extend(b"".join(path.read_bytes() for path in sorted(bench.folder.rglob("*")) if path.is_file()))
    said.extend(b"".join(_saved(bench, name) for name in bench.names))
    rounds = {aggregate.head: (context, aggregate, opening) for context, aggregate, opening in opened if opening}
    found = []
    for parts in rounds.values():
        with suppress(FaultyServer):  # the false one
            found.append(traces(*parts))
    assert len(found) == 2
    for each in found:
        assert list(shown(each, bytes(said))) == []
        assert set(shown(each, b"".join(width for widths in each.values() for width in widths))) == each.keys()


def noted(save: Callable[..., object], said: bytearray) -> Callable[..., object]:
    """Takes note of what is kept, before it is sealed and after."""

    def save_too(store: SessionStore, *parts: object) -> object:
        said.extend(b"".join(bytes(each) for each in parts if isinstance(each, bytes | memoryview)))
        return save(store, *parts)

    return save_too


def _saved(bench: Bench, name: str) -> bytes:
    saved = bench.learners[name].saved
    return b"" if saved is None else saved.tobytes()
