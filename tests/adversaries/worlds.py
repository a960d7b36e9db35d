"""Two worlds that no adversary can tell apart: the proof of spec B.6, carried out on the bytes of one attack.

`views_are_identical(attack)` shows that an attack teaches nothing but the sums that `what_it_can_compute` names:

1. *Structure.* The attack is run on random inputs (world A). `what_it_can_compute` gives the open sums, and with them
   the masks that the adversary cannot derive: for each of them it lacks the secrets of both ends.
2. *Numbers.* Every honest site gets another input, random but for this: each open sum stays what it was, of words
   and of tallies. Let D_u be the change of u's words. The lab solves for one vector E_s per unknown mask s so that
   each vector's E's, with the signs of its masks, add up to -D_u mod 2^64. A solution exists exactly when every open
   sum of the D is 0.
3. The same attack is run again, on the other inputs and with all randomness as before, except that each unknown mask
   is P(s) + E_s in place of P(s), at both of its ends (world B). **Every byte that the adversary sees is the same**,
   signatures and refusals included, so whatever it does with them it does in both worlds.

Why that is the argument: the P(s) are outputs of a pseudorandom function under keys the adversary does not have, so to
it they are uniform and independent words, and adding a constant to such words changes nothing about how they are
distributed. So each view is exactly as likely on one set of inputs as on the other: the view depends on the open sums
alone. What is assumed is B.6's: agreement on X25519, HKDF and AES-256. What is shown is the rest: that no mask is used
twice, that none is left out, that no secret leaks to where it must not, and that no refusal depends on an update.

In ckks mode (spec B.7) a pad is one more mask, and each vector has a ciphertext: `forms.CkksForm.other_world` shifts it
by the change of its message, through its self-mask where the adversary lacks that, or else as a sample of ring-LWE.
Without the blind seed of one survivor no sum is open: the other inputs then have any sum, and all that differs is what
sites say of where they stand when they have opened it.

The expansion of these seeds is replaced inside honest sites only, by a stream that adds E_s; nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from unittest import mock

import numpy as np

from secagg.chain import Position
from secagg.masked import masks as product_masks
from secagg.primitives.prg import Stream
from secagg.session import Metrics, Update
from secagg.wire import tag_of
from tests.adversaries.knowledge import Knowledge, Mask, Vector, eliminated, seed_of, what_it_can_compute
from tests.adversaries.lab import Heard, Lab
from tests.adversaries.parties import expand, form_of, grid_update, random_input
from tests.sim import Dice

Attack = Callable[[Lab], None]


def views_are_identical(attack: Attack, **options: object) -> Knowledge:
    """Asserts that the attack's view is the same on other inputs with the same open sums. What it can compute."""
    here = Lab(**options)  # type: ignore[arg-type]
    attack(here)
    known = what_it_can_compute(here.view)
    others = other_inputs(here, known)
    there = Lab(**{**options, "inputs": others})  # type: ignore[arg-type]
    sent, inside = [each.sent for each in known.vectors], here.inside()
    tails = here.form.other_world(sent, known.sums, known.secrets, inside, here.inputs, others)
    with programmed(shifts(here, known, others)), tails:
        attack(there)
    one, other = (each.view.heard for each in (here, there))
    if here.form.blind and not any(len(terms) > 1 and set(terms.values()) == {1} for terms in known.sums):
        one, other = ([without_position(each) for each in heard] for heard in (one, other))
    assert other == one, "the adversary can tell two worlds with the same sums apart"
    return known


def without_position(heard: Heard) -> Heard:
    """Without what a site says of the sum once it has opened it: its new adapter's digest and the next range."""
    if heard.context.header.round > 1:
        heard = replace(heard, digest=b"")
    if heard.reply and tag_of(heard.reply) == Position.TAG:
        position = replace(Position.decode(heard.reply), adapter=bytes(32), range_q40=1)
        heard = replace(heard, reply=position.encode())
    return heard


# ---------------------------------------------------------------------- the other world's inputs


def other_inputs(lab: Lab, known: Knowledge) -> dict[str, Update]:
    """Other inputs of all honest sites; within each open sum, the terms change and the sum does not."""
    found = dict(lab.inputs)
    summed: set[str] = set()
    for terms in known.sums:
        sites = [known.vectors[index].site for index in terms]
        if len(set(sites)) == 1 and sum(terms.values()) == 0:
            continue  # two copies of one site, masked alike: on the grid the difference says nothing
        assert set(terms.values()) == {1}
        assert len(sites) > 1
        assert not summed & set(sites), "two open sums share a site"
        found |= _moved({site: lab.inputs[site] for site in sites}, lab.seed)
        summed |= set(sites)
    for site in set(lab.honest) - summed:
        found[site] = random_input((lab.seed, site, "other"), lab.size, lab.cap)
    assert all((found[site].values != lab.inputs[site].values).any() for site in lab.honest)
    return found


def _moved(inputs: Mapping[str, Update], seed: object) -> dict[str, Update]:
    """All inputs passed on to the next site, and then levels moved between sites of equal weight."""
    sites, dice = sorted(inputs), Dice(("moved", seed))
    passed = [inputs[site] for site in (*sites[1:], sites[0])]
    levels = [np.rint((each.values.astype(np.float64) * 256 + 255) / 2) for each in passed]
    for one, other in zip(range(len(sites)), range(1, len(sites)), strict=False):
        if passed[one].weight == passed[other].weight:
            wish = np.frombuffer(dice(levels[one].size), np.uint8) - 128.0
            wish[0] = 0  # the peak stays
            move = np.clip(
                wish, np.maximum(-levels[one], levels[other] - 255), np.minimum(255 - levels[one], levels[other])
            )
            levels[one], levels[other] = levels[one] + move, levels[other] - move
    rest: list[tuple[int, Metrics]] = [(each.weight, each.metrics) for each in passed]
    return {site: grid_update(q, *numbers) for site, q, numbers in zip(sites, levels, rest, strict=True)}


# ---------------------------------------------------------------------- the other world's masks


def shifts(lab: Lab, known: Knowledge, others: Mapping[str, Update]) -> dict[bytes, np.ndarray]:
    """What is added to which stream so that the other inputs give the same masked words."""
    inside = lab.inside()
    change = [_words(each, lab.inputs, inside) - _words(each, others, inside) for each in known.vectors]
    for vector in known.vectors:
        assert_masked_once(vector, inside, lab.inputs)
    pivots, free = eliminated(known.vectors)
    for terms in free:
        assert not _combined(terms, change).any(), "the two worlds have different open sums"
    solved: dict[Mask, np.ndarray] = {}
    for mask, (masks, terms) in reversed(pivots):
        rest = _combined(terms, change)
        for other, sign in masks.items():
            if other != mask and other in solved:
                rest = rest - solved[other] * np.uint64(int(sign) % (1 << 64))
        assert abs(masks[mask]) == 1
        solved[mask] = rest * np.uint64(int(masks[mask]) % (1 << 64))
    known_too = {**known.secrets, **inside}
    seeds = {mask: seed_of(each, mask, known_too) for each in known.vectors for mask in each.masks}
    assert len(set(seeds.values())) == len(seeds), "two masks have one seed"
    return {seed: solved[mask] for mask, seed in seeds.items() if mask in solved and seed is not None}


def _words(vector: Vector, inputs: Mapping[str, Update], inside: Mapping[bytes, bytes]) -> np.ndarray:
    return form_of(vector.context).words(vector.sent, inputs[vector.site], inside)


def _combined(terms: Mapping[int, object], vectors: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(vectors[0])
    for index, times in terms.items():
        total = total + vectors[index] * np.uint64(int(times) % (1 << 64))  # type: ignore[call-overload]
    return total


def assert_masked_once(vector: Vector, inside: Mapping[bytes, bytes], inputs: Mapping[str, Update]) -> None:
    """The residual is the site's words under exactly the unknown masks: the book-keeping missed none."""
    words = vector.residual.copy()
    for mask, sign in vector.unknown.items():
        seed = seed_of(vector, mask, inside)
        assert seed is not None, "a mask of an honest site comes from nobody's secret"
        words -= expand(seed, words.size) * np.uint64(sign % (1 << 64))
    assert words.tobytes() == _words(vector, inputs, inside).tobytes()
    form_of(vector.context).require_tail(vector.sent, inputs[vector.site], inside)


def programmed(added: Mapping[bytes, np.ndarray]) -> mock._patch:  # type: ignore[type-arg]
    """While it lasts, streams under these seeds that are added as masks are shifted; others are as they are."""

    class Shifted(Stream):
        __slots__ = ("_at", "_shift")

        def __init__(self, seed: bytes, start: int = 0) -> None:
            super().__init__(seed, start)
            self._shift, self._at = added.get(seed), start // 8

        def fill(self, out: np.ndarray) -> None:
            super().fill(out)
            if self._shift is not None:
                out += self._shift[self._at : self._at + out.size]
                self._at += out.size

    return mock.patch.object(product_masks, "Stream", Shifted)
