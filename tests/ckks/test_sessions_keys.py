"""One-time keys over restarts: one ciphertext to a key, whatever the machine remembers (spec §13.4, §16)."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.ckks import frames
from secagg.ckks.keys import key_words
from secagg.ckks.ring import ring_for
from secagg.ckks.sampling import dither_seed, hedged_seed, one_time_key, public_element, update_digest
from secagg.errors import FaultyServer, Misuse
from secagg.lanes import lanes_per_word, unpack
from secagg.masked.messages import SurvivorProof, SurvivorSet, SurvivorSignature
from secagg.masked.payload import quantizer_of
from secagg.primitives.prg import Stream
from secagg.session import Packet, Update, Words
from tests.ckks.sessions import ckks, payload_of, request, scene
from tests.masked.stage import ME, refuses, sent, without
from tests.sim import Dice, Round, random_update

ONE, OTHER = random_update("one", 40), random_update("other", 40)


def vector(round_: Round, update: Update, dice: object = "same") -> tuple[bytes, Words]:
    """What the site sends when it is restored at the stage "shared" with this update and these random bytes."""
    saved, packet = round_.clients[ME].to_bytes(), round_.server.requests()[ME]
    parts = round_.site_context, round_.consortium.keys[ME], round_.policy, saved, update, Dice(dice)
    reply = round_.scheme.restore(*parts).handle(packet)
    assert reply.words is not None
    return reply.head, reply.words


def hedged(round_: Round, update: Update, dice: object = "same") -> bytes:
    digest = update_digest(update.values, update.weight)
    return hedged_seed(Dice(dice)(32), round_.context.digest, round_.context.points[ME], digest)


def key_difference(round_: Round, one: Words, other: Words) -> np.ndarray:
    """Of two vectors under the same masks and pads, in plain integers."""
    params = payload_of(round_).params
    all_up = key_words(params, np.full(params.ring_size, 127, np.int8))  # lanes of 191, so that none is negative
    room = np.empty(params.key_words * lanes_per_word(params.key_lane_bits), np.uint64)
    words = one[: params.key_words] - other[: params.key_words] + all_up
    return unpack(words, params.key_lane_bits, room)[: params.ring_size].astype(np.int64) - 127 - 64


def levels(round_: Round, update: Update) -> np.ndarray:
    stream = Stream(dither_seed(hedged(round_, update)))
    blocks = quantizer_of(round_.context).levels(update.values, update.weight, stream)
    return np.concatenate([each.astype(np.int64) for each in blocks.weighted(payload_of(round_).params.block_values)])


# ------------------------------------------------------------------ the same state twice


def test_a_session_restored_twice_with_the_same_update_and_randomness_sends_the_same_bytes() -> None:
    round_ = scene("mask")
    (head, words), (again, too) = vector(round_, ONE), vector(round_, ONE)
    assert head == again
    assert words.tobytes() == too.tobytes()


def test_a_session_restored_with_the_same_randomness_and_another_update_uses_another_key_and_other_errors() -> None:
    round_ = scene("mask")
    (_, one), (_, other) = vector(round_, ONE), vector(round_, OTHER)
    size = payload_of(round_).params.ring_size
    keys = [one_time_key(hedged(round_, each), size).astype(np.int64) for each in (ONE, OTHER)]
    difference = key_difference(round_, one, other)
    assert np.array_equal(difference, keys[0] - keys[1])  # the keys are those of the hedged seeds
    assert np.count_nonzero(difference) > 0.9 * size  # sigma of a difference is 8: zero with probability 1/20


def test_one_value_in_its_last_bit_or_the_weight_alone_gives_another_key() -> None:
    round_ = scene("mask", manifest={"weight_cap": 4})
    nudged = ONE.values.copy()
    nudged[7] = np.nextafter(nudged[7], np.float32(1))
    words = [
        vector(round_, each)[1] for each in (ONE, Update(nudged, 1, ONE.metrics), Update(ONE.values, 2, ONE.metrics))
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.count_nonzero(key_difference(round_, words[i], words[j])) > 3000


def test_the_same_update_and_random_bytes_in_another_attempt_or_at_another_site_give_another_key() -> None:
    round_ = scene("mask")
    again = ckks(context=round_.consortium.context(round_.context.manifest, attempt=2)).context
    known, digest, size = Dice(0)(32), update_digest(ONE.values, 1), payload_of(round_).params.ring_size
    found = {
        one_time_key(hedged_seed(known, context.digest, context.points[site], digest), size).tobytes()
        for context in (round_.context, again)
        for site in ("site-01", "site-02")
    }
    assert len(found) == 4


def test_fresh_random_bytes_alone_give_another_key() -> None:
    round_ = scene("mask")
    (_, one), (_, other) = vector(round_, ONE, "one"), vector(round_, ONE, "other")
    assert np.count_nonzero(key_difference(round_, one, other)) > 3000


def test_two_vectors_from_one_state_would_expose_the_difference_of_their_updates_whatever_their_keys() -> None:
    """Why a session answers once and its state is on disk before the answer leaves: the hedge does not help here.

    Masks, pad and self-mask are those of the state, so they cancel: the server has the difference of the keys in the
    clear, and with it decrypts the difference of the ciphertexts. It needs no unmask share and no site for that. Spec
    §16.1 is what keeps it from a second answer; a machine that is rolled back, log and all, is beyond it.
    """
    round_ = scene("mask")
    (_, one), (_, other) = vector(round_, ONE), vector(round_, OTHER)
    payload = payload_of(round_)
    params, ring = payload.params, ring_for(payload.params.ring_size, payload.params.primes)
    key = key_difference(round_, one, other)
    a_s = ring.multiply(public_element(params, round_.context.digest, 0), ring.values_of(key.astype(np.int8)))
    ((first,), (second,)) = (list(frames.read(params, each[payload.words :])) for each in (one, other))
    count = params.coefficients(0)
    rest = first.astype(np.int64) - second.astype(np.int64) - a_s[:, :count].astype(np.int64)
    found = [composed(rest[:, i], params.primes) for i in range(count)]
    rounded = [(each + (1 << params.delta_bits - 1)) >> params.delta_bits for each in found]
    slots = np.zeros(params.fields * count, np.int64)
    slots[:40] = levels(round_, ONE) - levels(round_, OTHER)
    fields = slots.reshape(params.fields, count)
    expected = [sum(int(row[i]) << j * params.field_bits for j, row in enumerate(fields)) for i in range(count)]
    assert rounded == expected


def composed(residues: np.ndarray, primes: tuple[int, ...]) -> int:
    """The integer nearest to zero that has these residues."""
    modulus = int(np.prod([int(prime) for prime in primes], dtype=object))
    total = sum(int(r) * (modulus // p) * pow(modulus // p, -1, p) for r, p in zip(residues, primes, strict=True))
    total %= modulus
    return total - modulus if total > modulus // 2 else total


# ------------------------------------------------------------------ restarts


@pytest.mark.parametrize("keeps_words", [True, False])
def test_sites_killed_after_every_answer_send_one_vector_each_and_open_the_same_sum(keeps_words: bool) -> None:
    vectors: dict[str, int] = {}

    def note(phase: str, site: str, packet: Packet) -> Packet:
        vectors[site] = vectors.get(site, 0) + (packet.words is not None)
        return packet

    whole, killed = ckks(), ckks(restart=True, keeps_words=keeps_words, alter_reply=note)
    one, other = whole.run(), killed.run()
    assert vectors == dict.fromkeys(killed.consortium.names, 1)
    assert killed.mean(other).values.tobytes() == whole.mean(one).values.tobytes()
    for site in killed.consortium.names:
        assert killed.mean(other, site).values.tobytes() == whole.mean(one).values.tobytes()


def test_no_stage_after_the_vector_has_left_makes_another() -> None:
    round_ = scene("mask")
    bundle = round_.server.requests()[ME]
    round_.step()
    for phase in ("consent", "unmask", "check", "done"):
        round_.until(phase)
        saved, keys = round_.clients[ME].to_bytes(), round_.consortium.keys[ME]
        client = round_.scheme.restore(round_.site_context, keys, round_.policy, saved, OTHER, Dice("again"))
        with pytest.raises(FaultyServer, match="outside the key roster, or twice"):
            client.handle(bundle)
        assert client.to_bytes() == saved


def test_a_session_that_has_not_sent_its_vector_needs_the_update() -> None:
    round_ = scene("mask")
    parts = round_.site_context, round_.consortium.keys[ME], round_.policy, round_.clients[ME].to_bytes(), None
    with pytest.raises(Misuse, match="needs the update"):
        round_.scheme.restore(*parts, Dice(0))


# ------------------------------------------------------------------ two survivor sets


def test_a_site_signs_one_survivor_set_and_releases_shares_for_that_alone() -> None:
    """S for two sets of survivors would open the difference: here, one site's own update."""
    round_ = scene("consent", n=7)
    vectors = request(round_).vectors
    sent(round_, SurvivorSet(vectors))
    smaller = SurvivorSet(without(vectors, "site-07"))
    refuses(round_, smaller, FaultyServer, "out of order at stage signed")
    others = [name for name in round_.consortium.names if name not in (ME, "site-07")]
    proof = SurvivorProof(tuple(SurvivorSignature.decode(sent(round_, smaller, name).head) for name in others))
    refuses(round_, proof, FaultyServer, "another survivor set")
    assert round_.released() == set()
    released = sent(round_, proof, "site-01")  # five of seven agree on the smaller set: that one, and no other, opens
    assert released.words is None
    refuses(round_, SurvivorSet(vectors), FaultyServer, "out of order at stage spent", "site-01")
    own = [SurvivorSignature.decode(round_.clients["site-07"].handle(Packet(SurvivorSet(vectors).encode())).head)]
    refuses(round_, SurvivorProof(tuple(own)), FaultyServer, "1 signatures are fewer than the quorum 5")
