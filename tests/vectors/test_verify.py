"""Does an implementation made from protocol_spec.md alone agree with the vectors, and with ours in live rounds?"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.ckks.params import choose
from tests.sim import Consortium, Dice, Packet, Position, Round, Update, random_update
from tests.vectors import verify

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.json"))
SIZE = 64 + 8 + 3  # three rotation blocks and a lane that is not full
PHASES = "advertise", "share", "mask", "consent", "unmask", "check"


def run_alone(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter that sees neither this repository nor the user's folders."""
    command = [sys.executable, "-I", *options, str(FOLDER / "verify.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd="/")


# ------------------------------------------------------------------ vectors


def test_the_vectors_are_right_to_an_implementation_that_loads_no_module_of_ours() -> None:
    ended = run_alone(FOLDER, "-X", "importtime")
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "import time:" in line}
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert len(FILES) > 70 and ended.stdout.count("\n  ok  ") > 850 and f"{len(FILES)} files" in ended.stdout
    assert "cryptography.hazmat.primitives.ciphers" in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"secagg", "fedclient", "fedserver", "keys", "benchmarks", "tests", "numpy", "nacl", "cbor2"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all texts, numbers and booleans in a value."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in pairs for leaf in leaves(item, (*path, key))]
    return [path]


def claims(form: str, case: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a case says must come of its inputs; `exact` only says how strictly."""
    said = [path for path in leaves(case) if path[0] in ("outputs", "error", "state", "phase") and path[-1] != "exact"]
    said += [
        path for path in leaves(case) if path[:2] == ("inputs", "steps") and path[-1] in ("code", "reply", "state")
    ]
    return [path for path in said if form != "server refuses" or path != ("error", "code")]  # its choice, spec §11.6


def altered(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ("1" if value[-1:] == "0" else "0").join((value[:-1], "")) if value else "00"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_vector_that_is_altered_in_one_place_is_found(path: Path, tmp_path: Path) -> None:
    whole = json.loads(path.read_text("utf-8"))
    for case in whole["cases"]:
        said = claims(whole["form"], case)
        *place, last = said[zlib.crc32(case["name"].encode()) % len(said)]
        at = reduce(getitem, place, case)
        at[last] = altered(at[last])
    (tmp_path / path.name).write_text(json.dumps(whole), "utf-8")
    unfound = [name for name, wrong in verify.check_file(tmp_path / path.name) if not wrong]
    assert unfound == []


@pytest.mark.parametrize(
    "change",
    [{"form": "another"}, {"cases": []}, {"more": 1}, {"inputs": {"more": 1}}, {"cases": [{"name": "x", "more": 1}]}],
    ids=["another form", "no case", "another key", "an input that nothing reads", "a field that nothing reads"],
)
def test_a_file_that_is_not_understood_fails(change: dict[str, Any], tmp_path: Path) -> None:
    whole = json.loads((FOLDER / "published" / "hkdf_sha256.json").read_text("utf-8"))
    (tmp_path / "changed.json").write_text(json.dumps({**whole, **change}), "utf-8")
    assert run_alone(tmp_path).returncode == 1


def test_a_folder_without_vectors_fails(tmp_path: Path) -> None:
    assert run_alone(tmp_path).returncode == 1


# ------------------------------------------------------------------ live rounds


class Theirs:
    """A site of the other implementation behind the interface that the simulation calls."""

    def __init__(self, site: verify.Site) -> None:
        self.site = site

    def handle(self, request: Packet) -> Packet:
        words = None if request.words is None else [int(word) for word in request.words]
        head, beside = self.site.answer(request.head, words)
        return Packet(head, None if beside is None else np.array(beside, np.uint64))


class Ours:
    """A site of ours behind the interface that the other server calls."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def answer(self, request: bytes) -> tuple[bytes, list[int] | None]:
        reply = self.client.handle(Packet(request))
        return reply.head, None if reply.words is None else reply.words.tolist()


def live(
    n: int, theirs: Sequence[str], context: Any = None, consortium: Consortium | None = None, **options: Any
) -> Round:
    """A round of our server in which some sites are the other implementation's; size, rotate: the manifest's."""
    consortium = consortium or Consortium(n)
    numbers = {"colluders": 0, "dropouts": 2} if n > 3 else {}
    size, rotate = options.pop("size", SIZE), options.pop("rotate", 1)
    numbers["scheme"] = options.pop("scheme", "masked")
    context = context or consortium.context(consortium.manifest(size, weight_cap=3, rotate=rotate, **numbers))
    updates = options.pop("updates", None) or {site: random_update(site, size, weight=2) for site in consortium.names}
    round_ = Round(consortium, context, updates, **options)
    for name in theirs:
        round_.clients[name] = Theirs(other_site(round_, name))  # type: ignore[assignment]
    return round_


def attempt_of(context: Any) -> verify.Attempt:
    """The attempt as the other implementation reads it, from encoded messages only."""
    encodings = (("Manifest", context.manifest), ("Roster", context.roster), ("RoundHeader", context.header))
    return verify.Attempt(*(verify.decode(kind, message.encode()) for kind, message in encodings))


def update_of(update: Update) -> verify.Update:
    metrics = update.metrics
    numbers = metrics.examples, metrics.train_loss, metrics.eval_tokens, metrics.eval_loss
    return verify.Update([float(value) for value in update.values], update.weight, *numbers)


def other_site(round_: Round, name: str, random: verify.Random | None = None) -> verify.Site:
    key, update = round_.consortium.keys[name].identity, update_of(round_.updates[name])
    kind = verify.SITES[round_.context.manifest.scheme]
    return kind(attempt_of(round_.context), name, key, update, random or Dice(("theirs", name)), verify.ANY_WEIGHT)


def published(aggregate: Any) -> tuple[bytes, list[int]]:
    return aggregate.payload.head, aggregate.payload.words.tolist()


def opening_of(round_: Round, aggregate: Any) -> bytes:
    """What the first survivor, whosever it is, opens the aggregate with."""
    name = aggregate.contributors[0]
    site = round_.clients[name]
    return site.site.opening if isinstance(site, Theirs) else round_.opening(site.to_bytes(), name)


def agree(round_: Round, aggregate: Any) -> verify.Opened:
    """Both openers find the same, to the bit."""
    opening = opening_of(round_, aggregate)
    ours = round_.scheme.open(round_.site_context, aggregate.payload, opening)
    theirs = verify.open_aggregate(attempt_of(round_.context), *published(aggregate), opening)
    assert verify.to_binary32(theirs.mean) == ours.values.astype("<f4").tobytes()
    assert (theirs.transcript, theirs.next_range_q40) == (ours.transcript, ours.next_range_q40)
    assert theirs.survivors == list(ours.contributors)
    assert {name: getattr(ours.totals, name) for name in theirs.totals} == theirs.totals
    return theirs


GONE: list[Mapping[str, Sequence[str]]] = [
    {},
    *({phase: ["site-02"]} for phase in PHASES),
    {"mask": ["site-02"], "unmask": ["site-05"]},
    {"share": ["site-06"], "check": ["site-03", "site-05"]},
]


SCHEMES = pytest.mark.parametrize("scheme", list(verify.SITES))


@SCHEMES
@pytest.mark.parametrize("theirs", [["site-04"], ["site-01", "site-04"]], ids=["one", "two"])
@pytest.mark.parametrize("gone", GONE, ids=str)
def test_sites_written_from_the_spec_take_part_in_our_round(
    gone: Mapping[str, Sequence[str]], theirs: list[str], scheme: str
) -> None:
    round_ = live(6, theirs, drop=gone, scheme=scheme)
    opened = agree(round_, round_.run())
    unseen = {site for phase in PHASES[:3] for site in gone.get(phase, ())}
    assert round_.refusals == {} and round_.server.faults == {}
    assert opened.survivors == sorted(set(round_.consortium.names) - unseen)
    states = {site.site.state for site in round_.clients.values() if isinstance(site, Theirs)}
    assert states == {"Checked"}


def test_a_long_vector_of_several_blocks_opens_to_the_same_bits() -> None:
    round_ = live(3, ["site-02"], size=4096 + 200 + 7)
    agree(round_, round_.run())


def test_a_ciphertext_of_several_blocks_opens_to_the_same_bits() -> None:
    round_ = live(3, ["site-02"], size=25_001, scheme="ckks")
    payload = attempt_of(round_.context).payload
    assert isinstance(payload, verify.Ciphertexts) and len(payload.ring.blocks) > 1
    agree(round_, round_.run())


@pytest.mark.parametrize("phase", PHASES)
def test_our_round_goes_on_when_the_other_site_falls_silent(phase: str) -> None:
    round_ = live(6, ["site-01", "site-04"], drop={phase: ["site-01"]})
    opened = agree(round_, round_.run())
    assert ("site-01" in opened.survivors) == (phase in PHASES[3:])
    assert round_.server.faults == {}


def test_the_other_site_has_its_words_travel_when_it_missed_the_check() -> None:
    round_ = live(5, ["site-01", "site-03"], drop={"check": ["site-03"]})
    aggregate = round_.run()
    agree(round_, aggregate)
    head, words = published(aggregate)
    given = verify.by_site(verify.decode("MaskedAggregate", head).projections)
    assert set(given) == set(round_.consortium.names) - {"site-03"}
    count = len(words) // 2
    assert words[count:] == round_.clients["site-03"].site.masked_words  # type: ignore[attr-defined]


@pytest.mark.parametrize("phase", PHASES[:5])
def test_too_few_sites_end_the_attempt_for_both(phase: str) -> None:
    silent = {phase: ["site-02"]}
    round_ = live(3, ["site-01"], drop=silent)
    with pytest.raises(Exception, match="site") as ours:
        round_.run()
    server, sites = other_server(live(3, []))
    with pytest.raises(verify.TooFewSites):
        list(verify.run(server, sites, silent))
    assert getattr(ours.value, "code", "") == verify.TooFewSites.code
    assert server.phase == phase


@SCHEMES
@pytest.mark.parametrize("place", [0, -9, -1], ids=["the first value", "the last value", "the peak"])
@pytest.mark.parametrize("error", [1, 1 << 63])
def test_the_other_opener_refuses_a_false_sum_of_our_round(place: int, error: int, scheme: str) -> None:
    round_ = live(5, ["site-02"], drop={"check": ["site-03"]}, scheme=scheme)
    aggregate = round_.run()
    (head, words), attempt, opening = published(aggregate), attempt_of(round_.context), opening_of(round_, aggregate)
    verify.open_aggregate(attempt, head, words, opening)
    behind = attempt.payload.sum_words
    for each in (range(behind)[place], range(behind, len(words))[place]):  # the sum, the words in place of projections
        false = [word + error & verify.WORD if i == each else word for i, word in enumerate(words)]
        with pytest.raises(verify.FaultyServer):
            verify.open_aggregate(attempt, head, false, opening)


def test_the_other_opener_reads_nothing_of_our_round_without_every_survivors_blind_seed() -> None:
    round_ = live(5, ["site-02"], drop={"mask": ["site-04"]}, scheme="ckks")
    aggregate = round_.run()
    attempt, seeds = attempt_of(round_.context), verify.decode("Opening", opening_of(round_, aggregate)).seeds
    assert {each.site for each in seeds} == set(round_.consortium.names)
    for gone in round_.consortium.names:
        opening = verify.encode(verify.Struct("Opening", tuple(each for each in seeds if each.site != gone)))
        if gone == "site-04":
            verify.open_aggregate(attempt, *published(aggregate), opening)
            continue
        with pytest.raises(verify.Sealed):
            verify.open_aggregate(attempt, *published(aggregate), opening)


def test_both_openers_refuse_a_false_sum_that_the_record_and_all_projections_were_made_for() -> None:
    round_ = live(5, [])
    server, sites = other_server(round_)
    trips = verify.run(server, sites, {})
    while next(trips)[0] != "unmask":
        pass
    server.vectors["site-02"][0] += 1
    next(trips)  # the server has unmasked, and asked for projections
    server.vectors["site-02"][0] -= 1
    assert list(trips) == [] and server.aggregate is not None and server.faults == {}
    head, words = server.aggregate
    assert len(verify.decode("MaskedAggregate", head).projections) == 5
    with pytest.raises(verify.FaultyServer, match="not that of the survivors"):
        verify.open_aggregate(server.attempt, head, words)
    assert blame(partial(round_.scheme.open, round_.site_context, Packet(head, np.array(words, np.uint64)))) == (
        "faulty-server",
        "",
    )


def other_server(round_: Round) -> tuple[verify.Server, dict[str, Any]]:
    """The other implementation's server, with our sites."""
    key = round_.consortium.server_keys.identity
    kind = verify.SERVERS[round_.context.manifest.scheme]
    server = kind(attempt_of(round_.context), key, round_.consortium.names)
    return server, {name: Ours(client) for name, client in round_.clients.items()}


@SCHEMES
@pytest.mark.parametrize("gone", GONE, ids=str)
def test_our_sites_take_part_in_a_round_of_the_other_server(gone: Mapping[str, Sequence[str]], scheme: str) -> None:
    round_ = live(6, [], scheme=scheme)
    server, sites = other_server(round_)
    list(verify.run(server, sites, gone))
    assert server.aggregate is not None and server.faults == {}
    head, words = server.aggregate
    name = min(server.vectors)
    opening = round_.opening(round_.clients[name].to_bytes(), name)
    opened = verify.audit(server.attempt, head, words, server.vectors, opening)
    ours = round_.scheme.open(round_.site_context, Packet(head, np.array(words, np.uint64)), opening)
    assert verify.to_binary32(opened.mean) == ours.values.astype("<f4").tobytes()
    assert opened.next_range_q40 == ours.next_range_q40


def test_an_audit_with_our_archive_finds_whose_bytes_are_wrong() -> None:
    round_ = live(5, ["site-02"], drop={"mask": ["site-04"], "check": ["site-03"]})
    aggregate = round_.run()
    survivors = [site for site in round_.consortium.names if site != "site-04"]
    vectors = {site: round_.sent[site].tolist() for site in survivors}
    verify.audit(attempt_of(round_.context), *published(aggregate), vectors)
    for site in survivors:
        false = {**vectors, site: [vectors[site][0] ^ 1, *vectors[site][1:]]}
        with pytest.raises(verify.Misuse) as found:
            verify.audit(attempt_of(round_.context), *published(aggregate), false)
        assert found.value.site == site


def test_an_audit_names_the_colluder_whose_late_choice_every_opener_accepts() -> None:
    round_ = live(5, [])
    server, sites = other_server(round_)
    colluder = "site-04"
    while server.phase != "check":
        server.receive([(site, *sites[site].answer(request)) for site, request in server.requests().items()])
    true = {site: list(words) for site, words in server.vectors.items()}
    later = [
        *true[colluder][:-1],
        true[colluder][-1] + (1 << 30) & verify.WORD,
    ]  # its peak, chosen after it saw the sum
    server.vectors[colluder] = later
    server._end_unmask()  # the record and the sum anew
    transcript = verify.transcript_of(verify.decode("RoundRecord", server.requests()[colluder]))
    values = verify.from_words(server.attempt.project(later, transcript))
    key, h0 = round_.consortium.keys[colluder].identity, server.attempt.h0
    signed = verify.sign(key, "Projections", colluder, transcript, values, h0=h0)
    honest = [(site, *sites[site].answer(request)) for site, request in server.requests().items() if site != colluder]
    server.receive([*honest, (colluder, verify.encode(signed), None)])
    assert server.aggregate is not None and server.faults == {}
    head, words = server.aggregate
    verify.open_aggregate(server.attempt, head, words)
    round_.scheme.open(round_.site_context, Packet(head, np.array(words, np.uint64)))
    with pytest.raises(verify.FaultySite) as found:
        verify.audit(server.attempt, head, words, true)
    assert found.value.site == colluder


def test_the_other_site_refuses_the_check_when_it_has_lost_its_words() -> None:
    round_ = live(5, ["site-02"]).until("check")
    site = round_.clients["site-02"].site  # type: ignore[attr-defined]
    site.masked_words = None
    with pytest.raises(verify.Refused):
        site.answer(round_.server.requests()["site-02"].head)
    assert site.state == "Spent"


def test_a_chain_of_our_rounds_leads_to_the_position_that_the_other_computes() -> None:
    consortium = Consortium(5)
    manifest = consortium.manifest(SIZE, weight_cap=3, colluders=0, dropouts=2)
    encoded, roster = manifest.encode(), verify.decode("Roster", consortium.roster.encode())
    theirs = verify.decode("Manifest", encoded)
    chain = verify.Chain(theirs, roster, [0.0] * SIZE, verify.start(theirs))
    for attempt, gone in ((1, {}), (3, {"mask": ["site-05"]}), (2, {"check": ["site-01"]})):
        position = Position(*chain.position.values)
        context = consortium.context(manifest, attempt, position)
        assert verify.encode(chain.attempt(attempt).header) == context.header.encode()
        round_ = live(5, ["site-03"], context, consortium, drop=gone)
        aggregate = round_.run()
        agree(round_, aggregate)
        chain.advance(attempt, *published(aggregate))
    assert chain.position.round == 3 and any(chain.adapter)


@pytest.mark.parametrize("bits", [4, 8, 12, 20])
def test_both_choose_the_same_ring_for_a_session(bits: int) -> None:
    dice = Dice(("rings", bits))
    for _ in range(150):
        sites, weight_cap = (
            3 + dice(1)[0] % 98,
            1 + int.from_bytes(dice(4), "big") % (1 << 1 + dice(1)[0] % (30 - bits)),
        )
        size = 1 + int.from_bytes(dice(4), "big") % (1 << 1 + dice(1)[0] % 29)
        ours, theirs = choose(bits, sites, weight_cap, size), verify.ring_of(sites, weight_cap, bits, size)
        assert (ours.ring_size, ours.primes, ours.fields) == (theirs.degree, theirs.primes, theirs.fields)
        assert (ours.field_bits, ours.delta_bits, ours.residues) == (theirs.width, theirs.delta, theirs.numbers)
        assert (ours.key_lane_bits, ours.key_words) == (theirs.key_bits, theirs.key_words)


# ------------------------------------------------------------------ two sites that hold the same secrets


class Faults:
    """Spoils requests: one place of one member, a member too few, the header or the cohort; signed anew or not."""

    def __init__(self, seed: object, round_: Round) -> None:
        self._dice, self._consortium = Dice(seed), round_.consortium
        self._h0 = attempt_of(round_.context).h0

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int.from_bytes(self._dice(4), "big") % len(choices)]

    def spoiled(self, request: verify.Struct) -> verify.Struct:
        values = list(request.values)
        at = self.pick(range(len(values) - (request.kind == "RoundOpen")))
        value = values[at]
        if isinstance(value, verify.Struct) and value.kind == "ShareBundle":
            values[at] = self.spoiled(value)
        elif not isinstance(value, tuple):
            values[at] = self._changed(value)
        elif self.pick((True, False, False)) and len(value) > 1:
            gone = self.pick(value)
            values[at] = tuple(member for member in value if member is not gone)
        elif value:
            old = self.pick(value)
            new = "zeta" if isinstance(old, str) else self._member(old, self.pick(value))
            values[at] = tuple(sorted((new if x is old else x for x in value), key=lambda x: getattr(x, "site", x)))
        return self._signed(request.kind, self._consortium.server_keys.identity, values)

    def _member(self, old: verify.Struct, other: verify.Struct) -> verify.Struct:
        """A member with one field changed, zero, or another's."""
        values = list(old.values)
        at = self.pick(range(len(values)))
        values[at] = self.pick((self._changed(values[at]), other.values[at], bytes(32), values[-2]))
        if not isinstance(values[0], str):
            values[0] = "zeta"
        key = self._consortium.keys.get(values[0])
        return self._signed(old.kind, key and key.identity, values)

    def _changed(self, value: Any) -> Any:
        if isinstance(value, verify.Struct):
            values = list(value.values)
            at = self.pick(range(len(values)))
            values[at] = self._changed(values[at])
            return verify.Struct(value.kind, *values)
        if isinstance(value, bytes):
            return bytes([value[0] ^ 1]) + value[1:]
        return "zeta" if isinstance(value, str) else value + 1

    def _signed(self, kind: str, key: Any, values: list[Any]) -> verify.Struct:
        if kind in verify.SIGNED and key and self.pick((True, True, False)):
            return verify.sign(key, kind, *values[:-1], h0=self._h0)
        return verify.Struct(kind, *values)


def blame(act: Callable[[], Any]) -> tuple[str, str]:
    """The code, and the site named, of what an act raises."""
    try:
        act()
    except Exception as error:
        return getattr(error, "code", repr(error)), getattr(error, "site", "") or ""
    return "accepted", ""


@SCHEMES
@pytest.mark.parametrize("seed", range(4))
def test_of_requests_with_up_to_three_faults_both_refuse_the_same_and_blame_the_same_site(
    seed: int, scheme: str
) -> None:
    consortium, name, replies = Consortium(6), "site-03", dict[str, bytes]()
    updates = {site: coarse(random_update(site, SIZE, weight=2)) for site in consortium.names}
    options = {"drop": {"mask": ["site-02"]} if seed % 2 else {}, "updates": updates, "rotate": 0, "scheme": scheme}
    round_ = live(6, [], consortium=consortium, **options)
    round_.alter_reply = lambda _phase, site, reply: replies.update({site: reply.head}) or reply
    dice = Dice((round_.seed, name, 1))  # the bytes that the simulation gives ours
    twin, faults, refused = other_site(round_, name, dice), Faults(seed, round_), set[str]()
    while not round_.server.done:
        right = verify.decode_one_of(twin.requests, round_.server.requests()[name].head)
        for _ in range(60):
            request = right
            for _ in range(faults.pick((1, 1, 2, 3))):
                request = faults.spoiled(request)
            trial = copy(twin)
            trial.random, trial.ledger = Dice("trial"), verify.Ledger(twin.ledger.session, twin.ledger.lines)
            theirs = blame(partial(trial.answer, verify.encode(request)))
            if theirs[0] == "accepted":  # a cohort or quorum of one less may be fine
                continue
            assert blame(partial(round_.clients[name].handle, Packet(verify.encode(request)))) == theirs, request
            refused.add(theirs[0])
        reply, words = twin.answer(verify.encode(right))
        round_.step()
        assert replies[name] == reply
        assert words is None or round_.sent[name].tolist() == words
    agree(round_, round_.server.result())
    assert refused == {"malformed", "refused", "faulty-server", "faulty-site", "faulty-peer-or-server"}


@pytest.mark.parametrize(("scheme", "count"), [("masked", 240), ("ckks", 80)])
def test_of_aggregates_with_up_to_three_faults_both_openers_refuse_the_same_and_blame_the_same_site(
    scheme: str, count: int
) -> None:
    round_ = live(6, [], drop={"mask": ["site-02"], "check": ["site-05"]}, scheme=scheme)
    made, attempt = round_.run(), attempt_of(round_.context)
    (head, words), opening = published(made), opening_of(round_, made)
    aggregate, faults, refused = verify.decode("MaskedAggregate", head), Faults("openers", round_), set[str]()
    for _ in range(count):
        record, projections, beside = *aggregate.values, list(words)
        for _ in range(faults.pick((1, 1, 2, 3))):
            where = faults.pick(("record", "projections", "projections", "projections", "words"))
            if where == "record":
                record = faults.spoiled(record)
            elif where == "projections":
                (projections,) = faults.spoiled(verify.Struct("list", projections)).values
            else:
                beside[faults.pick(range(len(beside)))] ^= 1 << 40
        encoded = verify.encode(verify.Struct("MaskedAggregate", record, projections))
        theirs = blame(partial(verify.open_aggregate, attempt, encoded, beside, opening))
        packet = Packet(encoded, np.array(beside, np.uint64))
        assert blame(partial(round_.scheme.open, round_.site_context, packet, opening)) == theirs, (record, projections)
        refused.add(theirs[0])
    assert refused >= {"malformed", "refused", "faulty-server", "faulty-peer-or-server"}


def coarse(update: Update) -> Update:
    """An update that rounds to the same words in binary32 and in binary64."""
    return replace(update, values=(np.round(update.values * 64) / 64).astype(np.float32))
