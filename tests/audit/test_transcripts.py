"""A transcript that somebody altered: the audit says which round, which site and what to do, in two lines."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secagg.config import Manifest
from secagg.identity import Roster, sign_roster
from tests.audit.conftest import WORDS, Command, Kept, keep, with_roster_file
from tests.federation.direct import Bench
from tests.sim import Consortium


def flip(path: Path, at: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def exchange(one: Path, other: Path) -> None:
    beside = one.with_name("beside")
    one.rename(beside)
    other.rename(one)
    beside.rename(other)


def note(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_tensor(layout: Path) -> None:
    layout.write_text(layout.read_text().replace("m.lora_A", "l.lora_A"))


def extend_roster(path: Path) -> None:
    """A site's key has another year, which its root did not sign."""
    roster = Roster.decode(path.read_bytes())
    path.write_bytes(replace(roster, expires=roster.expires + 1).encode())


def renew_roster(path: Path) -> None:
    """The root's own roster, of the next epoch."""
    roster = Roster.decode(path.read_bytes())
    path.write_bytes(sign_roster(replace(roster, epoch=2), Consortium(5).root).encode())


def more_rounds(path: Path) -> None:
    """Another manifest, and so another session."""
    manifest = Manifest.decode(path.read_bytes())
    path.write_bytes(replace(manifest, rounds=7).encode())


Spoil = Callable[[Path], object]
VECTORS: dict[str, tuple[Spoil, str]] = {  # what happens to the folder of masked vectors of round 2 -> what is said
    "a word": (lambda v: flip(v / "site-04.u64"), "round 2: the words of site-04 are not those it signed"),
    "the last bit": (lambda v: flip(v / "site-04.u64", -1), "round 2: the words of site-04 are not those it signed"),
    "one lost": ((lambda v: (v / "site-04.u64").unlink()), "round 2: the words of site-04 are missing"),
    "a word lost": (lambda v: cut(v / "site-04.u64", 8), "round 2: the words of site-04 are not those it signed"),
    "a byte lost": (lambda v: cut(v / "site-04.u64", 1), "round 2: the words of site-04 are not whole"),
    "nothing left": (lambda v: cut(v / "site-04.u64", 8 * WORDS), "the words of site-04 are not those it signed"),
    "two exchanged": (
        lambda v: exchange(v / "site-02.u64", v / "site-03.u64"),
        "round 2: the words of site-02, site-03 are not those it signed",
    ),
    "of another round": (
        lambda v: shutil.copy(v.parents[1] / "000001/vectors/site-04.u64", v),
        "round 2: the words of site-04 are not those it signed",
    ),
    "one of two wrong, one lost": (
        lambda v: (flip(v / "site-01.u64"), (v / "site-02.u64").unlink()),
        "round 2: the words of site-01 are not those it signed; the words of site-02 are missing",
    ),
}
FILES: dict[str, tuple[Spoil, str]] = {  # what happens to the transcript, at the server or a site
    "the head of a round is gone": (lambda s: (s / "rounds/000002/head.cbor").unlink(), "round 2: .*head.cbor is"),
    "the sum is cut": (
        lambda s: cut(s / "rounds/000002/words.u64", 8),
        f"round 2: the sum does not have {WORDS} words",
    ),
    "the sum is torn": (lambda s: cut(s / "rounds/000002/words.u64", 3), "round 2: .*words.u64 is damaged"),
    "the attempt is another": (
        lambda s: note(s / "rounds/000002/round.json", attempt=2),
        "round 2: the record is of attempt 1, not 2",
    ),
    "the attempt is none": (lambda s: note(s / "rounds/000002/round.json", attempt=5000), "round 2: "),
    "the survivors are others": (
        lambda s: note(s / "rounds/000002/round.json", contributors=["site-01", "site-02", "site-03", "site-05"]),
        "round 2: round.json lists other survivors than the record, site-01, site-02, site-03, site-04",
    ),
    "round.json is torn": (lambda s: cut(s / "rounds/000002/round.json", 9), "round 2: .*round.json is damaged"),
    "two rounds are exchanged": (
        lambda s: exchange(s / "rounds/000001", s / "rounds/000002"),
        "round 1: the record is of round 2",
    ),
    "a round comes twice": (
        lambda s: (
            shutil.rmtree(s / "rounds/000002"),
            shutil.copytree(s / "rounds/000001", s / "rounds/000002"),
        ),
        "round 2: the record is of round 1",
    ),
    "the layout is another": (lambda s: rename_tensor(s / "layout.json"), "the layout in .* is not the one"),
    "the layout is torn": (lambda s: cut(s / "layout.json", 1), "layout.json is damaged"),
    "the roster is another": (lambda s: extend_roster(s / "roster.cbor"), "the roster in .* is not the one"),
    "the roster is of another epoch": (lambda s: renew_roster(s / "roster.cbor"), "the roster in .* is not the one"),
    "the roster is not signed": (lambda s: flip(s / "roster.cbor", -1), "the roster in .* altered"),
    "the manifest is torn": (lambda s: cut(s / "manifest.cbor", 1), "manifest.cbor is damaged"),
}


@pytest.mark.parametrize("what", VECTORS)
def test_the_site_whose_masked_words_were_altered_is_named(kept: Kept, fedserver: Command, what: str) -> None:
    spoil, says = VECTORS[what]
    spoil(kept.state / "rounds/000002/vectors")
    problem, remedy = fedserver("verify-round", kept.out, 2).two_lines()
    assert says in problem
    assert "restore" in remedy
    assert fedserver("verify-round", kept.out, 1).status == 0


@pytest.mark.parametrize("where", ["server", "site"])
@pytest.mark.parametrize("what", FILES)
def test_an_altered_file_of_the_transcript_is_found(
    kept: Kept, fedserver: Command, fedclient: Command, what: str, where: str
) -> None:
    spoil, says = FILES[what]
    spoil(kept.state if where == "server" else kept.session("site-02"))
    command = (fedserver, kept.out) if where == "server" else (fedclient, kept.home("site-02"))
    problem, remedy = command[0]("verify-round", command[1], "all").two_lines()
    assert re.search(says, problem), problem
    assert remedy


def test_a_word_of_the_sum_that_was_altered_is_counted_at_the_server(kept: Kept, fedserver: Command) -> None:
    words = np.fromfile(kept.state / "rounds/000002/words.u64", "<u8")
    words[[7, 100]] += np.uint64(1)
    words.tofile(kept.state / "rounds/000002/words.u64")
    problem, remedy = fedserver("verify-round", kept.out, 3).two_lines()
    assert problem == "round 2: the sum is not the one that its record names"  # on the way to round 3
    problem, remedy = fedserver("verify-round", kept.out, "all").two_lines()
    assert problem == (
        f"round 2: the sum differs from the vectors' in 2 of {WORDS} words, and is not the one its record names"
    )
    assert remedy.startswith("rounds/000002/words.u64 was altered since")


def test_a_word_of_the_sum_that_was_altered_is_found_at_a_site(kept: Kept, fedclient: Command) -> None:
    flip(kept.session("site-02") / "rounds/000002/words.u64", 80)
    for named in (2, 3, "all"):
        problem, _ = fedclient("verify-round", kept.home("site-02"), named).two_lines()
        assert problem == "round 2: the sum is not the one that its record names"
    assert fedclient("verify-round", kept.home("site-02"), 1).status == 0


def test_words_that_travelled_in_place_of_projections_are_held_against_their_digest(
    kept: Kept, fedserver: Command, fedclient: Command
) -> None:
    """Round 3: the words of site-03 stand behind the sum."""
    path = kept.session("site-02") / "rounds/000003/words.u64"
    assert path.stat().st_size == 8 * 2 * WORDS
    flip(path, -1)
    problem, _ = fedclient("verify-round", kept.home("site-02"), 3).two_lines()
    assert problem == "round 3: the words of site-03 are not those it signed"


def test_any_altered_byte_of_a_record_is_found(kept: Kept, fedserver: Command) -> None:
    path = kept.state / "rounds/000002/head.cbor"
    honest = path.read_bytes()
    for at in range(0, len(honest), 251):
        flip(path, at)
        problem, _ = fedserver("verify-round", kept.out, 2).two_lines()
        assert problem.startswith("round 2: "), at
        path.write_bytes(honest)
    assert fedserver("verify-round", kept.out, 2).status == 0


def test_any_altered_byte_of_the_manifest_is_found(kept: Kept, fedserver: Command, fedclient: Command) -> None:
    paths = kept.state / "manifest.cbor", kept.session("site-02") / "manifest.cbor"
    honest = paths[0].read_bytes()
    for at in range(0, len(honest), 37):
        for path in paths:
            flip(path, at)
        assert fedserver("verify-round", kept.out, 1).two_lines()
        assert fedclient("verify-round", kept.home("site-02"), 1).two_lines()
        for path in paths:
            path.write_bytes(honest)


def test_a_manifest_that_nobody_agreed_to_fits_no_record(kept: Kept, fedserver: Command, fedclient: Command) -> None:
    more_rounds(kept.state / "manifest.cbor")
    problem, _ = fedserver("verify-round", kept.out, 1).two_lines()
    assert problem == "round 1: the record is of another session"
    more_rounds(kept.session("site-02") / "manifest.cbor")
    problem, _ = fedclient("verify-round", kept.home("site-02"), 1).two_lines()
    assert problem.startswith("the manifest in ") and problem.endswith(" is of another session")


def test_a_first_adapter_that_the_nonce_does_not_give_is_said_before_any_round(kept: Kept, fedserver: Command) -> None:
    path = kept.state / "manifest.cbor"
    path.write_bytes(replace(Manifest.decode(path.read_bytes()), initial_adapter=bytes(32)).encode())
    problem, _ = fedserver("verify-round", kept.out, 1).two_lines()
    assert problem.endswith("names another first adapter than its nonce gives")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Another session of the same sites, with another nonce."""
    return keep(with_roster_file(Bench(tmp_path_factory.mktemp("another"), options={"rounds": 1})))


def test_a_record_of_another_session_is_told_from_this_ones(kept: Kept, another: Kept, fedserver: Command) -> None:
    shutil.rmtree(kept.state / "rounds/000001")
    shutil.copytree(another.state / "rounds/000001", kept.state / "rounds/000001")
    problem, _ = fedserver("verify-round", kept.out, 1).two_lines()
    assert problem == "round 1: the record is of another session"


def test_a_round_that_is_gone_ends_the_transcript(kept: Kept, fedserver: Command) -> None:
    shutil.rmtree(kept.state / "rounds/000002")
    problem, remedy = fedserver("verify-round", kept.out, 3).two_lines()
    assert problem.endswith("does not hold round 3")
    assert remedy == "choose one of 1 to 1, or all"
