"""protocol_spec.md says what the code does: its tables are parsed and compared, one claim a test."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keys.params
import keys.public
from secagg import chain, config, enrol, errors, identity, labels, lanes, tally, thresholds, wire
from secagg.ckks import messages as ckks_messages
from secagg.ckks import sampling
from secagg.ckks import states as ckks_states
from secagg.ckks.params import choose
from secagg.ckks_shared import keys as shared_keys
from secagg.ckks_shared import messages as shared_messages
from secagg.initial import initial_adapter
from secagg.lanes import pack
from secagg.masked import messages, server, states
from secagg.masked.client import TRANSITIONS
from secagg.masked.messages import SurvivorSignature, seed_commitment
from secagg.primitives import shamir
from secagg.primitives.agreement import derive
from secagg.primitives.prg import Stream
from secagg.quantize import Quantizer, QuantizerParams
from secagg.quantize import params as quantize_params
from secagg.session import InMemory, Packet
from secagg.vector import Layout, adapter_digest
from tests.independent_site import IndependentSite, Parameters, open_mean
from tests.sim import Consortium, Dice, Round, plain_mean, random_update

ROOT = Path(__file__).parent.parent
SPEC = (ROOT / "protocol_spec.md").read_text(encoding="utf-8")
PACKAGES = ("secagg", "keys", "fedclient", "fedserver", "benchmarks", "tests")
MODULES = (
    chain, config, enrol, identity, quantize_params, messages, ckks_messages, ckks_states, shared_keys, shared_messages,
    keys.public,
)  # fmt: skip
_HEADING = re.compile(r"^#{2,4} (?:Appendix )?(\d+(?:\.\d+)*|[A-Z])\b", re.MULTILINE)
_CITATION = re.compile(r"spec §[\d., §-]*\d")
_CAPTION = re.compile(r"^\*\*`(\w+)`\*\* \((.*)\)$", re.MULTILINE)

Row = tuple[str, ...]


# ------------------------------------------------------------------ reading the Markdown


@cache
def section(number: str) -> str:
    """The text of one section with its subsections."""
    start = re.search(rf"^(#+) {re.escape(number)} ", SPEC, re.MULTILINE)
    assert start, f"the spec lacks section {number}"
    rest = SPEC[start.end() :]
    stop = re.search(rf"^#{{2,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: stop.start()] if stop else rest


def tables(text: str) -> Iterator[tuple[Row, list[Row]]]:
    """Every table: its head and its rows, cells without backticks."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = (
            [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in block.splitlines()
        )
        yield tuple(head), [tuple(row) for row in rows]


def table(text: str, *head: str) -> list[Row]:
    """The rows of the one table with this head."""
    found = [rows for names, rows in tables(text) if names == head]
    assert len(found) == 1, f"{len(found)} tables with the columns {head}"
    return found[0]


def number(text: str) -> int:
    """'2^31', '2^53 - 1', '100000'."""
    power = re.fullmatch(r"2\^(\d+)(?: ([+-]) (\d+))?", text)
    if power is None:
        return int(text)
    extra = int(power[3] or 0)
    return (1 << int(power[1])) + (extra if power[2] == "+" else -extra)


# ------------------------------------------------------------------ messages


def structs() -> dict[str, type[wire.Struct]]:
    """Every struct that travels, is signed or is logged."""
    values = [value for module in MODULES for value in vars(module).values()]
    found = {each for each in values if isinstance(each, type) and issubclass(each, wire.Struct)}
    return {each.__name__: each for each in found - {wire.Struct}}


def described() -> dict[str, tuple[str, list[Row]]]:
    """Each struct of the spec: what stands in brackets behind its name, and its rows."""
    found = {}
    for caption in _CAPTION.finditer(SPEC):
        (head, rows) = next(tables(SPEC[caption.end() :]))
        assert head == ("field", "holds", "meaning")
        found[caption[1]] = caption[2], rows
    return found


def span_in(text: str) -> tuple[int, int]:
    """'3..100' or '32'."""
    low, _, high = text.partition("..")
    return number(low), number(high or low)


def holds(rule: wire.FieldRule) -> tuple[Any, ...]:
    """A field's rule as plain values."""
    if isinstance(rule.kind, tuple):
        assert isinstance(rule.rule, wire.Items)
        inner = holds(wire.FieldRule("", rule.kind[1], rule.kind[2]))
        return "list", (rule.rule.least, rule.rule.most), rule.rule.by, inner
    if isinstance(rule.rule, wire.SiteName):
        return ("name",)
    if isinstance(rule.rule, wire.Length | wire.Range):
        kind = {bytes: "bytes", str: "text", int: "int"}[rule.kind]
        return kind, (rule.rule.least, rule.rule.most)
    return "struct", rule.kind.__name__


def holds_in(text: str) -> tuple[Any, ...]:
    """The same from a cell of the spec."""
    listed = re.fullmatch(r"(\S+) of (.*), (any order|ascending(?: by (\w+))?)", text)
    if listed:
        by = None if listed[3] == "any order" else listed[4] or ""
        return "list", span_in(listed[1]), by, holds_in(listed[2])
    scalar = re.fullmatch(r"(bytes|text|int) (.*)", text)
    if scalar:
        return scalar[1], span_in(scalar[2])
    return ("name",) if text == "name" else ("struct", text)


def test_the_spec_describes_exactly_the_structs_of_the_code() -> None:
    assert set(described()) == set(structs())


@pytest.mark.parametrize("name", sorted(structs()))
def test_every_struct_has_the_tag_limit_fields_and_rules_that_the_spec_gives(name: str) -> None:
    struct, (caption, rows) = structs()[name], described()[name]
    tag, *_, limit = caption.split(", ")
    assert tag == (f"tag {struct.TAG}" if struct.TAG else "no tag")
    assert number(limit.removeprefix("at most ").removesuffix(" bytes")) == struct.LIMIT
    rules = wire.field_rules(struct)
    assert [row[0] for row in rows] == [rule.name for rule in rules]
    assert [holds_in(row[1]) for row in rows] == [holds(rule) for rule in rules]


def test_every_message_goes_in_the_direction_that_the_spec_gives() -> None:
    travels = [*messages.REQUESTS, *messages.REPLIES]
    travels += [
        value for value in vars(enrol).values() if isinstance(value, type) and value.__module__ == enrol.__name__
    ]
    for struct in (each for each in travels if each.TAG):
        said = re.search(r"server to site|site to server", (struct.__doc__ or "").lower())
        if said:
            assert said[0] in described()[struct.__name__][0], struct.__name__
    assert all("server to site" in described()[each.__name__][0] for each in messages.REQUESTS)
    assert all("site to server" in described()[each.__name__][0] for each in messages.REPLIES)


def test_no_tag_stands_for_two_structs() -> None:
    tags = [each.TAG for each in (*structs().values(), *states.STATES.values()) if each.TAG]
    assert len(tags) == len(set(tags))


# ------------------------------------------------------------------ masked mode


def test_the_trips_are_those_of_the_spec() -> None:
    rows = table(section("11.1"), "trip", "phase", "request", "reply")
    trips = zip(server.PHASES, messages.REQUESTS, messages.REPLIES, strict=True)
    assert rows == [(str(i), phase, a.__name__, b.__name__) for i, (phase, a, b) in enumerate(trips)]


def test_the_states_hold_what_the_spec_lists_and_nothing_else() -> None:
    rows = table(section("11.3"), "state", "tag", "stage", "holds")
    assert [row[0] for row in rows] == [state.__name__ for state in states.STATES.values()]
    for (name, tag, stage, held), state in zip(rows, states.STATES.values(), strict=True):
        fields = [rule.name for rule in wire.field_rules(state)]
        assert int(tag) == state.TAG
        assert (held.split(", ") if fields else held.startswith("nothing")) == (fields or True)
        assert int(stage) == ((*chain.STAGES,).index(name.lower()) + 1 if name != "Fresh" else 0)


def matrix() -> dict[tuple[str, str], str]:
    """(state, message) -> cell of the table of transitions."""
    (head, rows), *_ = tables(section("11.4"))
    assert head == ("state", *(each.__name__ for each in messages.REQUESTS))
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)}


def test_the_table_of_transitions_has_a_cell_for_every_state_and_message() -> None:
    assert set(matrix()) == {(s.__name__, m.__name__) for s in states.STATES.values() for m in messages.REQUESTS}


def test_exactly_the_transitions_of_the_spec_are_legal() -> None:
    legal = {pair for pair, cell in matrix().items() if cell != errors.FaultyServer.code}
    assert legal == {(state.__name__, message.__name__) for state, message in TRANSITIONS}


def test_every_transition_leads_to_the_state_that_the_spec_names() -> None:
    consortium = Consortium(3)
    context = consortium.context(consortium.manifest(5))
    round_ = Round(consortium, context, {site: random_update(site, 5) for site in consortium.names})
    stage, cells = "Fresh", matrix()
    for request in messages.REQUESTS:
        round_.server.receive(round_._exchange(round_.server.phase, set()))
        stage = cells[stage, request.__name__]
        assert {client.stage for client in round_.clients.values()} == {stage.lower()}


def test_every_phase_of_the_server_is_described_with_its_least_number_of_answers() -> None:
    rows = table(section("11.6"), "phase", "asks", "checks of a reply", "least")
    assert [row[0] for row in rows] == list(server.PHASES)
    consortium = Consortium(12)
    manifest = consortium.manifest(5, dropouts=2, threshold=9, least_survivors=10)
    numbers = {"m": manifest.least_survivors, "q": manifest.quorum, "t": manifest.threshold, "0": 0}
    assert len(set(numbers.values())) == 4
    session = server.MaskedServer(consortium.context(manifest), consortium.server_keys, InMemory())
    for index, row in enumerate(rows):
        session._phase = index
        assert session._plan()[2] == numbers[row[3]]


# ------------------------------------------------------------------ labels, numbers, names


def test_every_label_of_the_code_is_registered_and_no_other() -> None:
    prefix = labels.PROTOCOL + b" "
    rows = table(section("8.2"), "label", "purpose", "used for")
    said = {name: prefix + purpose.encode("ascii") + b"\x00" for name, purpose, _ in rows}
    code = {name: value for name, value in labels.ALL.items() if name != "PROTOCOL"}
    code |= {
        name: value for name, value in vars(keys.params).items() if type(value) is bytes and value.startswith(prefix)
    }
    assert said == code
    assert len(set(code.values())) == len(code) == len(rows)
    assert labels.PROTOCOL.decode() in section("8.1")


def test_every_reserved_label_is_unused_and_every_other_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in python_files() if path.name != "labels.py")
    for name, _, purpose in table(section("8.2"), "label", "purpose", "used for"):
        used = re.search(rf"\b{name}\b", source.replace(f"{name}: Final", ""))
        assert bool(used) == (purpose != "reserved"), name


def test_every_parameter_has_the_value_that_the_spec_gives() -> None:
    for what, value, where in table(section("19"), "parameter", "value", "in the code"):
        module, _, name = where.rpartition(".")
        assert getattr(importlib.import_module(module), name) == number(value), what
    widths = re.search(r"^Lane widths: (.*)\.$", section("19"), re.MULTILINE)
    assert widths and tuple(int(each) for each in widths[1].split(", ")) == lanes.LANE_BITS


def test_the_tally_words_stand_in_the_order_of_the_spec() -> None:
    rows = table(section("10.6"), "word", "a site sends", "largest sum over k survivors")
    assert tuple(row[0] for row in rows) == tally.WORDS


def test_a_tally_at_the_spec_s_bounds_is_accepted_and_one_above_is_not() -> None:
    k, size, cap = 7, 11, 5
    rows = table(section("10.6"), "word", "a site sends", "largest sum over k survivors")
    factor = {"W": cap, "d": size}
    bounds = []
    for _, _, bound in rows:
        parts = bound.split(",")[0].split(" ")
        bounds.append(k * (factor.get(parts[1]) or number(parts[1])) if len(parts) > 1 else k)
    words = np.array(bounds, np.uint64)
    tally.Tally.from_sum(words, k, size, cap)
    for index in range(len(words)):
        more = words.copy()
        more[index] += 1
        with pytest.raises(errors.FaultyServer):
            tally.Tally.from_sum(more, k, size, cap)


def test_the_stages_of_the_log_are_those_of_the_spec() -> None:
    rows = table(section("16.1"), "stage", "name", "the reply")
    assert [(int(stage), name) for stage, name, _ in rows] == list(enumerate(chain.STAGES, 1))
    assert [reply for *_, reply in rows] == [each.__name__ for each in messages.REPLIES]


def test_the_threshold_table_is_what_the_code_computes() -> None:
    rows = table(section("7.2"), "n", "c", "d", "t", "q", "m")
    assert len(rows) > 5
    for row in rows:
        n, c, d, t, q, m = (int(cell) for cell in row)
        assert thresholds.plan(n) == thresholds.Thresholds(n, c, d, t, q, m)


def test_the_policy_s_rules_and_defaults_are_those_of_the_spec() -> None:
    policy = config.Policy()
    rows = table(section("7.3"), "rule", "default", "refuses")
    assert [row[0] for row in rows] == list(config.Policy.__dataclass_fields__)
    for name, default, _ in rows:
        value = getattr(policy, name)
        shown = ", ".join(value) or "any" if isinstance(value, tuple) else str(value)
        assert shown == default, name


def test_the_kinds_of_requests_are_those_that_a_site_handles() -> None:
    from fedclient.site import HANDLERS

    rows = table(section("7.4"), "kind", "request", "followed by", "reply")
    assert [row[0] for row in rows] == list(HANDLERS)


def test_the_settings_are_those_that_a_server_proposes() -> None:
    from fedserver.plan import Plan

    named = {name for row in table(section("7.5"), "setting", "meaning") for name in row[0].split(", ")}
    blank = {
        each.name: 1 if each.name == "rounds" else "x"
        for each in fields(Plan)
        if each.default is each.default_factory is MISSING
    }
    assert named == set(Plan(**blank).settings())  # type: ignore[arg-type]


# ------------------------------------------------------------------ errors


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield from subclasses(each)
        if not each.__name__.startswith("_"):
            yield each


def test_the_errors_and_their_codes_are_those_of_the_spec() -> None:
    rows = table(section("3.4"), "error", "code", "means")
    ours = {each for each in subclasses(errors.SecAggError) if each.__module__ == errors.__name__}
    assert {(name, code) for name, code, _ in rows} == {(each.__name__, each.code) for each in ours}  # type: ignore[attr-defined]


def packets_module() -> Any:
    return importlib.import_module("fedclient.packets")  # imports flwr, which takes a second


def test_exactly_the_codes_of_the_spec_may_leave_a_site() -> None:
    rows = table(section("16.4"), "code", "meaning")
    assert {row[0] for row in rows} == set(packets_module().REFUSAL_CODES)
    assert {each.code for each in subclasses(errors.SecAggError)} <= {row[0] for row in rows}  # type: ignore[attr-defined]


def test_the_records_of_a_flower_message_have_the_names_of_the_spec() -> None:
    packets = packets_module()
    rows = table(section("17.1"), "content", "record", "kind of record", "holds")
    head, words = packets.HEAD, packets.WORDS
    assert [row[1] for row in rows] == [f"{head}.N", f"{words}.N", head, words, packets.REFUSAL]
    text = " ".join(section("17.1").split())
    assert all(f"`{name}`" in text for name in (packets.DTYPE, packets.STYPE))
    assert f"1 to {packets.MAX_PACKETS} packets" in text
    assert f"{packets.MAX_HEAD_BYTES >> 20} MiB" in text


# ------------------------------------------------------------------ citations


def python_files() -> Iterable[Path]:
    return (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))


def test_every_section_that_the_code_cites_exists() -> None:
    headings = set(_HEADING.findall(SPEC))
    cited = {
        (path.relative_to(ROOT).as_posix(), each)
        for path in python_files()
        for citation in _CITATION.findall(path.read_text(encoding="utf-8"))
        for each in re.findall(r"\d+(?:\.\d+)*", citation)
    }
    assert len(cited) > 40
    assert sorted((path, each) for path, each in cited if each not in headings) == []


def test_every_section_that_the_spec_cites_exists() -> None:
    headings = set(_HEADING.findall(SPEC))
    own = re.sub(r"RFC \d+ section [\d.]+", "", " ".join(SPEC.split()))
    runs = re.findall(r"[Ss]ections? ((?:\d+(?:\.\d+)*(?:, | and | to )?)+)", own)
    cited = {each for run in runs for each in re.findall(r"\d+(?:\.\d+)*", run)}
    assert len(cited) > 30
    assert cited - headings == set()


# ------------------------------------------------------------------ known answers


def counting(count: int, start: int = 0) -> bytes:
    return bytes(range(start, start + count))


def known() -> list[str]:
    """The third column of the appendix, computed."""
    signature = SurvivorSignature("a", counting(32), bytes(64)).encode()
    layout = Layout((("q.lora_A.weight", (1, 4)), ("q.lora_B.weight", (2, 1))))
    first = initial_adapter(layout, counting(32))
    ones, twos, threes, fours = (bytes([value]) * 32 for value in (1, 2, 3, 4))
    h0 = config.RoundHeader(1, ones, 1, 1, "masked", twos, threes, ones, fours, 1 << 40).digest()
    shares = shamir.split(counting(32), 3, [1, 2, 3], lambda _: b"".join(x.to_bytes(64, "big") for x in (7, 6)))
    packed = pack(np.arange(10, dtype=np.uint32), 12, np.empty(2, np.uint64))
    quantizer = Quantizer(QuantizerParams(8, 12, 1, 1, 0), 3, 7, 1 << 40, counting(48))
    lane_sums = np.array([0, 100, 200, 300, 400, 500, 510, 0, 0, 0], np.uint32)
    mean = quantizer.open(pack(lane_sums, 12, np.empty(2, np.uint64)), 2).values
    info = labels.SHARE_KEY + bytes([0, 0, 0, 1, 0, 0, 0, 2])
    return [
        f"{signature[:6].hex()} ... ({len(signature)} bytes)",
        identity.fingerprint(counting(32)),
        Stream(counting(48)).read(16).hex(),
        derive(counting(32), counting(32, 32), info, 32).hex(),
        shares[2].hex(),
        layout.digest().hex(),
        first.astype("<f4").tobytes().hex(),
        adapter_digest(layout, first).hex(),
        h0.hex(),
        seed_commitment(h0, counting(32)).hex(),
        derive(h0, b"", labels.ROTATION, 48).hex(),
        packed.astype("<u8").tobytes().hex(),
        mean.astype("<f4").tobytes().hex(),
        *known_of_ckks(h0),
    ]


def known_of_ckks(h0: bytes) -> list[str]:
    """The rows of section 13."""
    params, key = choose(8, 5, 1, 100_000), sampling.one_time_key(counting(64), 4096)
    numbers = params.ring_size, len(params.primes), params.field_bits, params.fields, params.delta_bits
    public = sampling.public_element(choose(8, 3, 1, 24), h0, 0)
    update = sampling.update_digest(np.array([0.5, -0.25], np.float32), 1)
    return [
        ", ".join(map(str, numbers)),
        sampling.hedged_seed(counting(32), h0, 3, update).hex(),
        key[:8].tobytes().hex(),
        b"".join(int(entry).to_bytes(3, "little") for entry in public[0, :4]).hex(),
        ckks_messages.blind_commitment(h0, bytes([0, 0, 0, 3]), counting(32)).hex(),
    ]


def test_the_known_answers_are_what_the_code_computes() -> None:
    text = SPEC[SPEC.index("## Appendix A") :]
    assert [row[2] for row in table(text, "what", "of", "is")] == known()


def test_the_first_known_answers_follow_from_the_standards_alone() -> None:
    label = b"secagg-lora/v1 fingerprint\x00"
    digest = hashlib.sha256(label + counting(32)).hexdigest()
    assert known()[1].replace(" ", "") == digest


# ------------------------------------------------------------------ interoperation


def independent(consortium: Consortium, context: config.RoundContext, site: str, size: int) -> IndependentSite:
    """A site of the other implementation, in the place of one of ours."""
    manifest, header, update = context.manifest, context.header, random_update(site, size, weight=2)
    quantizer, metrics = manifest.quantizer, update.metrics
    return IndependentSite(
        site,
        consortium.keys[site].identity,
        Parameters(
            {name: place for place, name in enumerate(consortium.names, 1)},
            manifest.threshold, quantizer.bits, quantizer.lane_bits, bool(quantizer.rotate), header.range_q40,
            [header.suite, header.session, header.round, header.attempt, header.scheme, header.roster,
             header.adapter, header.previous, header.graph, header.range_q40],
        ),
        [float(value) for value in update.values],
        update.weight,
        (metrics.examples, metrics.train_loss, metrics.eval_tokens, metrics.eval_loss),
        Dice(("independent", site)),
    )  # fmt: skip


class Adapted:
    """The other implementation's site behind the interface that the simulation calls."""

    def __init__(self, site: IndependentSite) -> None:
        self._site = site

    def handle(self, request: Packet) -> Packet:
        head, words = self._site.answer(request.head)
        return Packet(head, None if words is None else np.array(words, np.uint64))


@pytest.mark.parametrize("gone", [{}, {"mask": ["site-02"]}, {"mask": ["site-03"], "consent": ["site-05"]}])
def test_a_site_written_from_the_spec_alone_takes_part_and_the_sum_is_the_same(gone: dict[str, list[str]]) -> None:
    size = 4096 + 200 + 7
    consortium = Consortium(6)
    context = consortium.context(consortium.manifest(size, weight_cap=3, colluders=0, dropouts=2))
    updates = {site: random_update(site, size, weight=2) for site in consortium.names}
    round_ = Round(consortium, context, updates, drop=gone)
    for site in ("site-01", "site-04"):
        round_.clients[site] = Adapted(independent(consortium, context, site, size))  # type: ignore[assignment]
    aggregate = round_.run()
    mean = round_.mean(aggregate, "site-06")
    step = 2 * context.header.range_q40 / 2.0**40 / context.manifest.quantizer.levels
    error = mean.values - plain_mean(updates, mean.contributors)
    assert round_.refusals == {} and round_.server.faults == {}
    assert set(mean.contributors) == set(consortium.names) - set(gone.get("mask", ()))
    assert float(np.sqrt(np.mean(error**2))) < step  # a rotated rounding error is below one step at each site
    assert mean.totals.weight == 2 * len(mean.contributors)
    silent = len(gone.get("consent", ()))  # their words stand behind the sum
    total = aggregate.payload.words.reshape(1 + silent, -1)[0]  # type: ignore[union-attr]
    words = [int(word) for word in total[: -len(tally.WORDS)]]
    parameters = independent(consortium, context, "site-01", size).parameters
    assert open_mean(parameters, size, words, mean.totals.weight) == mean.values.astype("<f4").tobytes()


# ------------------------------------------------------------------ pointers to tests


def pointers(text: str) -> set[str]:
    """Every test that the text names, as file::function."""
    return set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", text))


def exists(pointer: str) -> bool:
    """Whether the file defines the test."""
    path, _, name = pointer.partition("::")
    file = ROOT / path
    return file.exists() and re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_test_that_the_spec_points_to_exists() -> None:
    assert sorted(each for each in pointers(SPEC) if not exists(each)) == []


def test_every_claim_of_the_table_points_to_a_test() -> None:
    marks = dict(table(section("3.2"), "mark", "shown by"))
    claims = table(section("3.2"), "adversary", "masked", "ckks", "ckks-shared", "with DP")
    used = set(re.findall(r"\[([CKS]\d+)\]", section("3.2")))
    assert used == marks.keys()
    for adversary, *cells in claims:
        assert all(
            cell == "reserved" or re.search(r"\[[CKS]\d", cell) or "no test can show it" in cell for cell in cells
        ), adversary
    assert all("tests/" in tests for tests in marks.values())


def test_every_attack_has_a_paragraph_with_a_test() -> None:
    paragraphs = re.findall(r"^\*\*(.+?)\.\*\*(.*?)(?=^\*\*|\Z)", section("18.1"), re.MULTILINE | re.DOTALL)
    assert len(paragraphs) > 20
    assert [name for name, text in paragraphs if not pointers(text)] == []
