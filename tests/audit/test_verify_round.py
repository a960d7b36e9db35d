"""`verify-round` over a true transcript, at the server and at a site, and how the commands answer."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedserver import app as server_app
from fedserver import cli as server_cli
from keys.public import render_public_key, render_roster
from secagg.identity import public_bytes
from tests.audit.conftest import WORDS, Command, Kept, keep, with_roster_file
from tests.federation.direct import Bench

REPOSITORY = Path(__file__).parents[2]


def blocks(out: str) -> list[str]:
    """What was printed of each round."""
    return re.split(r"^(?=round )", out, flags=re.MULTILINE)[1:]


def test_a_true_transcript_verifies_at_the_server_word_by_word(kept: Kept, fedserver: Command) -> None:
    said = fedserver("verify-round", kept.out, "all", "--roster", kept.roster)
    assert said.status == 0, said
    assert said.err == ""
    first, second, third = blocks(said.out)
    assert first.startswith("round 1, attempt 1: 5 survivors: site-01, site-02, site-03, site-04, site-05\n")
    assert "5 of 5 are here, as their sites signed them" in first
    assert f"that of the vectors in all {WORDS} words" in first
    assert second.startswith("round 2, attempt 1: 4 survivors: site-01, site-02, site-03, site-04\n")
    assert "4 signatures on the survivors (quorum 4), 5 secrets as committed" in second
    assert "4 signed, each of its site's vector" in third
    assert "5 of 5 are here" in third


def test_a_site_checks_what_it_can_and_says_how_to_get_the_rest(kept: Kept, fedclient: Command) -> None:
    said = fedclient("verify-round", kept.home("site-02"), "all")
    assert said.status == 0, said
    first, _, third = blocks(said.out)
    assert "0 of 5 are here\n" in first
    assert f"checked against the survivors' signed projections only: {WORDS} words" in first
    assert "1 of 5 are here, as their sites signed them" in third  # it travelled with the sum
    assert "--vectors" in said.err and "server's administrator" in said.err


def test_with_a_copy_of_the_servers_rounds_a_site_sees_what_the_server_sees(
    kept: Kept, fedserver: Command, fedclient: Command
) -> None:
    at_server = fedserver("verify-round", kept.out, "all")
    at_site = fedclient("verify-round", kept.home("site-02"), "all", "--vectors", kept.state / "rounds")
    assert at_site.status == 0 and at_site.err == ""
    assert blocks(at_site.out) == blocks(at_server.out)
    of_one = kept.state / "rounds/000002/vectors"
    assert blocks(fedclient("verify-round", kept.home("site-02"), 2, "--vectors", of_one).out) == [
        blocks(at_server.out)[1]
    ]


def test_vectors_of_another_round_are_not_taken_for_this_ones(kept: Kept, fedclient: Command) -> None:
    of_another = kept.state / "rounds/000002/vectors"
    problem, _ = fedclient("verify-round", kept.home("site-02"), 1, "--vectors", of_another).two_lines()
    assert problem.startswith("round 1: the words of site-01, site-02, site-03, site-04 are not those it signed")


def test_one_round_alone_gives_what_all_rounds_give_of_it(kept: Kept, fedserver: Command) -> None:
    everything = blocks(fedserver("verify-round", kept.out, "all").out)
    for number in (1, 2, 3):
        said = fedserver("verify-round", kept.out, number).out
        assert blocks(said) == [everything[number - 1]]
        assert ("`all` makes their sums again" in said) == (number > 1)
        assert fedserver("verify-round", kept.state, number).out == said


def test_server_and_sites_print_the_same_chain(kept: Kept, fedserver: Command, fedclient: Command) -> None:
    digests = [
        re.findall(r"(?:transcript|adapter|session) +([0-9a-f]{64})", command("verify-round", folder, "all").out)
        for command, folder in [(fedserver, kept.out), *((fedclient, kept.home(f"site-0{i}")) for i in range(1, 6))]
    ]
    assert len(digests[0]) == 7
    assert all(each == digests[0] for each in digests)


def test_vectors_that_were_not_kept_are_said_to_be_missing_and_are_no_fault(tmp_path: Path, fedserver: Command) -> None:
    kept = keep(with_roster_file(Bench(tmp_path / "short", options={"keep_vectors": 1, "rounds": 3})))
    said = fedserver("verify-round", kept.out, "all")
    assert said.status == 0, said
    first, second, third = blocks(said.out)
    for forgotten in (first, second):
        assert "0 of 5 are here\n" in forgotten
        assert "projections only" in forgotten
    assert "that of the vectors in all" in third
    assert "--keep-vectors" in said.err
    assert fedserver("verify-round", kept.out, 3).err == ""


# ------------------------------------------------------------------ whose roster it is


def test_a_site_trusts_the_roster_of_its_own_root_only(kept: Kept, fedclient: Command) -> None:
    other = public_bytes(Ed25519PrivateKey.generate())
    (kept.home("site-02") / "root.pub").write_text(render_public_key("root", other))
    problem, _ = fedclient("verify-round", kept.home("site-02"), 1).two_lines()
    assert problem.startswith("the roster is signed by another root")
    (kept.home("site-02") / "root.pub").unlink()
    problem, _ = fedclient("verify-round", kept.home("site-02"), 1).two_lines()
    assert problem.endswith("trusts no root yet")


def test_a_session_of_another_roster_than_the_one_given_is_refused(
    kept: Kept, fedserver: Command, fedclient: Command
) -> None:
    made_up = with_roster_file(Bench(kept.folder / "other")).consortium
    (kept.folder / "other.json").write_text(render_roster(made_up.roster))
    for command, folder in ((fedserver, kept.out), (fedclient, kept.home("site-02"))):
        problem, _ = command("verify-round", folder, 1, "--roster", kept.folder / "other.json").two_lines()
        assert re.search(r"the session's roster \(epoch 1\) is not the one in .*other.json", problem)
        assert command("verify-round", folder, 1, "--roster", kept.roster).status == 0


def test_without_a_roster_to_compare_the_server_shows_whose_it_is(kept: Kept, fedserver: Command) -> None:
    said = fedserver("verify-round", kept.out, 1)
    assert re.search(r"^roster  [0-9a-f]{64}: test, epoch 1$", said.out, re.MULTILINE)
    assert re.search(r"^root    ([0-9a-f]{4} ){15}[0-9a-f]{4}, compare it by telephone$", said.out, re.MULTILINE)


# ------------------------------------------------------------------ which session, which round


def test_of_several_sessions_at_a_site_one_has_to_be_named(kept: Kept, fedclient: Command) -> None:
    home, session = kept.home("site-02"), kept.session("site-02").name
    another = home / "state" / ("0" * 64)
    another.mkdir()
    (another / "manifest.cbor").write_bytes(b"")
    problem, remedy = fedclient("verify-round", home, 1).two_lines()
    assert "holds 2 sessions" in problem and session[:16] in remedy
    assert fedclient("verify-round", home, 1, "--session", session[:8]).status == 0
    problem, _ = fedclient("verify-round", home, 1, "--session", "f" * 64).two_lines()
    assert "no session whose id begins with" in problem
    assert fedclient("verify-round", home, 1, "--session", "00").two_lines()


@pytest.mark.parametrize("named", ["0", "-1", "x", "1.5", ""])
def test_what_is_no_round_is_misuse(kept: Kept, fedserver: Command, named: str) -> None:
    said = fedserver("verify-round", kept.out, "--", named)
    assert said.status == 2
    assert "number of a round, or all" in said.err


def test_a_round_that_is_not_there_or_a_folder_without_session_is_said(
    kept: Kept, fedserver: Command, fedclient: Command
) -> None:
    assert fedserver("verify-round", kept.out, 4).two_lines()[1] == "choose one of 1 to 3, or all"
    assert fedserver("verify-round", kept.folder / "nothing", 1).two_lines()[0].endswith("holds no session")
    assert fedclient("verify-round", kept.folder / "nothing", 1).two_lines()[0].endswith("holds no session")


# ------------------------------------------------------------------ the commands


def test_options_of_the_session_are_not_ignored_in_front_of_verify_round(
    kept: Kept, fedserver: Command, fedclient: Command
) -> None:
    said = fedserver("--rounds", 4, "verify-round", kept.out, 1)
    assert (said.status, "--rounds: cannot be given with verify-round" in said.err) == (2, True)
    needed = ("--site", "a", "--server", "h:1", "--roster", kept.roster, "--data", "d")
    said = fedclient(*needed, "verify-round", kept.home("site-01"), 1)
    assert (said.status, "cannot be given with verify-round" in said.err) == (2, True)


def test_a_site_still_has_to_give_what_a_session_needs(fedclient: Command) -> None:
    said = fedclient("--site", "a", "--server", "h:1", "--roster", "r.json")
    assert said.status == 2
    assert "Missing option '--data'" in said.err


@pytest.mark.parametrize("program", ["fedserver", "fedclient"])
def test_the_example_in_the_help_runs_as_a_process_and_loads_no_learning_and_no_flower(
    kept: Kept, program: str
) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", f"{program}.cli", "verify-round", "--help"],
        cwd=REPOSITORY, env={"COLUMNS": "200"}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    [example] = re.findall(rf"^ +{program} (verify-round .*?) *$", shown, re.MULTILINE)
    arguments = shlex.split(example.replace("~/.local/share/secagg-lora/hospital-a", "./site-01"))
    code = (
        f"import sys, runpy\nsys.argv = {[program, *arguments]!r}\n"
        f"try:\n    runpy.run_module('{program}.cli', run_name='__main__')\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=kept.folder, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(blocks(done.stdout)) == 3


def test_a_failed_audit_ends_a_real_process_with_exit_1_and_two_lines(kept: Kept) -> None:
    (kept.state / "rounds/000002/vectors/site-04.u64").write_bytes(bytes(8 * WORDS))
    done = subprocess.run(
        [sys.executable, "-m", "fedserver.cli", "verify-round", str(kept.out), "all"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(blocks(done.stdout)) == 1
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith("error: round 2: the words of site-04 are not those it signed\n")


def test_the_commands_look_where_server_and_sites_keep_their_state() -> None:
    from fedclient import store, verifying

    assert server_cli.STATE == server_app.STATE
    assert verifying.SITE_STATE == store.STATE
