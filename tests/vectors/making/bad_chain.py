"""What a site's log, its policy and its own model refuse, whatever the messages say (spec §7.3, §7.4, §16.1)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedclient.site import Facts, Site
from secagg.chain import Answer, Ledger, Position
from secagg.config import Manifest, Policy
from secagg.errors import SecAggError
from secagg.session import Metrics, Packet
from secagg.vector import Layout, Vector
from tests.vectors.form import Json, bad, drawn, file, good
from tests.vectors.making.lies import FIVE, ME, flipped
from tests.vectors.scene import EXPIRES, OUTSIDE, Session

STATE_KEY = drawn("state key")


# ---------------------------------------------------------------------- the log


def bad_replay_attempt() -> Json:
    """A second answer, an attempt that is not new, and a header that does not continue the chain."""
    manifest = FIVE.manifest
    start = Position.start(manifest)
    later = Position(start.session, 4, drawn("adapter"), drawn("transcript"), 12_345)
    cases = [_admitted(*row) for row in _admissions(manifest, start, later)]
    cases += [_answered(*row) for row in _answers(start)]
    about = (
        "The log of a site. `admit`: may an attempt with this header begin, for a site at `position` whose log ends "
        "with `last` (empty: no line)? `answer`: may a reply of `stage` in the attempt of `header` leave, and with "
        "which line (its evidence is given)?"
    )
    return file(about, "7.7, 16.1", "log", cases, {"manifest": manifest.encode().hex()})


def _admissions(manifest: Manifest, start: Position, later: Position) -> Iterator[tuple[str, Position, Any, Any, str]]:
    def line(round_: int, attempt: int, stage: int) -> Answer:
        return Answer(start.session, round_, attempt, stage, drawn("evidence"))

    first, fifth = start.header(manifest, 1), later.header(manifest, 1)
    yield "round 1, attempt 1, an empty log", start, None, first, ""
    yield "round 1, attempt 7, an empty log", start, None, start.header(manifest, 7), ""
    yield "attempt 2 after attempt 1 got to stage 4", start, line(1, 1, 4), start.header(manifest, 2), ""
    yield "round 5 after round 4 was checked", later, line(4, 3, 6), fifth, ""
    yield "attempt 2 after attempt 1 was checked", start, line(1, 1, 6), start.header(manifest, 2), "refused"
    yield "round 5 after round 4 was spent", later, line(4, 3, 5), fifth, ""
    yield "attempt 2 after attempt 1 was spent", start, line(1, 1, 5), start.header(manifest, 2), "refused"
    yield "the same attempt again", start, line(1, 2, 1), start.header(manifest, 2), "refused"
    yield "an earlier attempt", start, line(1, 3, 1), start.header(manifest, 2), "refused"
    yield "an earlier round than the last line's", later, line(6, 1, 1), fifth, "refused"
    for field in ("session", "roster", "adapter", "previous", "graph"):
        yield (
            f"another {field}",
            later,
            None,
            replace(fifth, **{field: flipped(getattr(fifth, field))}),
            "faulty-server",
        )
    for field, value in (("round", 6), ("round", 4), ("scheme", "other"), ("range_q40", 12_346)):
        yield f"another {field}: {value}", later, None, replace(fifth, **{field: value}), "faulty-server"


def _admitted(name: str, position: Position, last: Any, header: Any, code: str) -> Json:
    inputs = {
        "position": position.encode().hex(), "last": last.encode().hex() if last else "",
        "header": header.encode().hex(),
    }  # fmt: skip
    found = ""
    try:
        Ledger(position.session, last).admit(position, header, FIVE.manifest)
    except SecAggError as error:
        found = error.code
    assert found == code, name
    title = f"admit: {name}"
    return bad(title, inputs, code) if code else good(title, inputs, {"admitted": True})


def _answers(start: Position) -> Iterator[tuple[str, Any, Any, str, str]]:
    header = start.header(FIVE.manifest, 2)

    def line(attempt: int, stage: int) -> Answer:
        return Answer(start.session, 1, attempt, stage, drawn("evidence"))

    yield "the first", None, header, "advertised", ""
    yield "the next stage", line(2, 1), header, "shared", ""
    yield "the first of a newer attempt", line(1, 3), header, "advertised", ""
    yield "the same stage again", line(2, 3), header, "masked", "refused"
    yield "an earlier stage", line(2, 3), header, "shared", "refused"
    yield "a stage of an earlier attempt", line(3, 1), header, "spent", "refused"
    yield "the check, after the shares have left in the same attempt", line(2, 5), header, "checked", ""
    yield "the check a second time", line(2, 6), header, "checked", "refused"
    yield "the check of another attempt than the one spent", line(1, 5), header, "checked", "refused"
    yield "in an attempt after one that was spent", line(1, 5), header, "advertised", "refused"


def _answered(name: str, last: Any, header: Any, stage: str, code: str) -> Json:
    evidence, session = drawn("evidence", stage), header.session
    inputs = {
        "last": last.encode().hex() if last else "", "header": header.encode().hex(), "stage": stage,
        "evidence": evidence.hex(),
    }  # fmt: skip
    title, found = f"answer: {name}", ""
    try:
        _, line = Ledger(session, last).answer(header, stage, evidence)
    except SecAggError as error:
        found = error.code
    assert found == code, name
    return bad(title, inputs, code) if code else good(title, inputs, {"line": line.encode().hex()})


# ---------------------------------------------------------------------- policy and model


@dataclass
class Loaded:
    """What a site's training code found: its facts, and nothing that trains."""

    facts: Facts

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        return self.facts

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        raise NotImplementedError

    def save(self, adapter: Vector) -> None:
        raise NotImplementedError


def consenting(session: Session, manifest: bytes, facts: Json, policy: Policy, now: int) -> Packet:
    """The site's answer to the manifest. Raises SecAggError."""
    layout = Layout(tuple((name, tuple(shape)) for name, shape in facts["tensors"]))
    values = np.frombuffer(bytes.fromhex(facts["initial_adapter"]), "<f4").astype(np.float32)
    digests = (bytes.fromhex(facts[name]) for name in ("base_model", "tokenizer", "lora_config"))
    with tempfile.TemporaryDirectory() as home:
        site = Site(
            Path(home), session.keys(ME), STATE_KEY, session.roster, policy, Loaded(Facts(*digests, layout, values)),
            rng=bytes, now=lambda: now,
        )  # fmt: skip
        return site.handle("consent", [Packet(manifest)])


def policy_of(rules: Json) -> Policy:
    """A policy of which only these rules differ from the table of spec §7.3."""
    changed = {name: tuple(bytes.fromhex(each) for each in value) if name == "base_models" else value
               for name, value in rules.items()}  # fmt: skip
    return Policy(**{name: tuple(value) if name == "schemes" else value for name, value in changed.items()})


def bad_model_hash() -> Json:
    """Manifests that a site does not agree to: its model is another, or its policy forbids them."""
    session = Session(5, size=21, rotate=1)
    facts = {
        "tensors": [[name, list(shape)] for name, shape in session.layout.tensors],
        "base_model": drawn("base model").hex(), "tokenizer": drawn("tokenizer").hex(),
        "lora_config": drawn("lora config").hex(), "initial_adapter": session.initial.astype("<f4").tobytes().hex(),
    }  # fmt: skip
    manifest, whole = session.manifest, {"whole_roster": False}
    cases = [_consent("agreed", session, manifest, facts, whole, "")]
    for field in ("base_model", "tokenizer", "lora_config", "initial_adapter", "layout", "roster"):
        other = replace(manifest, **{field: flipped(getattr(manifest, field))})
        cases.append(_consent(f"another {field}", session, other, facts, whole, "refused"))
    cases.append(_consent("another size", session, replace(manifest, size=22), facts, whole, "refused"))
    altered = {**facts, "initial_adapter": facts["initial_adapter"][:-2] + "80"}
    cases.append(_consent("the site's zero is -0", session, manifest, altered, whole, "refused"))
    policies: dict[str, Json] = {
        "a base model that is not listed": {**whole, "base_models": [drawn("another model").hex()]},
        "fewer survivors than the site asks for": {**whole, "least_survivors": 5},
        "a smaller threshold": {**whole, "least_threshold": 5}, "fewer colluders": {**whole, "least_colluders": 2},
        "another scheme": {**whole, "schemes": ["other"]}, "more rounds": {**whole, "largest_rounds": 2},
        f"{OUTSIDE} is on the roster and left out": {},
    }  # fmt: skip
    cases += [
        _consent(f"policy: {name}", session, manifest, facts, rules, "refused") for name, rules in policies.items()
    ]
    listed = {**whole, "base_models": [drawn("another model").hex(), drawn("base model").hex()]}
    cases.append(_consent("policy: a base model that is listed", session, manifest, facts, listed, ""))
    late = EXPIRES + 2 * 86_400
    cases.append(_consent("two days after an entry expired, to the second", session, manifest, facts, whole, "", late))
    cases.append(_consent("a second later", session, manifest, facts, whole, "refused", late + 1))
    heavy = Session(5, size=21, rotate=1, weight_cap=5).manifest
    cases.append(_consent("policy: a larger weight cap", session, heavy, facts, whole, "refused"))
    inputs = {
        "site": ME, "identity_seed": session.seeds[ME].hex(), "roster": session.roster.encode().hex(), "loaded": facts,
    }  # fmt: skip
    for case in cases:
        if case["inputs"]["loaded"] == facts:
            del case["inputs"]["loaded"]
    about = (
        "A site whose home is new is handed a Manifest. loaded: what its training code found (the adapter in binary32 "
        "little-endian). policy: the rules that differ from the defaults of section 7.3. now: seconds since 1970."
    )
    return file(about, "7.3, 7.4, 7.5", "consent", cases, inputs)


def _consent(
    name: str,
    session: Session,
    manifest: Manifest,
    facts: Json,
    rules: Json,
    code: str,
    now: int = EXPIRES - 86_400 * 30,
) -> Json:
    inputs: Json = {"manifest": manifest.encode().hex(), "loaded": facts, "policy": rules, "now": now}
    try:
        reply = consenting(session, manifest.encode(), facts, policy_of(rules), now)
    except SecAggError as error:
        assert error.code == code, f"{name}: {error!r}"
        return bad(name, inputs, code)
    assert not code, name
    return good(name, inputs, {"reply": reply.head.hex()})
