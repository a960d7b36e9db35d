"""What a site may try with its ciphertext: one that is none is refused alone, one that is another's spoils the sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks import frames
from secagg.ckks.payload import KeyAndCiphertext
from secagg.errors import FaultyServer, FaultySite, Malformed, Misuse, SecAggError
from secagg.session import Packet, Words
from tests.ckks.sessions import ckks, payload_of, signed_vector
from tests.contract.test_sums import assert_exact, exact
from tests.sim import Round

LIAR = "site-03"
OTHER = "site-01"
SIZE = 41  # seven sites: 90 bytes of residues and 6 of padding


def sending(round_: Round, change: Callable[[Words], Words]) -> Round:
    """The liar's vector is changed, under its own signature."""

    def lie(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) != ("mask", LIAR):
            return packet
        assert packet.words is not None
        return signed_vector(round_, site, packet, change(packet.words.copy()))

    round_.alter_reply = lie
    return round_


# ------------------------------------------------------------------ what no site can have made


def byte(at: int, value: int) -> Callable[[Words], Words]:
    def change(words: Words) -> Words:
        words.view(np.uint8)[at] = value
        return words

    return change


def residue(number: int, excess: int) -> Callable[[Words], Words]:
    """This residue becomes its prime, and so many more."""

    def change(words: Words) -> Words:
        payload = KeyAndCiphertext(exact("ckks", 7, SIZE).site_context)
        params = payload.params
        prime = params.primes[number % params.residues // params.coefficients(0)]
        start = 8 * payload.words + 3 * (number % params.residues)
        words.view(np.uint8)[start : start + 3] = np.frombuffer((prime + excess).to_bytes(3, "little"), np.uint8)
        return words

    return change


IMPOSSIBLE: dict[str, tuple[Callable[[Words], Words], type[SecAggError], str]] = {
    "its first residue is the prime": (residue(0, 0), Malformed, "a residue is not below its prime"),
    "its last residue is the prime": (residue(-1, 0), Malformed, "a residue is not below its prime"),
    "a residue is above the prime": (residue(12, 5), Malformed, "a residue is not below its prime"),
    "its padding is not zero": (byte(-1, 1), Malformed, "a byte behind the last residue is not zero"),
    "its padding begins with a bit": (byte(-6, 128), Malformed, "a byte behind the last residue is not zero"),
    "a word is missing": (lambda words: words[:-1], Misuse, "words"),
    "a word is left over": (lambda words: np.append(words, np.zeros(1, np.uint64)), Misuse, "words"),
    "the whole ciphertext is missing": (lambda words: words[:-12], Misuse, "words"),
}


@pytest.mark.parametrize("lie", IMPOSSIBLE)
def test_a_ciphertext_that_no_site_can_have_made_is_refused_and_the_others_sum_is_exact(lie: str) -> None:
    """Though its masked words are right and its signature too: nothing of the vector enters the sum."""
    change, error, rule = IMPOSSIBLE[lie]
    round_ = sending(exact("ckks", 7, SIZE), change)
    round_.run()
    assert set(round_.server.faults) == {LIAR}
    fault = round_.server.faults[LIAR]
    assert type(fault) is error
    assert rule in str(fault)
    assert_exact(round_)
    assert LIAR not in round_.server.result().contributors


def test_every_byte_of_the_padding_counts() -> None:
    payload = payload_of(exact("ckks", 7, SIZE))
    assert 8 * payload.tail_words - 3 * payload.params.residues == 6


# ------------------------------------------------------------------ what a site can have made, but did not


def residues_of(payload: KeyAndCiphertext, words: Words) -> list[np.ndarray]:
    return list(frames.read(payload.params, words[payload.words :]))


def negated(payload: KeyAndCiphertext, words: Words) -> Words:
    moduli = np.array(payload.params.primes, np.uint32)[:, None]
    return frames.write(payload.params, [(moduli - each) % moduli for each in residues_of(payload, words)])


def earlier_vector() -> Words:
    """What the liar sent in the attempt before, with the same update."""
    first = ckks(7, SIZE)
    first.until("consent")
    return first.archive.get(LIAR)


TAKEN = (
    "copies another's ciphertext",
    "negates another's ciphertext",
    "replays its own of another attempt",
    "swaps two",
)


@pytest.mark.parametrize("what", TAKEN)
def test_a_ciphertext_that_is_not_its_sites_own_makes_the_sum_unreadable_to_everyone_alike(what: str) -> None:
    """The server takes it, for it cannot tell; every site refuses the sum and blames the server (spec §3.4).

    The copier gets nothing from it: what it copied is under the other's self-mask and the other's key, and its own key
    does not fit.
    """
    context = ckks(7, SIZE).context
    again = ckks(7, SIZE).consortium.context(context.manifest, attempt=2)
    round_ = ckks(7, SIZE, context=again)
    payload, earlier = payload_of(round_), earlier_vector()

    def change(words: Words) -> Words:
        theirs = round_.archive.get(OTHER)
        tail = {
            "copies another's ciphertext": theirs[payload.words :],
            "negates another's ciphertext": negated(payload, theirs),
            "replays its own of another attempt": earlier[payload.words :],
            "swaps two": _swapped(payload, words),
        }[what]
        return np.concatenate((words[: payload.words], tail))

    done = sending(round_, change).run()
    assert round_.server.faults == {}
    assert LIAR in done.contributors
    codes = set()
    for site in round_.consortium.names:
        before = round_.clients[site].to_bytes()
        with pytest.raises(FaultyServer) as caught:
            round_.mean(done, site)
        codes.add(str(caught.value))
        assert round_.clients[site].to_bytes() == before
    assert len(codes) == 1
    assert "ciphertext" in codes.pop()


def _swapped(payload: KeyAndCiphertext, words: Words) -> Words:
    (block,) = residues_of(payload, words)
    return frames.write(payload.params, [block[:, ::-1].copy()])


def test_a_copied_vector_is_signed_by_the_copier_over_its_own_masks_and_gives_no_sum() -> None:
    """Both parts of another's vector: the masks do not cancel, the zero words show it."""
    round_ = ckks(7, SIZE)
    done = sending(round_, lambda _: round_.archive.get(OTHER)).run()
    assert round_.server.faults == {}
    for site in round_.consortium.names:
        with pytest.raises(FaultyServer, match="zero at every site"):
            round_.mean(done, site)


def test_another_sites_whole_reply_is_refused_at_once() -> None:
    kept: list[Packet] = []

    def lie(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) == ("mask", OTHER):
            kept.append(packet)
        return kept[0] if (phase, site) == ("mask", LIAR) else packet

    round_ = exact("ckks", 7, SIZE, alter_reply=lie)
    round_.run()
    assert type(round_.server.faults[LIAR]) is FaultySite
    assert_exact(round_)


def test_a_site_that_takes_an_audit_of_a_spoilt_sum_finds_every_vector_as_it_was_signed() -> None:
    """No audit of vectors can name the copier: it signed what it sent. What names it is who copied whom, by digest."""
    round_ = ckks(7, SIZE)
    done = sending(round_, lambda words: np.concatenate((words[:-12], round_.archive.get(OTHER)[-12:]))).run()
    round_.scheme.audit(round_.site_context, done.payload, round_.archive)
    assert np.array_equal(round_.archive.get(LIAR)[-12:], round_.archive.get(OTHER)[-12:])
    with pytest.raises(FaultyServer):
        round_.mean(done)


def test_a_rushing_site_that_wants_a_difference_opened_cannot_have_its_masks_cancel() -> None:
    """Masked words of its own that are minus another's: the pair masks that belong to it stay in the sum."""
    round_ = ckks(7, SIZE)
    payload = payload_of(round_)

    def change(words: Words) -> Words:
        theirs = round_.archive.get(OTHER)
        minus = np.zeros(payload.words, np.uint64) - theirs[: payload.words]
        return np.concatenate((minus, negated(payload, theirs)))

    done = replace(sending(round_, change).run())
    for site in (LIAR, OTHER, "site-07"):
        with pytest.raises(FaultyServer):
            round_.mean(done, site)
