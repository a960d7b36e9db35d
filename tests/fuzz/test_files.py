"""Files of any content are read or refused in two lines; what a fuzzer once broke stays mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedclient.policy import PolicyError, load_policy
from fedclient.settings import LocalError
from fedclient.store import LOG_FILE, AnswerLog, StoreError
from fedclient.transcript import Damaged, Transcript
from fedserver.checkpoint import Checkpoint
from fedserver.journal import Journal, read_events
from fedserver.plan import Plan, ServerError
from keys.errors import DamagedFile, KeyFileError
from keys.public import read_public_key, read_roster, read_site_public
from keys.server import load_server, read_certificate
from keys.store import load_site
from secagg.chain import Answer
from secagg.errors import Malformed
from secagg.masked.server import MaskedServer
from secagg.session import InMemory
from tests.fuzz import fuzz_key_files, fuzz_state_files
from tests.fuzz.fuzz_key_files import files
from tests.fuzz.masked_stage import played
from tests.fuzz.target import folder
from tests.sim import Dice

UNHURRIED = [HealthCheck.too_slow]  # a busy machine is no fault of a file's
SESSION = b"s" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
STRANGE = st.sampled_from(["", "00", "0" * 64, "f" * 128, "\ud800", "a\nb", "-1", "none", "scrypt", "site", "x" * 5000])
KEY_READERS: dict[str, Callable[[Path], Any]] = {
    "roster.json": read_roster,
    "site.pub": read_site_public,
    "root.pub": lambda path: read_public_key(path, "root"),
    "site.key": lambda path: load_site(path.parent),
    "owner.key": fuzz_key_files._owner,
    "signing.key": lambda path: load_server(path.parent),
}


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value with one of its parts replaced, left out or doubled, at any depth."""
    if isinstance(whole, dict | list) and whole and draw(st.integers(0, 3)):
        keys = list(whole) if isinstance(whole, dict) else list(range(len(whole)))
        key = draw(st.sampled_from(keys))
        copy = whole.copy()
        how = draw(st.sampled_from(("replace", "drop", "rename")))
        if how == "replace" or isinstance(copy, list):
            copy[key] = draw(changed(whole[key]))
        else:
            value = copy.pop(key)
            if how == "rename":
                copy[draw(st.text(max_size=50))] = value
        return copy
    return draw(JSON | STRANGE)


def file_with(name: str, content: bytes) -> Path:
    path = folder() / "changed" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def is_two_lines(error: KeyFileError | LocalError) -> bool:
    """A problem and a remedy, each of one line."""
    return all(text and "\n" not in text for text in (error.problem, error.remedy))


@pytest.mark.parametrize("name", KEY_READERS)
@settings(max_examples=80, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_a_changed_key_file_is_refused_in_two_lines(name: str, data: st.DataObject) -> None:
    whole = json.loads(files()[name])
    path = file_with(name, json.dumps(data.draw(changed(whole))).encode())
    try:
        KEY_READERS[name](path)
    except KeyFileError as error:
        assert is_two_lines(error)


@settings(max_examples=100, suppress_health_check=UNHURRIED)
@given(data=st.data())
def test_a_changed_plan_is_refused_in_two_lines_or_is_a_plan(data: st.DataObject) -> None:
    path = file_with("plan.json", b"")
    Plan(roster="r", keys="k", out="o", scheme="masked", model="m", rounds=2).save(path)
    path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text())))))
    try:
        plan = Plan.load(path)
    except LocalError as error:
        assert is_two_lines(error)
        return
    assert all(type(value) is str for value in plan.settings().values())
    again = path.with_name("again.json")
    plan.save(again)
    assert Plan.load(again) == plan


@settings(max_examples=80, suppress_health_check=UNHURRIED)
@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(("schemes", "base_models", "whole_roster")), JSON))
def test_any_policy_is_refused_in_two_lines_or_is_a_policy(rules: dict[str, Any]) -> None:
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in rules.items()]  # nearly TOML
    try:
        load_policy(file_with("policy.toml", "\n".join(lines).encode("utf-8", "replace")))
    except PolicyError as error:
        assert error.problem and error.remedy


@settings(max_examples=80, suppress_health_check=UNHURRIED)
@given(st.lists(st.fixed_dictionaries({"event": st.text(max_size=9)}, optional={"x": JSON}), max_size=4), st.data())
@example([{"event": "\u2028"}], None)
def test_a_journal_cut_anywhere_gives_its_whole_lines_and_goes_on(events: list[Any], data: st.DataObject) -> None:
    lines = [json.dumps(each).encode() + b"\n" for each in events]
    content = b"".join(lines)
    kept = content[: data.draw(st.integers(0, len(content)))] if data else content
    torn = data.draw(st.binary(max_size=9).filter(lambda tail: b"\n" not in tail)) if data else b""
    path = file_with("events.jsonl", kept + torn)
    whole = kept.count(b"\n")
    before, start = read_events(path)
    assert len(before) == whole and start == len(b"".join(lines[:whole]))
    Journal(path).write("resumed")
    assert [each["event"] for each in read_events(path, start)[0]] == ["resumed"]
    assert len(read_events(path)[0]) == whole + 1


# ------------------------------------------------------------------ found by a fuzzer, or beside what it found


def test_a_journal_damaged_in_the_middle_is_refused_in_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for bad in (b"{", b"[]", b"5", b'{"time": 1}', b'{"event": 1}', b"\xff", b"\x00" * 9, b"[" * 100_000):
        path.write_bytes(b'{"event": "a"}\n' + bad + b'\n{"event": "b"}\n')
        with pytest.raises(ServerError) as refusal:
            read_events(path)
        assert "line 2 is no event" in refusal.value.problem and is_two_lines(refusal.value)


def test_a_last_line_that_is_no_event_is_left_out_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for torn in (b'{"event": "b', b'{"event": "b\n', b"\x00" * 20, b"\x00" * 20 + b'"}\n', b"\n"):
        path.write_bytes(b'{"event": "a"}\n' + torn)
        assert read_events(path) == ([{"event": "a"}], 15)
        Journal(path).write("resumed")
        assert [each["event"] for each in read_events(path)[0]] == ["a", "resumed"]


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "largest_rounds = " + "9" * 5000, "largest_rounds = 25:61:61"])
def test_a_policy_that_the_toml_parser_chokes_on_is_refused_in_two_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as refusal:
        load_policy(path)
    assert is_two_lines(refusal.value)


def test_an_unknown_rule_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('"a\\nb\\u001b[2J" = 1')
    with pytest.raises(PolicyError, match="settings") as refusal:
        load_policy(path)
    assert is_two_lines(refusal.value) and "\x1b" not in refusal.value.problem


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", 5), ("rounds", "2"), ("rounds", 2.5), ("roster", None), ("listen", 8443), ("rotate", 1), ("bits", True),
     ("traffic", []), ("lora", 5), ("training", {}), ("a\nb", 1), ("model", "\ud800"), ("join_timeout", "0")],
)  # fmt: skip
def test_a_plan_with_a_field_of_another_type_is_refused_in_two_lines(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "plan.json"
    Plan(roster="r", keys="k", out="o", scheme="masked", model="m", rounds=2).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(LocalError) as refusal:
        Plan.load(path)
    assert is_two_lines(refusal.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5", "", "{}"])
def test_what_is_no_plan_at_all_is_refused_in_two_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ServerError) as refusal:
        Plan.load(path)
    assert is_two_lines(refusal.value)


def test_a_certificate_of_an_unknown_version_is_refused_in_two_lines(tmp_path: Path) -> None:
    from base64 import b64decode, b64encode

    lines = files()["server.pem"].splitlines()
    der = b64decode(b"".join(lines[1:-1]))
    version = bytes.fromhex("a003020102")
    assert der.count(version) == 1
    altered = b64encode(der.replace(version, version[:-1] + b"\x0a"))
    path = tmp_path / "server.pem"
    path.write_bytes(b"\n".join([lines[0], altered, lines[-1], b""]))
    with pytest.raises(DamagedFile) as refusal:
        read_certificate(path)
    assert is_two_lines(refusal.value)


def log_of(path: Path, *answers: bytes) -> AnswerLog:
    """The log with these lines, in the file that it was begun in."""
    path.unlink(missing_ok=True)
    AnswerLog(path, SESSION)
    path.write_bytes(path.read_bytes() + b"".join(each + b"\n" for each in answers))
    return AnswerLog(path, SESSION)


def test_a_log_of_answers_whose_lines_are_not_its_own_is_refused(tmp_path: Path) -> None:
    """A line of another session, out of order or in other letters was not written by this site's log."""
    path = tmp_path / LOG_FILE
    first, second = (Answer(SESSION, 1, 1, stage, Dice(stage)(32)).encode().hex().encode() for stage in (1, 2))
    foreign = Answer(b"t" * 32, 1, 1, 2, bytes(32)).encode().hex().encode()
    assert log_of(path, first, second).ledger.last == Answer.decode(bytes.fromhex(second.decode()))
    for bad in ((first, foreign), (second, first), (first, first), (first.upper(),), (first[:2] + b" " + first[2:],)):
        with pytest.raises(StoreError) as refusal:
            log_of(path, *bad)
        assert is_two_lines(refusal.value)


def test_every_state_file_has_a_reader_that_is_fuzzed(tmp_path: Path) -> None:
    """What a site keeps during a session, by what it is called."""
    from tests.fuzz.fuzz_site import moments

    kept = {name.rpartition("/")[2].replace("-2.", "-1.") for moment in moments() for name in moment.files}
    read = (*(name for name, _ in fuzz_state_files.READERS), *fuzz_state_files.TRANSCRIPT)
    bare = {"adapter-0.f32", "adapter-1.f32", "update-1.f32"}  # any multiple of 4 bytes
    assert kept - bare <= {name.rpartition("/")[2] for name in read}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", "5", "null", "", "\xff", '{"1": Infinity}', '{"1": 1e999}', '{"1": [1]}', '{"1": null}'],
)
def test_a_checkpoint_of_any_json_is_damaged_and_nothing_else(tmp_path: Path, text: str) -> None:
    found, folder_ = Checkpoint(tmp_path), tmp_path / "rounds"
    for each in (folder_ / "000001" / "round.json", folder_ / ".next" / "held.json", tmp_path / "layout.json"):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text(text.replace('"1"', '"attempt"'), encoding="latin-1")
    (tmp_path / "attempts.json").write_text(text, encoding="latin-1")
    assert found.held(1) is None
    with pytest.raises(Damaged):
        found.attempt(1)
    with pytest.raises(Damaged):
        Transcript(tmp_path, lambda act, where, error: error).layout()
    with pytest.raises(ServerError) as refusal:
        found.begin_attempt(1)
    assert is_two_lines(refusal.value)


@pytest.mark.parametrize(
    "held", ['{"attempt": Infinity, "round": 1, "blob": ""}', '{"attempt": 1, "round": 1, "blob": 5}']
)
def test_what_is_held_of_a_round_is_nothing_if_its_numbers_are_none(tmp_path: Path, held: str) -> None:
    path = tmp_path / "rounds" / ".next" / "held.json"
    path.parent.mkdir(parents=True)
    path.write_text(held)
    assert Checkpoint(tmp_path).held(1) is None


def test_a_server_does_not_resume_over_vectors_of_another_length() -> None:
    """As numpy would have it: one word is added to every word, and other lengths end the process."""
    round_, record = played().round, played().stages[-1].request.head
    for length in (0, 1, 5):
        archive = InMemory()
        for site, words in round_.sent.items():
            archive.put(site, words[:length])
        with pytest.raises(Malformed):
            MaskedServer.resumed(round_.site_context, round_.consortium.server_keys, archive, record)


def test_a_held_attempt_that_no_round_can_have_is_not_resumed(tmp_path: Path) -> None:
    """A damaged number of the attempt is damage to the file: the round is tried again."""
    from tests.federation.direct import Bench

    bench = Bench(tmp_path, options={"rounds": 1})
    Checkpoint(Path(bench.plan.out) / "state").archive()
    held = Path(bench.plan.out) / "state" / "rounds" / ".next" / "held.json"
    held.write_text('{"round": 1, "attempt": 5000, "blob": ""}')
    assert bench.run().rounds == 1
