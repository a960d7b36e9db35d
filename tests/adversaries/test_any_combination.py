"""Does any combination of these attacks break what each alone does not?

A random adversary: five to seven sites, colluders and copied sites up to c together, one to three attempts at a round
whose phases it interleaves. In each attempt it tells up to two stories, which differ in who advertised, dealt and sent
vectors and in the colluders' adverts; in between it tampers with messages, leaves things out, and sends old requests
again. A seed fixes every choice. For each seed, with no exception:

- of no honest site does it hold both secrets of an attempt;
- at most one sum of honest updates is open to it, over at least m - c of them, each once, all in one attempt;
- every site to which it then gives an aggregate, true or false, takes the true one or refuses; one with a false sum is
  taken only if a colluder among the survivors signed for it;
- its whole view is the same, byte for byte, on other inputs with the same sum (`worlds.py`); where it takes a site's
  blind seeds to read the sum and the adversary has none, with any sum. In some games it steals them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest

from secagg.ckks.messages import BlindBundle, BlindRoster
from secagg.masked.messages import KeyRoster, ShareBundle, SurvivorProof, SurvivorSet
from secagg.session import Packet, Words
from secagg.thresholds import plan
from secagg.wire import Struct
from tests.adversaries.ending import Ending
from tests.adversaries.forms import FORMS
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.masked.stage import flipped
from tests.sim import Dice

pytestmark = pytest.mark.usefixtures("scheme")

PHASES = ("advertise", "share", "mask", "consent", "unmask")
T = TypeVar("T")


class Choices:
    """The adversary's choices: a fixed sequence for a seed, so that both worlds meet the same adversary."""

    def __init__(self, seed: int) -> None:
        self._dice = Dice(("choices", seed))

    def below(self, count: int) -> int:
        """0 to count - 1."""
        return int.from_bytes(self._dice(8), "little") % count

    def one_in(self, count: int) -> bool:
        """True with this chance."""
        return self.below(count) == 0

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def without_some(self, items: Sequence[T]) -> tuple[T, ...]:
        """All but one or two of the items."""
        gone = {self.below(len(items)) for _ in range(1 + self.below(2))}
        return tuple(each for i, each in enumerate(items) if i not in gone)


def adversary(lab: Lab, seed: int, copies: int) -> int:
    """Plays until every attempt has been taken through its phases, or is given up. How many sites took a sum."""
    choose = Choices(seed)
    games = [Game(lab, lab.attempt(number + 1), choose) for number in range(1 + choose.below(3))]
    while any(game.left for game in games):
        running = [each for each in games if each.left]
        game = running[0] if choose.below(3) else choose.one(running)
        game.step()
        if copies and choose.one_in(4):
            copies -= 1
            game.copy(choose.one(lab.honest))
        if lab.view.heard and choose.one_in(3):
            old = choose.one(lab.view.heard)
            game.attempt.ask(old.machine, Packet(old.request))
    if lab.form.blind and choose.below(2):
        lab.steal_openings(choose.one([name for name in sorted(lab.machines) if lab.machines[name].saved]))
    for game in games:
        game.end()
    return sum(game.taken for game in games)


class Game:
    """One attempt as the adversary plays it: its stories, and who is told which."""

    def __init__(self, lab: Lab, attempt: Attempt, choose: Choices) -> None:
        self.lab, self.attempt, self.choose = lab, attempt, choose
        self.left = list(PHASES[: 3 + choose.below(3)] if choose.one_in(3) else PHASES)
        self.stories = [self.story(0), self.story(1)]
        minority = choose.below(3) if choose.below(2) else 0  # how many are told the second story
        second = {choose.one(lab.honest) for _ in range(minority)}
        self.told = {name: int(name in second) for name in lab.honest}
        self.taken = 0  # true sums that sites believed
        self.apart = choose.one(PHASES)  # before this phase all are told the first story

    def story(self, variant: int) -> Story:
        """Mostly everybody; sometimes some are missing from one of the lists on."""
        u1 = self.choose.without_some(self.lab.names) if self.choose.one_in(6) else self.lab.names
        u2 = self.choose.without_some(u1) if self.choose.one_in(6) else u1
        u3 = self.choose.without_some(u2) if self.choose.one_in(2) else u2
        return Story(u1, u2, u3, variant if self.choose.one_in(4) else 0)

    def copy(self, site: str) -> None:
        """A second machine of a site, which is told the other story."""
        if f"{site}'" not in self.lab.machines:
            self.told[self.lab.clone(site)] = 1 - self.told[site]

    def step(self) -> None:
        """The next phase, to every machine that is not left out."""
        phase = self.left.pop(0)
        for machine in [each for each in sorted(self.told) if not self.choose.one_in(40)]:
            apart = PHASES.index(phase) >= PHASES.index(self.apart)
            story = self.stories[self.told[machine] if apart else 0]
            message = self.message(phase, self.as_told_to(machine, story), machine)
            if message is not None:
                self.attempt.ask(machine, self.tampered(machine, message) if self.choose.one_in(40) else message)

    def as_told_to(self, machine: str, story: Story) -> Story:
        """A copy is told of itself, not of the machine it is a copy of."""
        site = machine.rstrip("'")
        lists = (tuple(machine if each == site else each for each in u) for u in (story.u1, story.u2, story.u3))
        return Story(*lists, story.variant)

    def end(self) -> None:
        """If the attempt is open: asks for projections on true and false records, and ends the round for each site."""
        ending = self.ending()
        if ending is None:
            return
        false = ending.sum + self.lie(ending.sum.size)
        records = ending.record, ending.record_of(false)
        for machine in sorted(self.told):
            self.attempt.check(records[self.choose.below(2)], machine)
        signed = list({each.site: each for each in self.attempt.projections.values()}.values())
        helpers = [each for each in ending.survivors if each in self.lab.view.colluders]
        for machine in sorted(self.told):
            record, words = (records[0], ending.sum) if self.choose.below(2) else (records[1], false)
            given = [each for each in signed if each.record == record.transcript()]
            packet = ending.packet(record, words, given[: self.choose.below(len(given) + 1)])
            if helpers and self.choose.one_in(3):
                took = self.attempt.finish(machine, ending.with_a_colluder(false, helpers[0]))
                continue  # it may take it: so much a colluder can do
            took = self.attempt.finish(machine, packet)
            assert not took or words is ending.sum, "a false sum was believed"
            self.taken += took

    def ending(self) -> Ending | None:
        """What can be published of the attempt, if it is open under a story that somebody was told."""
        for machine in sorted(self.told):
            story = self.as_told_to(machine, self.stories[self.told[machine]])
            proof = self.attempt.proof(story) if self.attempt.survivors(story) else None
            if proof is not None and len(proof.signatures) >= self.lab.manifest.quorum:
                with suppress(KeyError):
                    return Ending(self.attempt, story)
        return None

    def lie(self, count: int) -> Words:
        """What is added to a sum: something in one word, or in each."""
        shift = np.zeros(count, np.uint64)
        shift[self.choose.below(count)] = 1 << self.choose.below(64)
        return shift if self.choose.below(2) else shift + np.uint64(1)

    def message(self, phase: str, story: Story, machine: str) -> Struct | None:
        """What the story says in this phase, as far as there is anything to say."""
        attempt = self.attempt
        make: dict[str, Callable[[], Struct | None]] = {
            "advertise": attempt.opening,
            "share": lambda: KeyRoster(attempt.roster(story)) if attempt.roster(story) else None,
            "mask": lambda: attempt.bundle(story, attempt.site(machine)) if attempt.statements(story) else None,
            "consent": lambda: SurvivorSet(attempt.survivors(story)) if attempt.survivors(story) else None,
            "unmask": lambda: attempt.proof(story) if attempt.survivors(story) else None,
        }
        return make[phase]()

    def tampered(self, machine: str, message: Struct) -> Struct:
        """The message with an entry left out, or a bit of one changed; in what the scheme has around it, too."""
        whole = self.attempt.whole(machine, message)
        if whole != message and self.choose.below(2):
            message = whole
        name = {
            KeyRoster: "adverts", ShareBundle: "boxes", SurvivorSet: "vectors", SurvivorProof: "signatures",
            BlindRoster: "adverts", BlindBundle: "boxes",
        }.get(type(message))  # fmt: skip
        items = getattr(message, name) if name else ()
        if name is None or len(items) < 2:
            return message
        at = self.choose.below(len(items))
        if self.choose.below(2):
            return replace(message, **{name: items[:at] + items[at + 1 :]})
        part = "ciphertext" if name == "boxes" else "signature"
        value = getattr(items[at], part)
        bad = replace(items[at], **{part: flipped(value, self.choose.below(64) % len(value))})
        return replace(message, **{name: (*items[:at], bad, *items[at + 1 :])})


def play(n: int, seed: int) -> tuple[int, int, int]:
    """One game, with every claim above asserted. Sums that were open, requests refused, sums taken by sites."""
    numbers, choose = plan(n), Choices(-seed - 1)
    helpers = choose.below(numbers.colluders + 1)
    copies = numbers.colluders - helpers
    colluding = tuple(f"site-{n - i:02d}" for i in range(helpers))
    seen: list[tuple[int, int]] = []

    def attack(lab: Lab) -> None:
        taken = adversary(lab, seed, copies)
        seen.append((sum(bool(each.refusal) for each in lab.view.heard), taken))

    known = views_are_identical(attack, n=n, colluding=colluding, size=4, seed=seed)
    assert not known.both()
    sums = [terms for terms in known.sums if len({known.vectors[i].site for i in terms}) > 1]
    assert len(sums) <= 1
    for terms in sums:
        vectors = [known.vectors[i] for i in terms]
        assert set(terms.values()) == {1}
        assert len({each.context.digest for each in vectors}) == 1
        assert len({each.site for each in vectors}) == len(vectors) >= numbers.least_survivors - numbers.colluders
    return (len(sums), *seen[0])


@pytest.mark.parametrize("n", [5, 6, 7])
def test_no_combination_of_lies_gives_more_than_one_sum(n: int, scheme: str) -> None:
    """Forty games each, or fifteen. In a good part of them a sum is opened, and in all sites refuse something."""
    count = 15 if FORMS[scheme].blind else 40
    games = [play(n, seed) for seed in range(count)]
    opened, refused, taken = (sum(each) for each in zip(*games, strict=True))
    assert count <= 5 * opened < 5 * count
    assert refused > 5 * count
    assert 8 * taken >= count


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
def test_no_combination_of_lies_gives_more_than_one_sum_in_many_more_games(n: int) -> None:
    for seed in range(1000, 1060):
        play(n, seed)
