"""What the server can learn: the sum and nothing else, whatever it tells whom about who dropped out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from secagg.errors import Malformed, Misuse, SecAggError
from secagg.masked.graph import box_aad, box_key, neighbour_seeds, pair_seed, self_seed
from secagg.masked.masks import unmask
from secagg.masked.messages import (
    MaskedVector,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    key_roster_digest,
    masked_words_digest,
    seed_commitment,
    share_set_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.masked.states import Advertised, HeldShares, Masked, Shared, decode_state
from secagg.primitives.agreement import public_key
from secagg.primitives.shamir import combine
from secagg.session import ClientSession, Metrics, Packet, Update
from secagg.thresholds import plan
from tests.masked.stage import flipped, resigned, without
from tests.sim import Dice, Round, federation

VICTIM = "site-01"
COLLUDERS = ("site-06", "site-07")


def test_a_server_that_lies_about_dropouts_learns_nothing() -> None:
    """Seven sites, two collude: for every way to tell the honest ones two stories about the victim.

    One story has it among the survivors (its self-mask seed may be restored), the other among the dropouts (its
    mask key may be). Whoever gets threshold shares of both reads the victim's update.
    """
    round_ = federation(7, 8).until("consent")
    t, quorum = round_.context.manifest.threshold, round_.context.manifest.quorum
    vectors = SurvivorSet.decode(round_.server.requests()[VICTIM].head).vectors
    stories = SurvivorSet(vectors), SurvivorSet(without(vectors, VICTIM))
    saved = {site: client.to_bytes() for site, client in round_.clients.items()}
    honest = ("site-02", "site-03", "site-04", "site-05")
    reached = 0
    for size in range(len(honest) + 1):
        for chosen in combinations(honest, size):
            groups = {VICTIM, *chosen}, set(honest) - set(chosen)
            clients = {site: revived(round_, site, saved[site]) for site in round_.clients}
            heard = [released(round_, clients, story, group) for story, group in zip(stories, groups, strict=True)]
            seed_shares = sum(VICTIM in {share.site for share in each.seeds} for each in heard[0])
            key_shares = sum(VICTIM in {share.site for share in each.keys} for each in heard[1])
            assert min(seed_shares, key_shares) == 0
            assert min(seed_shares, key_shares) + len(COLLUDERS) < t
            assert (seed_shares == 0) == (len(groups[0]) + len(COLLUDERS) < quorum)
            reached += seed_shares + key_shares
    assert reached  # some stories did reach a quorum: the test is not empty


def revived(round_: Round, site: str, blob: bytes) -> ClientSession:
    keys = round_.consortium.keys[site]
    return round_.scheme.restore(round_.site_context, keys, round_.policy, blob, None, Dice(site))


def released(
    round_: Round, clients: dict[str, ClientSession], story: SurvivorSet, group: set[str]
) -> list[UnmaskShares]:
    """The unmask shares that honest sites of the group give once they have heard this story."""
    signatures = [SurvivorSignature.decode(clients[site].handle(Packet(story.encode())).head) for site in sorted(group)]
    h3 = survivor_set_digest(round_.context.digest, story.vectors)
    for site in COLLUDERS:  # they sign every story
        draft = SurvivorSignature(site, h3, bytes(64))
        signatures.append(resigned(round_.context, round_.consortium.keys[site], draft))
    proof = Packet(SurvivorProof(tuple(sorted(signatures, key=lambda each: each.site))).encode())
    shares = []
    for site in sorted(group):
        try:
            shares.append(UnmaskShares.decode(clients[site].handle(proof).head))
        except SecAggError:
            continue
    return shares


@pytest.mark.parametrize("n", range(3, 101))
def test_no_two_quorums_and_no_two_reconstructions_fit_into_one_roster(n: int) -> None:
    """Two quorums share an honest signer; a quorum and t releasers of an earlier attempt share an honest site."""
    for colluders in range(n):
        try:
            numbers = plan(n, colluders)
        except Misuse:
            assert colluders > max(1, (n - 1) // 3)
            break
        honest = n - colluders
        assert 2 * (numbers.quorum - colluders) > honest
        assert (numbers.quorum - colluders) + (numbers.threshold - colluders) > honest
        assert numbers.threshold > colluders
        assert numbers.least_survivors >= numbers.threshold >= numbers.quorum
        assert numbers.least_survivors - colluders >= (3 if n > 3 else 2)


def constant_update(value: float, size: int) -> Update:
    return Update(np.full(size, value, np.float32), 1, Metrics(1, 0.0, 0.0, 0))


def masked_words(round_: Round) -> dict[str, np.ndarray]:
    """Every site's masked words, as the server receives them."""
    words: dict[str, np.ndarray] = {}

    def note(phase: str, site: str, packet: Packet) -> Packet:
        if phase == "mask":
            assert packet.words is not None
            words[site] = packet.words.copy()
        return packet

    round_.alter_reply = note
    round_.until("consent")
    return words


def test_inputs_with_one_sum_give_the_server_one_sum() -> None:
    """Two sites exchange what they hold; grid values, so that rounding changes nothing.

    The sums agree word for word, and each site's words move by exactly the difference of its inputs: the view on
    one input is the view on the other under other masks. It does not show that masks cannot be told from random
    words; that is AES's and X25519's, and the next test's only as far as a glance can see.
    """
    values = {"site-01": 0.5, "site-02": -0.25, "site-03": 0.125, "site-04": 0.0, "site-05": 0.25}
    other = {**values, "site-01": -0.25, "site-02": 0.5}
    grid = {"rotate": 0, "first_range_q40": 255 << 32}
    half = 2.0**-8  # grid points are odd multiples of this
    rounds = [
        federation(5, 64, manifest=grid, updates={s: constant_update(v + half, 64) for s, v in each.items()})
        for each in (values, other)
    ]
    one, two = (masked_words(each) for each in rounds)
    sums = [each.run().payload.words for each in rounds]
    assert sums[0] is not None
    assert sums[1] is not None
    assert sums[0].tobytes() == sums[1].tobytes()
    assert (one["site-01"] - two["site-01"] == two["site-02"] - one["site-02"]).all()
    assert (one["site-01"][:8] != two["site-01"][:8]).all()
    for site in ("site-03", "site-04", "site-05"):
        assert one[site].tobytes() == two[site].tobytes()


def test_masked_words_of_a_constant_update_look_uniform() -> None:
    """A sanity check, not a proof: no byte position of a word, and no bit, gives the constant input away."""
    size = 8 * 4096
    updates = {f"site-{i:02d}": constant_update(0.5, size) for i in range(1, 6)}
    round_ = federation(5, size, updates=updates, manifest={"rotate": 0})
    words = masked_words(round_)["site-01"]
    octets = words.view(np.uint8).reshape(-1, 8)
    for place in range(8):
        counts = np.bincount(octets[:, place], minlength=256)
        expected = octets.shape[0] / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert 150 < chi_square < 380  # 255 degrees of freedom: both tails below 1e-6
    bits = np.unpackbits(octets, axis=1).mean(axis=0)
    assert float(np.abs(bits - 0.5).max()) < 5 * 0.5 / octets.shape[0] ** 0.5  # five standard deviations
    assert np.unique(words).size == words.size


def test_a_second_attempt_masks_the_same_update_with_fresh_masks() -> None:
    first = federation(5, 400)
    context = first.consortium.context(first.context.manifest, attempt=2)
    second = Round(first.consortium, context, first.updates)  # same dice for long-term keys, fresh for the attempt
    one, two = masked_words(first)["site-01"], masked_words(second)["site-01"]
    difference = one - two
    assert np.unique(difference).size == difference.size
    assert (difference != 0).all()


def test_a_mask_is_bound_to_header_share_set_pair_and_its_owner() -> None:
    """Sites with another model, round, attempt or share set derive other masks: their sum is noise, not leakage."""
    round_ = federation(5)
    context, secret, h2 = round_.context, Dice("secret")(32), Dice("h2")(32)
    peer = Dice("peer")(32)
    key = public_key(peer)
    own = pair_seed(context, h2, secret, "site-01", "site-02", key)
    assert own == pair_seed(context, h2, peer, "site-02", "site-01", public_key(secret))
    headers = [
        replace(context.header, **{name: flipped(getattr(context.header, name))}) for name in ("adapter", "previous")
    ]
    headers += [replace(context.header, attempt=2), replace(context.header, round=2)]
    seeds = [own, pair_seed(context, flipped(h2), secret, "site-01", "site-02", key)]
    seeds += [pair_seed(context, h2, secret, "site-01", "site-03", key)]
    seeds += [pair_seed(replace(context, header=header), h2, secret, "site-01", "site-02", key) for header in headers]
    seeds += [self_seed(context, h2, "site-01", secret), self_seed(context, h2, "site-02", secret)]
    seeds += [self_seed(context, flipped(h2), "site-01", secret)]
    assert len(set(seeds)) == len(seeds)


def test_one_site_adds_the_mask_that_the_other_subtracts() -> None:
    context = federation(5).context
    secrets = {name: Dice(name)(32) for name in context.manifest.sites}
    keys = [(name, public_key(secret)) for name, secret in secrets.items()]
    plus: list[bytes] = []
    minus: list[bytes] = []
    for name, secret in secrets.items():
        seeds = neighbour_seeds(context, bytes(32), secret, name, [each for each in keys if each[0] != name])
        assert repr(seeds) == f"MaskSeeds({len(seeds.plus)} added, {len(seeds.minus)} subtracted)"
        plus += seeds.plus
        minus += seeds.minus
    assert len(plus) == len(set(plus)) == 10
    assert sorted(plus) == sorted(minus)


def test_the_keys_of_the_two_directions_between_two_sites_differ() -> None:
    """Each box key seals once with a fixed nonce; were both directions one key, two boxes would share it."""
    context = federation(5).context
    shared = Dice("shared")(32)
    assert box_key(context, shared, "site-01", "site-02") != box_key(context, shared, "site-02", "site-01")


def test_the_words_that_leave_are_the_words_that_were_signed() -> None:
    round_ = federation(5)
    heads: dict[str, MaskedVector] = {}

    def note(phase: str, site: str, packet: Packet) -> Packet:
        if phase == "mask":
            heads[site] = MaskedVector.decode(packet.head)
            assert packet.words is not None
            packet.words[0] += np.uint64(1)
        return packet

    round_.alter_reply = note
    with pytest.raises(SecAggError):
        round_.run()
    assert set(round_.server.faults) == set(heads)


def dealt_by(round_: Round, dealer: str) -> tuple[Shared, dict[int, HeldShares]]:
    """The dealer's secrets, and what every site holds of them, by point."""
    own = decode_state(round_.clients[dealer].to_bytes()[32:])
    assert isinstance(own, Shared)
    round_.until("consent")
    held = {}
    for site, client in round_.clients.items():
        state = decode_state(client.to_bytes()[32:])
        assert isinstance(state, Masked)
        (held[round_.context.points[site]],) = (each for each in state.held if each.site == dealer)
    return own, held


def test_fewer_shares_than_the_threshold_restore_nothing_that_a_site_dealt() -> None:
    round_ = federation(7, 8).until("mask")
    t = round_.context.manifest.threshold
    own, held = dealt_by(round_, VICTIM)
    for secret, kind in ((own.mask_secret, "key_share"), (own.seed, "seed_share")):
        shares = {point: getattr(each, kind) for point, each in held.items()}
        assert combine(shares, t) == secret
        for fewer in range(1, t):
            with suppress(Malformed):  # what is found may exceed 32 bytes
                assert combine(shares, fewer) != secret
        assert secret not in {share[1:] for share in shares.values()}


def test_no_secret_of_an_attempt_serves_for_two_uses_or_two_attempts() -> None:
    first = federation(5)
    again = Round(first.consortium, first.consortium.context(first.context.manifest, attempt=2), first.updates)
    drawn = []
    for round_ in (first.until("share"), again.until("share")):
        for client in round_.clients.values():
            state = decode_state(client.to_bytes()[32:])
            assert isinstance(state, Advertised)
            drawn += [state.share_secret, state.mask_secret, state.seed]
    assert len(set(drawn)) == len(drawn) == 2 * 5 * 3


def test_how_a_value_was_rounded_is_the_sites_secret() -> None:
    """The same state and update under other random bytes: only the dither of the rounding is drawn from them."""
    size = 400
    round_ = federation(5, size).until("mask")
    saved, request = round_.clients[VICTIM].to_bytes(), round_.server.requests()[VICTIM]
    keys, update = round_.consortium.keys[VICTIM], round_.updates[VICTIM]
    sent = []
    for dice in ("one", "one", "two"):
        client = round_.scheme.restore(round_.site_context, keys, round_.policy, saved, update, Dice(dice))
        words = client.handle(request).words
        assert words is not None
        sent.append(words)
    assert sent[0].tobytes() == sent[1].tobytes()
    apart = np.count_nonzero(sent[0][:-8] != sent[2][:-8])
    assert apart > sent[0][:-8].size / 2  # a value rounds up or down: a word of five or more rarely stays the same


def test_neither_of_a_sites_two_secrets_alone_uncovers_its_vector() -> None:
    """A vector carries a self mask and pair masks; whoever takes one kind off still sees random words."""
    round_ = federation(5, 400)
    own, _ = dealt_by(round_.until("mask"), VICTIM)
    context, words = round_.context, round_.archive.get(VICTIM)
    others = [(each.site, each.mask_key) for each in own.adverts if each.site != VICTIM]
    vector = next(each for each in SurvivorSet.decode(round_.server.requests()[VICTIM].head).vectors)
    seed = self_seed(context, vector.share_set, VICTIM, own.seed)
    pairs = neighbour_seeds(context, vector.share_set, own.mask_secret, VICTIM, others)
    for plus, minus in (((), (seed,)), (pairs.minus, pairs.plus)):
        left = words.copy()
        unmask(left, plus, minus)
        assert_masked(left)
    left = words.copy()
    unmask(left, pairs.minus, (seed, *pairs.plus))
    assert left[-8] == 1  # one site: with both kinds off, it is the site's own tally
    assert not (left[:-8] >> np.uint64(60)).any()  # and five lanes of 12 bits


def assert_masked(words: np.ndarray) -> None:
    """The four bits above the lanes are random in every word, and so are the words of the tally."""
    above = (words[:-8] >> np.uint64(60)).astype(int)
    assert abs(float(above.mean()) - 7.5) < 5 * 4.61 / above.size**0.5  # five standard deviations of a mean
    assert (words[-8:] > 2**48).all()  # by chance one in 2^13 is not: the dice are the same in every run


def test_a_self_mask_and_a_box_key_are_bound_to_the_attempt() -> None:
    context, h2, secret = federation(5).context, Dice("h2")(32), Dice("secret")(32)
    again = replace(context, header=replace(context.header, attempt=2))
    assert self_seed(context, h2, VICTIM, secret) != self_seed(again, h2, VICTIM, secret)
    assert box_key(context, secret, "site-01", "site-02") != box_key(again, secret, "site-01", "site-02")


def test_a_box_is_bound_to_header_key_roster_sender_and_receiver() -> None:
    """By its associated data alone, whatever its key is bound to."""
    context, h1 = federation(5).context, Dice("h1")(32)
    again = replace(context, header=replace(context.header, attempt=2))
    bound = [
        box_aad(context, h1, "site-01", "site-02"), box_aad(again, h1, "site-01", "site-02"),
        box_aad(context, flipped(h1), "site-01", "site-02"), box_aad(context, h1, "site-03", "site-02"),
        box_aad(context, h1, "site-01", "site-03"), box_aad(context, h1, "site-02", "site-01"),
    ]  # fmt: skip
    assert len(set(bound)) == len(bound)


def test_every_digest_of_a_round_is_bound_to_attempt_kind_and_content() -> None:
    context = federation(5).context
    again = replace(context.header, attempt=2).digest()
    words = np.arange(10, dtype=np.uint64)
    one = MaskedVector(VICTIM, bytes(32), bytes(32), bytes(64))
    lists = (key_roster_digest, share_set_digest, survivor_set_digest)
    sums = (masked_words_digest, sum_words_digest)
    found = [digest(header, [each]) for digest in lists for header in (context.digest, again)  # type: ignore[operator]
             for each in (one, replace(one, words=Dice("w")(32)))]  # fmt: skip
    found += [digest(header, each) for digest in sums for header in (context.digest, again)
              for each in (words, words[::-1])]  # fmt: skip
    found += [seed_commitment(header, seed) for header in (context.digest, again) for seed in (bytes(32), b"b" * 32)]
    assert len(set(found)) == len(found) == 12 + 8 + 4
