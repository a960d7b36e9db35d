"""Can a sum carry from one value into its neighbour: with all weights at the cap, with one too many, or by a lie?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secagg.config import Manifest
from secagg.errors import FaultyServer, Malformed, Misuse
from secagg.lanes import LANE_BITS, headroom
from secagg.masked.messages import MaskedVector, masked_words_digest
from secagg.masked.payload import QuantizedUpdate, quantizer_of
from secagg.quantize import QuantizerParams
from secagg.session import Metrics, Packet, Update
from secagg.wire import encode_plain, field_rules
from tests.adversaries.parties import GRID, grid_update
from tests.masked.stage import resigned
from tests.sim import Consortium, Round, federation, plain_mean, random_update

N, SIZE, LIAR = 5, 25, "site-05"
AT_THE_CAP = [(bits, lanes, (1 << lanes) // (N * ((1 << bits) - 1))) for bits, lanes in ((4, 8), (8, 16), (12, 32))]


def extreme(sign: float, weight: int) -> Update:
    """Every value at the end of the range."""
    return Update(np.full(SIZE, sign * 255 / 256, np.float32), weight, Metrics(1 << 28, 1024.0, 1024.0, 1 << 28))


@pytest.mark.parametrize(("bits", "lanes", "cap"), AT_THE_CAP)
def test_the_sum_is_exact_with_every_value_and_every_weight_and_every_count_at_its_largest(
    bits: int, lanes: int, cap: int, scheme: str
) -> None:
    """The largest cap for which five sites fit a lane: one more would not."""
    assert headroom(bits, N, cap) == lanes
    largest = N * cap * ((1 << bits) - 1)
    assert largest < 1 << lanes <= largest + N * ((1 << bits) - 1)
    manifest = {"bits": bits, "weight_cap": cap, "scheme": scheme, **GRID}
    for sign in (1.0, -1.0):
        updates = {name: extreme(sign, cap) for name in Consortium(N).names}
        round_ = federation(N, SIZE, updates=updates, manifest=manifest)
        mean = round_.mean(round_.run())
        assert mean.values.tobytes() == np.full(SIZE, sign * 255 / 256, np.float32).tobytes()
        assert mean.totals.weight == N * cap
        assert mean.totals.examples == N << 28
        assert mean.totals.train_loss == 1024.0


@pytest.mark.parametrize(("bits", "lanes", "cap"), AT_THE_CAP)
def test_a_manifest_that_leaves_room_for_one_less_is_refused_when_made_and_when_it_arrives(
    bits: int, lanes: int, cap: int
) -> None:
    """One more of weight, of sites or of levels: a site cannot even decode the session that would overflow."""
    good = Consortium(N).manifest(SIZE, bits=bits, weight_cap=cap)
    over = replace(good.quantizer, weight_cap=cap + 1)
    assert over.lane_bits == lanes
    with pytest.raises(Misuse, match=r"headroom|exceed"):
        replace(good, quantizer=over)
    plain = good.plain()
    plain[[each.name for each in field_rules(Manifest)].index("quantizer")] = over.plain()
    with pytest.raises((Malformed, Misuse), match=r"headroom|exceed"):
        Manifest.decode(encode_plain([Manifest.TAG, *plain]))
    if bits < 20 and lanes < LANE_BITS[-1]:
        with pytest.raises(Misuse, match="headroom"):
            replace(good, quantizer=replace(good.quantizer, bits=bits + 1))


@pytest.mark.parametrize("lanes", LANE_BITS)
def test_a_modulus_that_is_not_one_of_six_does_not_decode(lanes: int) -> None:
    for wrong in (lanes + 1, lanes - 1, 64, 0):
        with pytest.raises(Malformed):
            QuantizerParams(4, wrong, 1, 1, 0)


@pytest.mark.parametrize("weight", [0, 6, -1])
def test_a_site_does_not_take_a_weight_outside_the_manifests(weight: int, scheme: str) -> None:
    consortium = Consortium(N)
    updates = {name: random_update(name, SIZE) for name in consortium.names}
    updates["site-02"] = replace(updates["site-02"], weight=weight)
    with pytest.raises(Misuse, match=r"weight lies outside 1\.\.5"):
        federation(N, SIZE, consortium=consortium, updates=updates, manifest={"weight_cap": 5, "scheme": scheme})


def spoilt(lane: int, added: int) -> tuple[Round, dict[str, Update]]:
    """A round in which one site adds to a lane of word 0, under its masks and its signature."""
    levels = np.arange(100.0, 100.0 + SIZE)
    names = Consortium(N).names
    updates = {name: grid_update(levels + 7 * i, 1, Metrics(1, 0.0, 0.0, 1)) for i, name in enumerate(names)}
    round_ = federation(N, SIZE, updates=updates, manifest=dict(GRID))

    def alter(phase: str, site: str, packet: Packet) -> Packet:
        if phase != "mask" or site != LIAR or packet.words is None:
            return packet
        words = packet.words.copy()
        words[0] += np.uint64(added << (12 * lane))
        draft = replace(MaskedVector.decode(packet.head), words=masked_words_digest(round_.context.digest, words))
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], draft).encode(), words)

    round_.alter_reply = alter
    return round_, updates


@pytest.mark.parametrize("added", [N * 255, 4095 - N * 255])
def test_a_site_that_makes_a_sum_too_large_for_the_survivors_weights_is_caught_when_it_is_opened(added: int) -> None:
    """By everybody, but not by name: the masks hide whose words they were."""
    round_, _ = spoilt(0, added)
    aggregate = round_.run()
    with pytest.raises(FaultyServer, match="exceeds the total weight times the levels"):
        round_.mean(aggregate)


def test_the_largest_honest_sum_passes_and_one_more_does_not() -> None:
    round_ = federation(N, SIZE, updates={name: extreme(1.0, 1) for name in Consortium(N).names}, manifest=dict(GRID))
    words = round_.run().payload.words
    assert words is not None
    quantizer, values = quantizer_of(round_.context), words[:-8].copy()
    assert int(values[0]) & 0xFFF == N * 255
    assert quantizer.open(values, N).values[0] == np.float32(255 / 256)
    values[0] += np.uint64(1)
    with pytest.raises(FaultyServer, match="exceeds the total weight times the levels"):
        quantizer.open(values, N)


@pytest.mark.parametrize(("lane", "added", "moved"), [(0, 300, 0), (0, 4096, 1)])
def test_a_site_that_stays_below_the_largest_sum_or_spills_into_a_neighbour_is_not_caught(
    lane: int, added: int, moved: int
) -> None:
    """Poisoning, not defended (spec §18.2): it changes the sum by as much, in its own value or in the neighbour's.

    It reads nothing by it. A step of the mean is 2 R / (levels x sites); the updates lie on the grid, so nothing else
    moves it.
    """
    round_, updates = spoilt(lane, added)
    values = round_.mean(round_.run()).values
    per_word = QuantizedUpdate(round_.context).words - 8
    at = moved * per_word
    steps = (values[at] - plain_mean(updates, round_.consortium.names)[at]) / (2 * (255 / 256) / (255 * N))
    assert round(steps, 3) == added >> (12 * moved)
