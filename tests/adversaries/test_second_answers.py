"""Can a server get two answers of one stage from one site: after a restart, from a backup, from a cloned machine?

Restarts and backups: no. A snapshot of a whole machine brings the log back together with its inode, and then the site
cannot know (spec §18.2). These tests say what that costs: a site of which two copies run counts as a colluder, no
more. As long as copied sites and colluders together are at most c, everybody's update is as safe as before, the copied
site's too, but for one thing: copies made between its shares and its vector (stage "shared") that answer with the same
share set are masked alike, and their difference shows how each rounded: where its update lies between two levels of
the quantiser, never at which level.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedclient.settings import LocalError
from secagg.errors import FaultyServer, Refused, SecAggError
from secagg.lanes import unpack
from secagg.masked.messages import SurvivorSet
from secagg.session import Metrics, Packet, Update
from tests.adversaries.knowledge import what_it_can_compute
from tests.adversaries.lab import Lab, Story
from tests.adversaries.parties import words_of_update
from tests.adversaries.worlds import views_are_identical
from tests.federation.direct import Bench, Where
from tests.masked.stage import without
from tests.sim import Dice

pytestmark = pytest.mark.usefixtures("scheme")

ME = "site-02"
COLLUDING = ("site-07",)  # one of the two that are declared: there is room for one cloned site
WHOLE = Story.of(*(f"site-{i:02d}" for i in range(1, 8)))
STAGES = ("advertise", "share", "mask", "consent", "unmask")
ASKED = (*STAGES, "check")


# ---------------------------------------------------------------------- real sites with disks


def asked_again(bench: Bench, phase: str, between, other=lambda packets: packets) -> list[object]:  # type: ignore[no-untyped-def]
    """What the site gives when a phase is asked, something happens to it, and the phase is asked once more."""
    seen: list[object] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == ME and where.asks(phase) and not seen:
            seen.append(packet)
            between()
            try:
                seen.append(bench.link.members[ME].handle(where.kind, other(asked[phase])))
            except (SecAggError, LocalError) as error:
                seen.append(error)
        return packet

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == ME and where.kind == "answer" and where.round == 1:
            asked[where.phase] = packets
        return packets

    asked: dict[str, Sequence[Packet]] = {}
    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.run(rounds=1)
    assert len(seen) == 2
    return seen


@pytest.mark.parametrize("phase", ASKED)
def test_a_restarted_site_gives_no_second_answer_at_any_stage(bench: Bench, phase: str) -> None:
    _, second = asked_again(bench, phase, lambda: bench.restart(ME))
    assert isinstance(second, FaultyServer)
    bench.link.alter_request = bench.link.alter_reply = lambda where, packet: packet
    assert {code for _, code in bench.codes(ME)} <= {"faulty-server"}


@pytest.mark.parametrize("story", ["the same", "without another site"])
def test_a_restarted_site_does_not_sign_another_survivor_set(bench: Bench, story: str) -> None:
    def other(packets: Sequence[Packet]) -> Sequence[Packet]:
        vectors = SurvivorSet.decode(packets[1].head).vectors
        told = vectors if story == "the same" else without(vectors, "site-05")
        return [packets[0], Packet(SurvivorSet(told).encode())]

    _, second = asked_again(bench, "consent", lambda: bench.restart(ME), other)
    assert isinstance(second, FaultyServer)


class Backup:
    """A copy of a site's home at some moment, put back by copying, or into the very same files as a snapshot does."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.files = bench, bench.state(ME)

    def restore(self) -> None:
        """As a backup is restored: new files with the old content."""
        home = self.bench.folder / ME
        shutil.rmtree(home)
        self._write(home)
        self.bench.restart(ME)

    def roll_back(self) -> None:
        """As a snapshot of the machine is restored: old content under the old inodes."""
        home = self.bench.folder / ME
        for path in sorted(home.rglob("*")):
            if path.is_file() and str(path.relative_to(home)) not in self.files:
                path.unlink()
        self._write(home)
        self.bench.restart(ME)

    def put_state_back(self) -> None:
        """All but the log as it was, under the old inodes."""
        log = {name: content for name, content in self.bench.state(ME).items() if name.endswith("answers.log")}
        self.files = {**self.files, **log}
        self.roll_back()

    def _write(self, home: Path) -> None:
        for name, content in self.files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            with (home / name).open("r+b" if (home / name).exists() else "w+b") as file:
                file.truncate()
                file.write(content)


def put_back(made: dict[str, Backup], how: Callable[[Backup], None]) -> Callable[[], None]:
    """Restores the backup that will have been made by then."""
    return lambda: how(made["first"])


def backed_up_before(bench: Bench, phase: str) -> dict[str, Backup]:
    """A backup that is made when the phase is first asked."""
    made: dict[str, Backup] = {}
    inner = bench.site

    def look(name: str):  # type: ignore[no-untyped-def]
        site = inner(name)
        handle = site.handle

        def handled(kind: str, packets: Sequence[Packet]) -> Packet:
            where = Where.of(kind, name, packets)
            if name == ME and where.asks(phase) and not made:
                made["first"] = Backup(bench)
            return handle(kind, packets)

        site.handle = handled  # type: ignore[method-assign]
        return site

    bench.link.members[ME] = look(ME)
    return made


@pytest.mark.parametrize("phase", ASKED)
def test_a_site_restored_from_a_backup_gives_no_second_answer_at_any_stage(bench: Bench, phase: str) -> None:
    """The log is not the file that was begun: the site refuses for good, and says so to its operator."""
    made = backed_up_before(bench, phase)
    _, second = asked_again(bench, phase, put_back(made, Backup.restore))
    assert isinstance(second, LocalError)
    assert second.code == "storage"
    assert "restored" in second.problem


@pytest.mark.parametrize("phase", ASKED)
def test_a_site_whose_sealed_state_is_put_back_under_a_whole_log_gives_no_second_answer(
    bench: Bench, phase: str
) -> None:
    """The state alone would answer: the log is what remembers."""
    made = backed_up_before(bench, phase)
    _, second = asked_again(bench, phase, put_back(made, Backup.put_state_back))
    assert isinstance(second, Refused)


@pytest.mark.parametrize("phase", ASKED)
def test_a_snapshot_that_brings_the_inode_back_too_is_answered_from_again(bench: Bench, phase: str) -> None:
    """Not defended at the site itself (spec §18.2). What it costs is what the rest of this file is about."""
    made = backed_up_before(bench, phase)
    first, second = asked_again(bench, phase, put_back(made, Backup.roll_back))
    assert isinstance(first, Packet)
    assert isinstance(second, Packet)


# ---------------------------------------------------------------------- cloned machines


def asked_twice(lab: Lab, stage: str) -> None:
    """A clone of one site from before a stage; each copy is told a story of its own from there on, as far as it goes.

    The server's second story leaves out site-01: as advertiser, as dealer or as survivor, by the stage.
    """
    attempt = lab.attempt()
    for phase in STAGES[: STAGES.index(stage)]:
        step(attempt, phase, WHOLE, ())
    copy = lab.clone(ME)
    other = {
        "advertise": WHOLE, "share": Story.of(*(w for w in WHOLE.u1 if w != "site-01")),
        "mask": Story(WHOLE.u1, WHOLE.u2[1:], WHOLE.u3[1:]),
        "consent": WHOLE.but("site-01"), "unmask": WHOLE,
    }[stage]  # fmt: skip
    told = {ME: (ME, "site-01", "site-03", "site-04"), copy: (copy, "site-05", "site-06")}
    stories = {ME: WHOLE, copy: swapped_in(other, copy)}
    for phase in STAGES[STAGES.index(stage) :]:
        for which, group in told.items():
            step(attempt, phase, stories[which], group)


def swapped_in(story: Story, copy: str) -> Story:
    """The story with the copy in the place of the site."""
    lists = ((copy if w == ME else w for w in each) for each in (story.u1, story.u2, story.u3))
    return Story(*map(tuple, lists))


def step(attempt, phase: str, story: Story, group: Sequence[str]) -> None:  # type: ignore[no-untyped-def]
    if phase == "advertise":
        attempt.advertise(*(group or attempt.lab.honest))
    else:
        getattr(attempt, phase)(story, *(group or attempt.lab.honest))


@pytest.mark.parametrize("stage", STAGES)
def test_two_copies_of_one_site_and_a_colluder_get_the_server_one_sum_and_no_sites_two_secrets(stage: str) -> None:
    known = views_are_identical(lambda lab: asked_twice(lab, stage), n=7, colluding=COLLUDING)
    assert not known.both()
    assert len(known.open_to()) <= 1
    assert all(len(sum_) >= 4 for sum_ in known.open_to())  # the fewest survivors less the colluder


def test_a_copied_site_signs_two_survivor_sets_but_only_one_of_them_can_have_a_quorum() -> None:
    lab = Lab(7, COLLUDING)
    attempt = lab.attempt().run(WHOLE, "mask")
    copy = lab.clone(ME)
    other = WHOLE.but("site-01")
    attempt.consent(WHOLE, ME, "site-01", "site-03", "site-04")
    attempt.consent(other, copy, "site-05", "site-06")
    assert attempt.signatures[ME].survivor_set != attempt.signatures[copy].survivor_set
    attempt.unmask(WHOLE, ME, "site-01", "site-03", "site-04")
    proof = attempt.proof(other)
    assert proof is not None
    assert len(proof.signatures) == lab.manifest.quorum - 1
    for name in (copy, "site-05", "site-06"):
        attempt.refuses(name, proof, FaultyServer, "4 signatures are fewer than the quorum 5")


def test_a_copy_that_missed_the_release_does_not_help_to_open_a_second_attempt() -> None:
    """It would mask its update again, but too few others would: those that released shares refuse."""

    def again(lab: Lab) -> None:
        first = lab.attempt(1).run(WHOLE, "consent")
        copy = lab.clone(ME)
        first.unmask(WHOLE, ME, "site-01", "site-03", "site-04")
        second = lab.attempt(2)
        second.advertise(copy, "site-01", "site-03", "site-04", "site-05", "site-06")
        assert set(second.adverts) == {copy, "site-05", "site-06"}
        story = Story.of(*second.adverts, *COLLUDING)
        for phase in STAGES[1:]:
            step(second, phase, story, tuple(second.adverts))

    known = views_are_identical(again, n=7, colluding=COLLUDING)
    assert known.open_to() == [dict.fromkeys(WHOLE.u3[:-1], 1)]


def test_copied_sites_and_colluders_above_c_break_the_secrecy_of_others() -> None:
    """Two copied sites where one colluder is declared: two quorums, and a third site's update is open.

    So a copied site has to be counted among the c.
    """
    lab = Lab(6)
    assert lab.manifest.colluders == 1
    whole = Story.of(*lab.names)
    attempt = lab.attempt().run(whole, "mask")
    copies = [lab.clone(name) for name in ("site-05", "site-06")]
    dropped = whole.but("site-01")
    told = {whole: ("site-01", "site-02", "site-05", "site-06"), dropped: ("site-03", "site-04", *copies)}
    for phase in (attempt.consent, attempt.unmask):
        for story, group in told.items():
            phase(story, *group)
    lab.steal_openings("site-02")
    known = what_it_can_compute(lab.view)
    assert known.both() == {"site-01"}
    assert {"site-01": 1} in known.open_to()


def second_vector(lab: Lab, dropouts: Sequence[str], second_set: Sequence[str]) -> str:
    """A copy masks over a share set of its own, made of those whose keys the first one's round reveals.

    The round opens without the dropouts: their mask keys are rebuilt, and the copied site's seed b, which both copies
    have. What is left on the copy's vector is the masks with the others of its share set. The copy's name.
    """
    whole = Story.of(*lab.names)
    attempt = lab.attempt().run(whole, "share")
    copy = lab.clone(ME)
    attempt.mask(Story(whole.u1, (ME, *second_set), ()), copy)  # the statement is the one both have made
    here = [name for name in lab.honest if name not in dropouts]
    for phase in (attempt.mask, attempt.consent, attempt.unmask):
        phase(whole.but(*dropouts), *here)
    return copy


def test_a_copys_vector_over_a_share_set_of_dropouts_and_colluders_keeps_a_mask() -> None:
    """The set needs m sites, and dropouts, c - 1 colluders and the copy itself are fewer: 2m > n + c."""

    def attack(lab: Lab) -> None:
        second_vector(lab, ("site-05", "site-06"), ("site-03", "site-05", "site-06", *COLLUDING))

    known = views_are_identical(attack, n=7, colluding=COLLUDING)
    (copied,) = [each for each in known.vectors if each.machine == f"{ME}'"]
    assert [mask.sites for mask in copied.unknown] == [(ME, "site-03")]
    assert known.open_to() == [dict.fromkeys(("site-01", ME, "site-03", "site-04"), 1)]


def test_with_all_c_colluders_at_work_a_copied_sites_own_update_is_read() -> None:
    """A finding: one copied site beside c colluders is c + 1, and the copy's second vector is open to the server."""
    lab = Lab(7, ("site-06", "site-07"))
    assert lab.manifest.colluders == 2
    copy = second_vector(lab, ("site-04", "site-05"), ("site-04", "site-05", "site-06", "site-07"))
    known = what_it_can_compute(lab.view)
    assert {copy: 1} in known.open_to()
    (terms,) = [each for each in known.sums if [known.vectors[i].machine for i in each] == [copy]]
    assert known.value(terms).tobytes() == words_of_update(lab.attempt().context, lab.inputs[ME]).tobytes()


# ---------------------------------------------------------------------- copies that are masked alike


def copied_when_shared(lab: Lab, copies: int, same_randomness: bool = False) -> list[np.ndarray]:
    """The vectors of a site and of its copies from stage "shared", all told the same."""
    attempt = lab.attempt().run(WHOLE, "share")
    machines = [ME]
    for number in range(copies):
        machines.append(lab.clone(machines[-1], Dice("same" if same_randomness else ("copy", number))))
    lab.machines[ME].rng, lab.machines[ME].client = Dice("same" if same_randomness else "first"), None
    attempt.mask(WHOLE, *machines)
    return [attempt.words[name] for name in machines]


def test_copies_with_one_state_and_one_randomness_send_one_vector() -> None:
    first, second = copied_when_shared(Lab(7, COLLUDING), 1, same_randomness=True)
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("scheme", ["masked"], indirect=True)
def test_copies_made_at_stage_shared_differ_by_how_they_rounded_and_by_nothing_else() -> None:
    """On the grid, where nothing is rounded, they are equal; off it, by one level at most."""
    lab = Lab(7, COLLUDING)
    first, second = copied_when_shared(lab, 1)
    assert first.tobytes() == second.tobytes()
    known = what_it_can_compute(lab.view)
    assert known.open_to() == [{ME: 1, f"{ME}'": -1}]
    off = off_the_grid(0.25)
    first, second = copied_when_shared(off, 1)
    assert set(np.unique(lanes(off, first - second))) <= {-1, 0, 1}


@pytest.mark.parametrize("scheme", ["masked"], indirect=True)
def test_many_copies_made_at_stage_shared_show_where_between_two_levels_an_update_lies() -> None:
    """A finding: each copy rounds anew under the same mask. With k copies the fraction is known to 1 / (2 sqrt k).

    Five standard deviations of the mean of 64 draws: 5 * 0.5 / 8.
    """
    for fraction in (0.1, 0.5, 0.9):
        lab = off_the_grid(fraction)
        first, *rest = copied_when_shared(lab, 63)
        up = np.array([lanes(lab, each - first) for each in rest])
        assert np.abs((up - up.min(axis=0)).mean(axis=0) - fraction).max() < 5 * 0.5 / 8


def off_the_grid(fraction: float) -> Lab:
    """A lab in which every value of the copied site lies this far above a level."""
    lab = Lab(7, COLLUDING)
    levels = np.array([3, 100, 200, 17, 18, 19, 20, 21, 22, 23, 24, 25]) + fraction
    lab.machines[ME].update = Update(((2 * levels - 255) / 256).astype(np.float32), 1, Metrics(1, 0.0, 0.0, 1))
    return lab


def lanes(lab: Lab, difference: np.ndarray) -> np.ndarray:
    """The signed lanes of a difference of value words: 1024 is added to each so that none borrows."""
    bits, size = lab.manifest.quantizer.lane_bits, lab.size
    count = words_of_update(lab.attempt().context, lab.inputs[ME]).size - 8
    per_word = 64 // bits
    offset = sum(1024 << (bits * lane) for lane in range(per_word))
    words = difference[:count] + np.uint64(offset)
    out = np.empty(count * per_word, np.uint64)
    return unpack(words, bits, out)[:size].astype(np.int64) - 1024
