"""A site's process ends at any moment: it goes on where it was or counts as a dropout, and never answers twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from fedclient.settings import LocalError
from fedclient.store import SessionStore
from fedserver.plan import ServerError
from secagg.errors import SecAggError
from secagg.session import Packet
from tests.federation.direct import PHASES, Bench, Killed, Where

VICTIM, OTHER = "site-02", "site-04"
phases = pytest.mark.parametrize("phase", PHASES)


def contributes_after(phase: str) -> bool:
    """Whether a site that falls silent in this phase has sent its masked vector already."""
    return phase in ("consent", "unmask", "check")


def survivors(bench: Bench, phase: str) -> tuple[str, ...]:
    return bench.names if contributes_after(phase) else bench.but(VICTIM)


def test_sites_that_restart_before_and_after_every_request_lose_nothing(bench: Bench) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        bench.restart(where.site)
        return packets

    def reply(where: Where, packet: Packet) -> Packet:
        bench.restart(where.site)
        return packet

    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert not bench.link.refusals
    assert all(learner.trained == [1, 2] for learner in bench.learners.values())


@phases
def test_a_site_that_dies_before_a_phase_and_stays_away_is_a_dropout(bench: Bench, phase: str) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.asks(phase) and where.site == VICTIM:
            bench.link.offline.add(VICTIM)
            bench.restart(VICTIM)
        return packets

    bench.link.alter_request = request
    result = bench.run()
    bench.assert_right(result, survivors(bench, phase), bench.but(VICTIM), saved_at=bench.but(VICTIM))
    silent = [(each["phase"], each["site"]) for each in bench.events("silent") if each["round"] == 1]
    assert silent == [(phase, VICTIM)]


@pytest.mark.parametrize(("phase", "restarts"), product(PHASES, (False, True)))
def test_an_answer_that_was_lost_is_not_given_again(bench: Bench, phase: str, restarts: bool) -> None:
    """The reply is durable when the process dies, or the network loses it; the server asks once more."""
    asked: list[Sequence[Packet]] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.asks(phase) and where.site == VICTIM:
            asked.append(packets)
        return packets

    def reply(where: Where, packet: Packet) -> Packet | None:
        if not (where.asks(phase) and where.site == VICTIM):
            return packet
        if restarts:
            bench.restart(VICTIM)
        before = bench.state(VICTIM)
        with pytest.raises(SecAggError) as refusal:
            bench.link.members[VICTIM].handle("answer", asked[0])
        assert refusal.value.code in ("refused", "faulty-server")
        assert bench.state(VICTIM) == before
        return None

    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.assert_right(bench.run(), survivors(bench, phase), bench.names)


@phases
def test_a_site_killed_between_log_and_state_is_a_dropout_and_does_not_answer_again(
    bench: Bench, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, asked = SessionStore.save_client, list[Sequence[Packet]]()

    def killed(store: SessionStore, round_: int, attempt: int, state: bytes) -> None:
        if asked:
            monkeypatch.setattr(SessionStore, "save_client", save)
            raise Killed
        save(store, round_, attempt, state)

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.asks(phase) and where.site == VICTIM:
            asked.append(packets)
        elif asked and len(asked) == 1 and where.round == 1:
            asked.append(packets)  # once: whoever is next finds the victim restarted and asks it again
            bench.restart(VICTIM)
            with pytest.raises(SecAggError):
                bench.link.members[VICTIM].handle("answer", asked[0])
        return packets

    monkeypatch.setattr(SessionStore, "save_client", killed)
    bench.link.alter_request = request
    bench.assert_right(bench.run(), survivors(bench, phase), bench.names)
    assert len(asked) == 2


def test_a_check_that_nobody_answers_costs_traffic_and_no_round(bench: Bench) -> None:
    bench.link.alter_request = lambda where, packets: None if where.phase == "check" else packets
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert not bench.events("void")


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "check"])
def test_below_the_threshold_the_round_is_void_and_names_who_was_missing(bench: Bench, phase: str) -> None:
    """Tried again at once; only after unmask shares have left is there no second attempt."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        return None if where.asks(phase) and where.site in (VICTIM, OTHER) else packets

    bench.link.alter_request = request
    if phase != "unmask":
        bench.assert_right(bench.run(), bench.names, bench.names)
    else:
        with pytest.raises(ServerError) as ended:
            bench.run()
        assert "round 1 cannot be tried again" in ended.value.problem
        assert "site-01, site-03, site-05 refuse it" in ended.value.problem
        assert "new session" in ended.value.remedy
        assert bench.contributors() == []
    why = bench.events("void")[0]["why"]
    assert why == f"3 sites are left, the threshold is 4; missing: {VICTIM} (no answer in {phase}), " + (
        f"{OTHER} (no answer in {phase})"
    )


def test_sites_that_stay_away_end_the_run_with_their_names(bench: Bench) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.phase == "mask" and where.site == VICTIM:
            bench.link.offline |= {VICTIM, OTHER}
        return packets

    bench.link.alter_request = request
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert ended.value.problem == f"3 of 4 sites connected within 0 s; missing: {VICTIM}, {OTHER}"
    bench.link.offline.clear()
    bench.link.alter_request = lambda where, packets: packets
    bench.assert_right(bench.run(), bench.names, bench.names)


def test_a_round_that_is_void_again_and_again_ends_the_run_with_what_was_missing(bench: Bench) -> None:
    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        return None if where.phase == "share" and where.site in (VICTIM, OTHER) else packets

    bench.link.alter_request = request
    with pytest.raises(ServerError) as ended:
        bench.run(attempts=2)
    assert ended.value.problem == (
        "round 1 is void after 2 attempts: 3 sites are left, the threshold is 4; "
        "missing: site-02 (no answer in share), site-04 (no answer in share)"
    )
    assert "--resume" in ended.value.remedy


def test_nobody_ready_is_a_void_round_and_not_the_end(bench: Bench) -> None:
    """All sites lose their connection while they train; the server waits for them and goes on."""
    lost: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        if where.kind == "start" and where.site not in lost:
            lost.append(where.site)
            return None
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert "site-01 (no answer in train)" in bench.events("void")[0]["why"]


def test_no_second_attempt_gets_a_site_that_released_shares_to_mask_its_update_again(bench: Bench) -> None:
    """Even if the server says Ready to itself and starts the attempt: the log decides, also after a restart."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        return None if where.asks("unmask") and where.site in (VICTIM, OTHER) else packets

    bench.link.alter_request = request
    with pytest.raises(ServerError):
        bench.run()
    bench.restart(*bench.names)
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "cannot be tried again" in ended.value.problem
    second = [where for where, _ in bench.link.refusals if where.asks("advertise", 1, 3)]
    assert [where.site for where in second] == ["site-01", "site-03", "site-05"]
    assert not [event for event in bench.events("answered") if event["attempt"] > 1 and event["phase"] == "share"]


def test_a_site_killed_while_it_trains_trains_again(bench: Bench) -> None:
    learner = bench.learners[VICTIM]
    train, killed = learner.train, []

    def dying(adapter, round_):  # type: ignore[no-untyped-def]
        if not killed:
            killed.append(round_)
            bench.restart(VICTIM)
            raise Killed
        return train(adapter, round_)

    learner.train = dying  # type: ignore[method-assign]
    bench.assert_right(bench.run(), bench.but(VICTIM), bench.names)


def test_a_local_error_of_one_site_costs_only_that_site(bench: Bench) -> None:
    def broken(adapter, round_):  # type: ignore[no-untyped-def]
        raise LocalError("the disk with the data is gone", "mount it")

    bench.learners[VICTIM].train = broken  # type: ignore[method-assign]
    bench.assert_right(bench.run(), *[bench.but(VICTIM)] * 2)
    assert bench.codes(VICTIM) == [("start", "local-error")] * 2
