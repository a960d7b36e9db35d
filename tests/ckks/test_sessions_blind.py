"""What the server learns in ckks mode: nothing, not even the sum; with one site, the sum and nothing more (spec §13.1).

A pad is a fresh stream on every word of its site's vector. For each sum there is one value of an unknown pad that gives
the words the server has: so it learns nothing of the sum, provided that it has no other word with that pad on it, nor
the pad's seed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from secagg.ckks.decoding import decrypt
from secagg.ckks.keys import key_words
from secagg.ckks.messages import BlindAdvert, BlindShares
from secagg.ckks.payload import ZEROS, read_key_sum
from secagg.errors import FaultyServer, Sealed
from secagg.labels import VECTOR_TAIL
from secagg.masked.graph import neighbour_seeds, self_seed
from secagg.masked.masks import unmask
from secagg.masked.messages import MaskedAggregate, share_set_digest
from secagg.masked.states import Shared, decode_state
from secagg.session import Aggregate, Packet
from secagg.tally import WORDS
from tests.ckks.sessions import ckks, one_time_keys, opening_of, payload_of, seeds, state_of, without_pads
from tests.sim import Round, random_update

GONE = "site-05"
VICTIM = "site-01"
COLLUDER = "site-02"


@cache
def finished() -> tuple[Round, Aggregate, dict[str, np.ndarray], list[bytes], Shared]:
    """Five sites of which one drops out; the one-time keys; all that the server saw; the victim's secrets."""
    heard: list[bytes] = []

    def note(_: str, __: str, packet: Packet) -> Packet:
        heard.append(packet.head)
        if packet.words is not None:
            heard.append(packet.words.tobytes())
        return packet

    round_ = ckks(drop={"mask": [GONE]}, alter_reply=note, alter_request=note).until("mask")
    secrets = decode_state(state_of(round_, VICTIM).masked[32:])
    assert isinstance(secrets, Shared)
    keys = one_time_keys(round_)
    return round_, round_.run(), keys, heard, secrets


def total_key(keys: dict[str, np.ndarray], survivors: tuple[str, ...]) -> np.ndarray:
    return np.sum([keys[site] for site in survivors], axis=0)


def test_with_every_survivors_blind_seed_what_is_left_is_exactly_the_sum_of_their_keys_and_tallies() -> None:
    round_, done, keys, _, _ = finished()
    assert done.payload.words is not None
    survivors = {site: seed for site, seed in seeds(round_).items() if site in done.contributors}
    left = without_pads(round_, done.payload.words, survivors)
    expected = sum(key_words(payload_of(round_).params, keys[site].astype(np.int8)) for site in done.contributors)
    assert np.array_equal(left[: -ZEROS - len(WORDS)], expected)
    assert not left[-ZEROS - len(WORDS) : -len(WORDS)].any()
    assert left[-len(WORDS)] == len(done.contributors)


@pytest.mark.parametrize("unknown", ["site-01", "site-02", "site-03", "site-04"])
def test_one_survivors_pad_that_is_unknown_leaves_words_that_are_no_sum_of_keys(unknown: str) -> None:
    """Nothing else the server holds takes them off: the pads of all others leave random words everywhere."""
    round_, done, _, _, _ = finished()
    assert done.payload.words is not None
    known = {site: seed for site, seed in seeds(round_).items() if site in done.contributors and site != unknown}
    left = without_pads(round_, done.payload.words, known)
    with pytest.raises(FaultyServer):
        read_key_sum(payload_of(round_).params, left, len(done.contributors))
    assert (left[-ZEROS - len(WORDS) :] > 2**40).all()  # zeros and tally: by chance one in 2^20 is not
    top = (left >> np.uint64(60)).astype(int)  # 7 lanes of 9.. bits would leave a pattern: 5 sd of a uniform mean
    assert abs(float(top.mean()) - 7.5) < 5 * 4.61 / top.size**0.5


def test_no_blind_seed_no_blind_secret_and_no_key_is_in_anything_the_server_saw() -> None:
    round_, done, keys, heard, _ = finished()
    assert done.payload.words is not None
    everything = b"".join([*heard, done.payload.head, done.payload.words.tobytes()])
    everything += b"".join(round_.archive.get(site).tobytes() for site in done.contributors)
    everything += round_.server.to_bytes()
    for site, seed in seeds(round_).items():
        assert seed not in everything
        packed = key_words(payload_of(round_).params, keys[site].astype(np.int8)).tobytes()
        assert all(packed[start : start + 16] not in everything for start in range(0, 256, 8))


def test_the_server_alone_opens_nothing() -> None:
    round_, done, _, _, _ = finished()
    with pytest.raises(Sealed):
        round_.scheme.open(round_.context, done.payload)


def test_nothing_before_the_vectors_depends_on_the_updates() -> None:
    """Two worlds with the same randomness and other updates: the server hears the same bytes until trip 2."""
    views = []
    for scale in ("one", "other"):
        heard: list[tuple[str, str, bytes]] = []

        def note(phase: str, site: str, packet: Packet, heard=heard) -> Packet:
            heard.append((phase, site, packet.head))
            return packet

        names = ckks().consortium.names
        updates = {name: random_update((scale, name), 40) for name in names}
        ckks(updates=updates, alter_reply=note).until("mask")
        views.append(heard)
    assert views[0] == views[1]
    assert len(views[0]) == 10


# ------------------------------------------------------------------ the server and one site


def test_with_one_site_the_server_gets_the_mean_that_the_site_gets() -> None:
    round_, done, _, _, _ = finished()
    seen = {each.site: each.seed for each in state_of(round_, COLLUDER).seeds}
    mean = round_.scheme.open(round_.context, done.payload, opening_of(seen))
    assert mean.values.tobytes() == round_.mean(done).values.tobytes()


def test_with_one_site_the_server_takes_no_single_vector_apart() -> None:
    """It has all pads, every survivor's self-mask and the colluder's pair mask: the honest sites' pair masks remain."""
    round_, done, keys, _, secrets = finished()
    record = MaskedAggregate.decode(done.payload.head).record
    context, h2 = round_.context, share_set_digest(round_.context.digest, record.statements)
    b = next(each.secret for each in record.seeds if each.site == VICTIM)
    adverts = [(each.site, each.mask_key) for each in record.adverts if each.site != VICTIM]
    payload = payload_of(round_)
    gone = neighbour_seeds(context, h2, secrets.mask_secret, VICTIM, [a for a in adverts if a[0] in (COLLUDER, GONE)])
    rest = neighbour_seeds(
        context, h2, secrets.mask_secret, VICTIM, [a for a in adverts if a[0] not in (COLLUDER, GONE)]
    )
    left = without_pads(round_, round_.archive.get(VICTIM), {VICTIM: seeds(round_)[VICTIM]})
    unmask(left, gone.minus, (self_seed(context, h2, VICTIM, b), *gone.plus))
    with pytest.raises(FaultyServer):
        read_key_sum(payload.params, left, 1)
    unmask(left, rest.minus, rest.plus)  # with them it would be the victim's own key
    found, _ = read_key_sum(payload.params, left, 1)
    assert np.array_equal(found, keys[VICTIM])


def test_the_key_sum_opens_the_sum_of_ciphertexts_and_none_of_its_terms() -> None:
    round_, done, keys, _, _ = finished()
    record = MaskedAggregate.decode(done.payload.head).record
    payload, h2 = payload_of(round_), share_set_digest(round_.context.digest, record.statements)
    tail = round_.archive.get(VICTIM)[payload.words :]
    total = payload.tail_sum()
    total.add(tail)
    b = next(each.secret for each in record.seeds if each.site == VICTIM)
    mask = {VICTIM: self_seed(round_.context, h2, VICTIM, b, VECTOR_TAIL)}

    def opened(key: np.ndarray) -> np.ndarray:
        residues = payload.unmasked(total.words(), mask)
        sums = decrypt(payload.params, round_.context.digest, key, residues, survivors=1, total_weight=1)
        return np.concatenate(list(sums))

    with pytest.raises(FaultyServer):
        opened(total_key(keys, done.contributors))
    assert opened(keys[VICTIM]).size == 40


def test_a_dropouts_blind_seed_is_dealt_before_it_is_known_who_survives_and_is_not_needed() -> None:
    round_, done, _, _, _ = finished()
    seen = {each.site: each.seed for each in state_of(round_, COLLUDER).seeds}
    assert GONE in seen
    fewer = {site: seed for site, seed in seen.items() if site != GONE}
    mean = round_.scheme.open(round_.context, done.payload, opening_of(fewer))
    assert mean.contributors == done.contributors


def test_every_blind_box_and_commitment_is_another_one() -> None:
    round_ = ckks()
    shares: dict[str, BlindShares] = {}
    adverts: dict[str, BlindAdvert] = {}

    def note(phase: str, site: str, packet: Packet) -> Packet:
        if phase == "advertise":
            adverts[site] = BlindAdvert.decode(packet.head)
        if phase == "share":
            shares[site] = BlindShares.decode(packet.head)
        return packet

    round_.alter_reply = note
    round_.until("mask")
    boxes = [box.ciphertext for each in shares.values() for box in each.boxes]
    assert len(set(boxes)) == len(boxes) == 20
    assert len({each.commitment for each in adverts.values()} | {each.blind_key for each in adverts.values()}) == 10
