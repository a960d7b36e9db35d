"""What ckks-shared mode claims, and what is lost where it claims nothing (spec §3.2)."""

from __future__ import annotations

import base64
import gc
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks_shared import frames
from secagg.ckks_shared.keys import SharedKeys, accept, deal, new_shared_key
from secagg.ckks_shared.messages import SharedOpening
from secagg.ckks_shared.params import MOST_NOISE, PRIME, SCALE_BITS
from secagg.ckks_shared.payload import Decrypted, packing_of
from secagg.errors import FaultyServer, Malformed, Sealed
from secagg.masked.payload import quantizer_of
from secagg.session import Words
from secagg.tally import Tally
from tests.ckks_shared.made import NAME, residues_of, shared_round, signed, with_sum, words_of
from tests.contract.test_sums import exact
from tests.sim import Consortium, Dice, Round, some_shared_key


def held_by(*things: object) -> bytes:
    """Every byte string, text and array that can be reached from these, modules and classes apart."""
    seen, left, found = set[int](), list(things), []
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ in ("module", "function"):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytes):
            found.append(thing)
        elif isinstance(thing, str):
            found.append(thing.encode())
        elif isinstance(thing, np.ndarray):
            found.append(thing.tobytes())
        else:
            left += gc.get_referents(thing)
    return b"|".join(found)


def test_the_server_holds_no_key_and_what_it_holds_opens_to_nobody_without_one() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    secret, held = some_shared_key().secret, held_by(round_.server, round_.archive, aggregate)
    assert len(held) > 5 * 8 * words_of(round_)
    assert secret[1000:1032] in held_by(round_.clients["site-01"])  # so a key that is held is found
    assert all(secret[at : at + 32] not in held for at in range(0, len(secret) - 32, 331))
    with pytest.raises(Sealed):
        round_.scheme.open(round_.site_context, aggregate.payload)
    other = new_shared_key()
    with pytest.raises(Malformed, match="another shared key"):
        round_.scheme.open(round_.site_context, aggregate.payload, SharedOpening((), other.secret).encode())
    packing, words = packing_of(round_.context.manifest), aggregate.payload.words
    assert words is not None
    for taken, survivors in ((words, 5), (round_.archive.get("site-01"), 1)):
        with pytest.raises(FaultyServer, match="does not decrypt to integers"):
            Decrypted(packing, other.secret, taken, survivors)


def test_a_sum_that_the_server_made_up_is_taken_for_the_true_one() -> None:
    """It counts one site twice and leaves another out."""
    round_ = exact(NAME, 5)
    aggregate = round_.run()
    sent = {site: round_.archive.get(site) for site in round_.consortium.names}
    words = np.zeros(words_of(round_), np.uint64)
    for site in ("site-01", "site-01", "site-03", "site-04", "site-05"):
        frames.add(words, sent[site])
    mean = round_.mean(with_sum(round_, aggregate, words))
    assert mean.contributors == round_.consortium.names
    assert mean.values.tobytes() != round_.mean(aggregate).values.tobytes()


_LARGEST = """
import base64, json, sys, tenseal as ts
secret, = (base64.b64decode(each) for each in json.loads(sys.stdin.read()))
context = ts.context_from(secret, n_threads=1)
whole = ts.ckks_vector(context, [0.0] * 2048).serialize()
start = len(whole) - 9 - 65536
one = bytes(32768) + (2 ** 30).to_bytes(8, "little") * 4096  # c0 = 0, c1 = 2^30: decrypts to 2^30 s
print(max(map(abs, ts.ckks_vector_from(context, whole[:start] + one + whole[-9:]).decrypt())) / 2 ** 30)
"""


def test_which_false_sums_a_site_refuses_tells_the_server_of_the_key() -> None:
    """With t added to c1, every slot of the sum moves by t times the secret's: how far it goes is a fact about it."""
    round_ = shared_round(3)
    aggregate = round_.run()
    true = aggregate.payload.words
    assert true is not None

    def takes(t: int) -> bool:
        residues = frames.unpack(true)
        residues[:, 4096:] = (residues[:, 4096:] + np.uint64(t)) % np.uint64(PRIME)
        try:
            round_.mean(with_sum(round_, aggregate, frames.pack(residues)))
        except FaultyServer:
            return False
        return True

    low, high = 0, 1 << 13
    assert takes(low)
    assert not takes(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    given = json.dumps([base64.b64encode(some_shared_key().secret).decode()])
    done = subprocess.run(
        [sys.executable, "-c", _LARGEST], input=given, capture_output=True, text=True, check=True, timeout=120
    )
    of_secret = MOST_NOISE / float(done.stdout)  # Delta is in both
    assert low == pytest.approx(of_secret, rel=0.05)  # the sum's own noise moves it by a few per cent
    assert of_secret < 1 << SCALE_BITS


def alone(round_: Round, words: Words, secret: bytes) -> tuple[np.ndarray, Tally]:
    """One site's update and tally, read from its ciphertexts."""
    manifest = round_.context.manifest
    decrypted = Decrypted(packing_of(manifest), secret, words, 1)
    tally = Tally.from_sum(decrypted.tally, 1, manifest.size, manifest.quantizer.weight_cap)
    return quantizer_of(round_.context).open_sums(decrypted.sums(), tally.weight).values, tally


def test_whoever_has_the_key_reads_every_sites_update_from_its_ciphertexts() -> None:
    round_ = exact(NAME, 5, cap=5)
    round_.run()
    secret = round_.consortium.keys["site-02"].shared[0].secret
    for site in round_.consortium.names:
        values, tally = alone(round_, round_.archive.get(site), secret)
        assert values.tobytes() == round_.updates[site].values.tobytes()
        assert (tally.weight, tally.examples) == (round_.updates[site].weight, 3)


def test_a_sites_ciphertext_that_is_none_makes_the_sum_unreadable_to_everyone_alike() -> None:
    round_ = shared_round()
    garbage = frames.pack(residues_of(1, words_of(round_) // frames.CIPHERTEXT_WORDS))
    round_.alter_reply = lambda _, site, packet: signed(round_, site, garbage) if site == "site-03" else packet
    aggregate = round_.run()
    assert round_.server.faults == {}
    for site in round_.consortium.names:
        with pytest.raises(FaultyServer, match=r"integers|every survivor once"):
            round_.scheme.open(
                round_.site_context, aggregate.payload,
                round_.scheme.opening(round_.site_context, round_.consortium.keys[site], None),
            )  # fmt: skip


def test_an_identity_key_opens_what_was_dealt_to_its_site_and_so_every_round() -> None:
    round_ = exact(NAME, 5)
    round_.run()
    consortium: Consortium = round_.consortium
    dealt = deal(consortium.keys["site-01"], consortium.roster, consortium.keys["site-01"].shared[0])
    stolen = replace(consortium.keys["site-04"], shared=())  # the identity key alone
    key = accept(SharedKeys.decode(dealt.encode()), stolen, consortium.roster)
    values, _ = alone(round_, round_.archive.get("site-02"), key.secret)
    assert values.tobytes() == round_.updates["site-02"].values.tobytes()


def test_a_second_attempt_with_the_same_update_shows_nothing_but_fresh_residues() -> None:
    """That is why a site may answer one: no residue is the same, and no difference of two is small."""
    first = exact(NAME, 5)
    first.run()
    context = first.consortium.context(first.context.manifest, attempt=2)
    second = Round(first.consortium, context, first.updates, seed=Dice("other"))
    second.run()
    one, other = (frames.unpack(each.archive.get("site-01"))[0].astype(object) for each in (first, second))
    differences = (one - other) % PRIME
    assert (np.minimum(differences, PRIME - differences) >> 20).all()  # errors are below 2^6; by chance once in 2^26
