"""What a site and the server find on their own disks after anything happened to it: read, or refused in two lines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from nacl.secret import SecretBox

from fedclient.connection import NodeFile
from fedclient.policy import load_policy
from fedclient.settings import LocalError
from fedclient.store import LOG_FILE, STATE, AnswerLog, JoinedSessions, SessionStore
from fedclient.transcript import Damaged, Transcript
from fedserver.checkpoint import Checkpoint
from fedserver.journal import Journal, read_events
from fedserver.plan import Plan
from secagg.chain import Answer, Position
from secagg.errors import Malformed, Refused
from secagg.masked.states import decode_state
from tests.fuzz.fuzz_site import rebound
from tests.fuzz.masked_stage import played
from tests.fuzz.target import Cut, folder
from tests.sim import Consortium, Dice

_MANIFEST: Final = Consortium(4).manifest(10)
_SESSION: Final = _MANIFEST.digest()
_KEY: Final = bytes(32)
SEALED: Final = 128  # bit of the first byte: what is read is sealed first


def one(data: bytes) -> None:
    """First byte: which reader. The rest: the file."""
    cut = Cut(data)
    which = cut.number()
    content = cut.rest()
    if which & SEALED:
        content = SecretBox(_KEY).encrypt(content, bytes(24))
    name, read = READERS[(which & ~SEALED) % len(READERS)]
    home = folder() / "state"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        read(home, path)
    except LocalError as error:
        assert error.problem and error.remedy and str(error) == error.code


def _answers(home: Path, path: Path) -> None:
    """The log of answers as it would stand in this very file; what it says in the end can be gone on from."""
    path.write_bytes(rebound(path, path.read_bytes()))
    log = AnswerLog(path, _SESSION)
    last = log.ledger.last
    line = Answer(_SESSION, 100_000, 1000, 1, bytes(32))
    log.append(line)
    again = AnswerLog(path, _SESSION)
    assert again.ledger.last == line
    assert last is None or last.session == _SESSION


def _foreign_answers(home: Path, path: Path) -> None:
    AnswerLog(path, _SESSION)


def _joined(home: Path, path: Path) -> None:
    joined = JoinedSessions(home)
    try:
        joined.require_new_or_whole(_MANIFEST)
    except Refused:
        return
    joined.note(_MANIFEST)
    assert _SESSION.hex() in path.read_text()


def _stored(home: Path, path: Path) -> None:
    store = SessionStore(home, _SESSION, _KEY)
    store.manifest()
    store.client(1, 1)
    store.sent(1, 1)
    if (update := store.update(1)) is not None:
        assert update.values.dtype == np.float32
    (store.folder / "adapter-0.f32").write_bytes(bytes(40))
    if (found := store.position()) is not None:
        assert found[1].size == 10


def _update_of(home: Path, path: Path) -> None:
    """The numbers beside an update."""
    (path.parent / "update-1.f32").write_bytes(bytes(40))
    SessionStore(home, _SESSION, _KEY).update(1)


def _journal(home: Path, path: Path) -> None:
    before, whole = read_events(path)
    Journal(path).write("resumed", rounds=1)
    after, end = read_events(path)
    assert after[: len(before)] == before and after[-1]["event"] == "resumed"
    assert end == path.stat().st_size and whole <= end
    assert all(type(each["event"]) is str for each in after)


def _plan(home: Path, path: Path) -> None:
    plan = Plan.load(path)
    plan.settings()
    again = path.with_name("again.json")
    plan.save(again)
    assert Plan.load(again) == plan


_ROUND: Final = "rounds/000001"
TRANSCRIPT: Final = (
    "manifest.cbor", "attempts.json", "roster.cbor", "layout.json", "rounds/.next/held.json", f"{_ROUND}/round.json",
    f"{_ROUND}/words.u64", f"{_ROUND}/head.cbor", f"{_ROUND}/vectors/a.u64",
)  # fmt: skip


def _checkpoint(home: Path, path: Path) -> None:
    """A checkpoint whose every file is this one."""
    found, folder_ = Checkpoint(home / "checkpoint"), home / "checkpoint"
    public = Transcript(folder_, lambda act, where, error: error)
    content = path.read_bytes()
    for each in ("rounds/.next", f"{_ROUND}/vectors"):
        (folder_ / each).mkdir(parents=True)
    for name in TRANSCRIPT:
        (folder_ / name).write_bytes(content)
    reads = (
        found.manifest, lambda: found.begin_attempt(1), lambda: found.attempt(1), lambda: found.aggregate(1),
        lambda: found.held(1), lambda: found.vectors(1).get("a"), public.manifest, public.roster, public.layout,
    )  # fmt: skip
    for act in reads:
        try:
            act()
        except LocalError as error:
            assert error.problem and error.remedy
        except Damaged as error:
            assert error.path.exists()


def _client_state(home: Path, path: Path) -> None:
    content = path.read_bytes()
    try:
        assert decode_state(content).encode() == content
    except Malformed:
        return


_FOLDER: Final = f"{STATE}/{_SESSION.hex()}"
READERS: Final[list[tuple[str, Callable[[Path, Path], Any]]]] = [
    (f"{_FOLDER}/{LOG_FILE}", _answers),
    (f"{_FOLDER}/./{LOG_FILE}", _foreign_answers),
    ("sessions.log", _joined),
    (f"{_FOLDER}/manifest.cbor", _stored),
    (f"{_FOLDER}/client.sealed", _stored),
    (f"{_FOLDER}/position.cbor", _stored),
    (f"{_FOLDER}/update-1.meta", _update_of),
    ("policy.toml", lambda home, path: load_policy(path)),
    ("plan.json", _plan),
    ("events.jsonl", _journal),
    ("any-checkpoint-file", _checkpoint),
    ("client.state", _client_state),
    ("node-id", lambda home, path: NodeFile(path).read()),
    (f"{_FOLDER}/sent-1.1.u64", _stored),
]


def seeds() -> Iterator[bytes]:
    """A whole file for every reader, and some that are torn."""
    answers = [Answer(_SESSION, 1, 1, stage, Dice(stage)(32)) for stage in (1, 2, 3)]
    log = _SESSION.hex().encode() + b" 0\n" + b"".join(each.encode().hex().encode() + b"\n" for each in answers)
    position = Position.start(_MANIFEST)
    plan = folder() / "seed-plan.json"
    Plan(roster="r", keys="k", out="o", scheme="masked", model="m", rounds=2).save(plan)
    events = b'{"time": 1.5, "event": "round", "round": 1}\n{"time": 2, "event": "void", "why": "x"}\n'
    policy = b'schemes = ["masked"]\nleast_survivors = 3\nbase_models = ["' + b"ab" * 32 + b'"]\nwhole_roster = true\n'
    states = [each.saved[32:] for each in played().stages]
    contents = {
        f"{_FOLDER}/{LOG_FILE}": [log, log[:-9]],
        f"{_FOLDER}/./{LOG_FILE}": [log],
        "sessions.log": [f"{_SESSION.hex()} {_MANIFEST.nonce.hex()}\n".encode(), b"00 11\n"],
        f"{_FOLDER}/manifest.cbor": [_MANIFEST.encode()],
        f"{_FOLDER}/position.cbor": [position.encode()],
        f"{_FOLDER}/update-1.meta": [bytes(40)],
        "policy.toml": [policy],
        "plan.json": [plan.read_bytes()],
        "events.jsonl": [events, events[:-5]],
        "any-checkpoint-file": [
            json.dumps({"1": 3}).encode(), json.dumps({"round": 1, "attempt": 2, "blob": "00"}).encode(),
            json.dumps([["a", [2, 3]]]).encode(), Consortium(4).roster.encode(),
            json.dumps({"attempt": 2, "contributors": ["a"]}).encode(),
            _MANIFEST.encode(),
        ],
        "client.state": states,
        "node-id": [b"12345 678\n"],
        f"{_FOLDER}/sent-1.1.u64": [bytes(16)],
    }  # fmt: skip
    for index, (name, _) in enumerate(READERS):
        yield from (bytes([index]) + content for content in contents.get(name, ()))
        if name.endswith("client.sealed"):
            yield bytes([index | SEALED]) + b"1.1\x00" + played().stages[1].saved
