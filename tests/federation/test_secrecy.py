"""What leaves a site, what stays on its disk, and for how long."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from nacl.secret import SecretBox

from fedclient.app import make_app
from fedclient.packets import REFUSAL, SiteRefusal, encode_packets
from fedclient.settings import LocalError
from fedclient.site import HANDLERS
from fedserver.plan import ServerError
from secagg.errors import FaultySite, Misuse, Refused, SecAggError
from secagg.masked.states import Advertised, Checked, Masked, Shared, Signed, Spent, State, decode_state
from secagg.session import Metrics, Packet
from tests.federation.direct import LAYOUT, Bench, Killed, Where

VICTIM = "site-02"
PATH = "/srv/CANARY/patients.jsonl"
TEXT = "CANARY Mrs Smith"
VALUE = np.float32(0.12345679)  # its four bytes are looked for wherever there are bytes
EXAMPLES = 7_654_321  # and this count, in CBOR, in words and in decimal
LOSS = 3.14159


# ---------------------------------------------------------------------- what leaves


def canary(bench: Bench) -> None:
    """One site whose update, count, loss, paths and texts would be recognised anywhere."""
    learner = bench.learners[VICTIM]
    values = np.full(LAYOUT.size, VALUE, np.float32)
    metrics = Metrics(examples=EXAMPLES, train_loss=LOSS, eval_loss=LOSS, eval_tokens=EXAMPLES)
    learner.train = lambda adapter, round_: (values, metrics)  # type: ignore[method-assign]


def traces() -> Iterator[bytes]:
    yield from (b"CANARY", b"patients", b"Smith", str(EXAMPLES).encode(), b"3.14159", b"0.1234567")
    yield VALUE.tobytes()
    yield VALUE.astype(np.float64).tobytes()
    yield EXAMPLES.to_bytes(4, "big")
    yield EXAMPLES.to_bytes(4, "little")


def everything_seen(bench: Bench) -> bytes:
    """The server's journal and every packet and refusal that left the site."""
    seen = [bench.journal.read_bytes()]
    for where, answer in bench.link.sent:
        if where.site == VICTIM and isinstance(answer, SiteRefusal):
            seen.append(json.dumps([answer.code, answer.site]).encode())
        elif where.site == VICTIM:
            seen += [answer.head, b"" if answer.words is None else answer.words.tobytes()]  # type: ignore[union-attr]
    return b"|".join(seen)


def assert_no_trace(seen: bytes) -> None:
    for trace in traces():
        assert trace not in seen, trace


def test_nothing_that_leaves_a_site_or_stands_in_the_journal_shows_its_update_counts_or_losses(bench: Bench) -> None:
    canary(bench)
    bench.run()
    assert bench.contributors() == [bench.names] * 2
    assert_no_trace(everything_seen(bench))


@pytest.mark.parametrize("lost", ["mask", "consent", "unmask"])
def test_nothing_shows_when_the_site_drops_out_and_the_round_is_void(bench: Bench, lost: str) -> None:
    canary(bench)

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        return None if where.asks(lost) and where.site in ("site-04", "site-05") else packets

    bench.link.alter_request = request
    if lost == "unmask":
        with pytest.raises(ServerError):
            bench.run()
    else:
        bench.run()
    assert_no_trace(everything_seen(bench))


@pytest.mark.parametrize(
    "error",
    [
        LocalError(f"cannot read {PATH}: {TEXT}", f"look at {PATH}"),
        Misuse(f"{TEXT} {VALUE}"),
        Refused(f"{PATH}"),
        FaultySite("site-03", TEXT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_leaves_as_a_code_and_at_most_a_name(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real ClientApp: the message that goes back holds two short texts from a list."""
    for name in ("_run_id", "_node_id", "_task_id"):  # without them Flower makes no Message
        monkeypatch.setattr(TaskIdentity, name, 1)
    told: list[tuple[str, Exception]] = []

    class Failing:
        def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
            raise error

    app = make_app(lambda context: Failing(), lambda kind, error: told.append((kind, error)))
    for kind in HANDLERS:
        message = Message(encode_packets([Packet(b"x")]), dst_node_id=1, message_type=f"query.{kind}")
        reply = app(message, Context(1, 1, {}, RecordDict(), {}))
        assert set(reply.content) == {REFUSAL}
        record = dict(reply.content[REFUSAL])
        assert record == {"code": error.code, "site": getattr(error, "site", "")}  # type: ignore[attr-defined]
    assert [each for _, each in told] == [error] * len(HANDLERS)  # the operator still sees all of it


def test_the_text_of_a_local_error_is_its_code(bench: Bench) -> None:
    for kind in all_kinds(LocalError):
        error = kind(PATH, TEXT)
        assert str(error) == kind.code and repr(error) == f"{kind.__name__}('{kind.code}')"


def all_kinds(kind: type[LocalError]) -> Iterator[type[LocalError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from all_kinds(each)


def test_what_goes_wrong_at_a_site_is_in_the_journal_as_a_code(bench: Bench) -> None:
    def broken(adapter: Any, round_: int) -> Any:
        raise LocalError(f"cannot read {PATH}", TEXT)

    bench.learners[VICTIM].train = broken  # type: ignore[method-assign]
    bench.learners[VICTIM].save = lambda adapter: broken(adapter, 0)  # type: ignore[method-assign]
    bench.run()
    assert bench.codes(VICTIM) == [("start", "local-error")] * 2 + [("finish", "local-error")]
    assert_no_trace(everything_seen(bench))


# ---------------------------------------------------------------------- what stays


def stored_state(bench: Bench, name: str) -> State | None:
    """What client.sealed says to who holds the site's state key."""
    file = bench.session_folder(name) / "client.sealed"
    if not file.exists():
        return None
    blob = SecretBox(bench.state_key(name)).decrypt(file.read_bytes()).partition(b"\x00")[2]
    return decode_state(blob[32:])


def secrets_of(state: State | None) -> set[bytes]:
    """Every secret in a state."""
    if isinstance(state, Advertised | Shared):
        own = {state.share_secret, state.mask_secret, state.seed}
        return own | ({state.own_key_share, state.own_seed_share} if isinstance(state, Shared) else set())
    if isinstance(state, Masked | Signed):
        return set(itertools.chain.from_iterable((each.key_share, each.seed_share) for each in state.held))
    return set()


def files_of(bench: Bench, name: str) -> bytes:
    return b"|".join(bench.state(name).values())


def test_secrets_are_sealed_while_they_are_needed_and_gone_when_they_are_not(bench: Bench) -> None:
    """X25519 secrets and b until the masked words left, shares of others until the unmask shares left."""
    made: dict[str, set[bytes]] = {}
    stages: list[type] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site != VICTIM or where.kind != "answer" or where.round != 1:
            return packet
        state = stored_state(bench, VICTIM)
        stages.append(type(state))
        made[where.phase] = secrets_of(state)
        on_disk = files_of(bench, VICTIM)
        for secret in itertools.chain.from_iterable(made.values()):
            assert secret not in on_disk, "a secret in clear"
        return packet

    bench.link.alter_reply = reply
    bench.run()
    assert stages == [Advertised, Shared, Masked, Signed, Spent, Checked]
    own = made["advertise"]
    assert len(own) == 3 and own <= made["share"]
    held = made["mask"]
    assert len(held) == 10 and not held & own
    assert held == made["consent"]
    assert made["unmask"] == set()
    for state in ("mask", "consent", "unmask"):
        assert not own & made[state]


def test_the_blob_after_masking_holds_no_secret_of_an_earlier_stage_at_any_offset(bench: Bench) -> None:
    seen: list[bytes] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == VICTIM and where.asks("advertise"):
            seen.extend(secrets_of(stored_state(bench, VICTIM)))
        if where.site == VICTIM and where.kind == "answer" and where.round == 1 and where.phase in ("mask", "consent"):
            sealed = (bench.session_folder(VICTIM) / "client.sealed").read_bytes()
            blob = SecretBox(bench.state_key(VICTIM)).decrypt(sealed)
            assert len(seen) == 3
            assert not [secret for secret in seen if secret in blob]
        return packet

    bench.link.alter_reply = reply
    bench.run()


def updates(bench: Bench, name: str) -> list[str]:
    return [file for file in bench.state(name) if "update" in file]


def test_an_update_is_erased_when_its_unmask_shares_leave(bench: Bench) -> None:
    kept: dict[str, int] = {}

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == VICTIM and where.round == 1:
            kept[where.phase] = len(updates(bench, VICTIM))
        return packet

    bench.link.alter_reply = reply
    bench.run()
    assert kept == {"advertise": 2, "share": 2, "mask": 2, "consent": 2, "unmask": 0, "check": 0}


@pytest.mark.parametrize("phase", ["advertise", "mask", "consent", "unmask"])
def test_a_dropout_erases_update_and_shares_when_the_round_is_over_for_it(bench: Bench, phase: str) -> None:
    """It fell silent in the last round, and hears of its end by Finish."""

    def reply(where: Where, packet: Packet) -> Packet | None:
        if where.site == VICTIM and where.asks(phase, 2):
            assert stored_state(bench, VICTIM) is not None
            return None
        return packet

    bench.link.alter_reply = reply
    bench.run()
    assert bench.learners[VICTIM].saved is not None
    left = {file.rpartition("/")[2] for file in bench.state(VICTIM)}
    public = {"manifest.cbor", "roster.cbor", "layout.json", "head.cbor", "words.u64", "round.json"}
    assert left == {"sessions.log", "answers.log", "position.cbor", "adapter-2.f32"} | public


def test_a_dropout_erases_the_shares_of_others_before_it_trains_for_the_next_round(bench: Bench) -> None:
    looked: list[bool] = []

    def reply(where: Where, packet: Packet) -> Packet | None:
        if where.site == VICTIM and where.kind == "start" and looked:
            assert stored_state(bench, VICTIM) is None
            looked.append(True)
        if where.site == VICTIM and where.asks("consent", 1):
            assert isinstance(stored_state(bench, VICTIM), Signed)
            looked.append(False)
            return None
        return packet

    bench.link.alter_reply = reply
    bench.run()
    assert looked == [False, True]


def test_what_a_crash_left_half_written_of_an_update_is_erased_too(bench: Bench) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.kind == "finish":
            for name in (".update-1.f32.new", ".client.sealed.new"):
                (bench.session_folder(VICTIM) / name).write_bytes(b"half")
        return packets

    bench.link.alter_request = request
    bench.run()
    assert not [file for file in bench.state(VICTIM) if file.endswith(".new")]


def test_a_site_never_trains_again_for_a_round_whose_shares_it_released(bench: Bench) -> None:
    """The server dies with the sum; the update is gone, and Ready makes no new one."""

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("unmask") and where.site == "site-05":
            raise Killed
        return packet

    bench.link.alter_reply = reply
    with pytest.raises(Killed):
        bench.run()
    bench.link.alter_reply = lambda where, packet: packet
    with pytest.raises(ServerError):
        bench.run()
    assert all(learner.trained == [1] for learner in bench.learners.values())
    assert not any(updates(bench, name) for name in bench.names)


def test_what_prints_a_secret_prints_its_type_only(bench: Bench) -> None:
    printed: list[str] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == VICTIM and where.kind == "answer":
            state = stored_state(bench, VICTIM)
            printed.append(repr(state))
        return packet

    bench.link.alter_reply = reply
    bench.run(rounds=1)
    assert printed == [f"{each}(...)" for each in ("Advertised", "Shared", "Masked", "Signed", "Spent", "Checked")]


def test_refusals_of_a_site_hold_no_bytes_of_what_it_was_asked(bench: Bench) -> None:
    """A server cannot use a site as a mirror: codes do not depend on the content of a request that fails."""
    bench.run(rounds=1)
    site, codes = bench.link.members[VICTIM], set()
    for kind in HANDLERS:
        for head in (b"", b"CANARY", PATH.encode(), bytes(100), b"\xff" * 100):
            with pytest.raises((SecAggError, LocalError)) as refusal:
                site.handle(kind, [replace(Packet(b""), head=head)])
            codes.add(refusal.value.code)
    assert codes == {"malformed"}
