"""What the server proposes follows from the operator's options, or the operator is told which one to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedclient.settings import LocalError
from fedserver.enrolment import session_numbers
from fedserver.plan import Plan, ServerError
from secagg.enrol import ModelCard, Tensor, signed_by
from secagg.session import Packet
from tests.federation.direct import Bench, Where

PLAN = Plan("", "", "", "masked", "toy", 1)


def test_a_number_of_colluders_that_no_threshold_bears_is_the_operators_to_change() -> None:
    assert session_numbers(replace(PLAN, colluders=3), 10)[0].threshold == 7
    with pytest.raises(ServerError) as ended:
        session_numbers(replace(PLAN, colluders=8), 10)
    assert "cannot bear 8 colluders" in ended.value.problem
    assert "--colluders" in ended.value.remedy
    with pytest.raises(ServerError) as ended:
        session_numbers(replace(PLAN, bits=20, weight_cap=1 << 20), 10)
    assert "exceed the widest lane" in ended.value.problem


@pytest.mark.parametrize(("least", "most"), [(7, 10)])
def test_the_fewest_sites_lie_between_those_that_must_survive_and_all(least: int, most: int) -> None:
    for wanted in (0, least, most):
        session_numbers(replace(PLAN, min_sites=wanted), most)
    for wanted in (least - 1, most + 1):
        with pytest.raises(ServerError) as ended:
            session_numbers(replace(PLAN, min_sites=wanted), most)
        assert f"--min-sites {wanted} is not in {least}..{most}" in ended.value.problem


def test_a_model_that_no_site_can_load_ends_the_run_before_a_session_begins(bench: Bench) -> None:
    def fails(settings: dict[str, str], nonce: bytes) -> None:
        raise LocalError("no such model", "name another one")

    for learner in bench.learners.values():
        learner.prepare = fails  # type: ignore[method-assign,assignment]
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "no site could load the model" in ended.value.problem
    assert not (Path(bench.plan.out) / "state" / "manifest.cbor").exists()


def test_a_resumed_server_to_which_no_site_describes_the_sessions_adapter_says_so(bench: Bench) -> None:
    """The session is over, one site is back, and its card tells of another shape than it agrees to."""
    bench.run(rounds=1)

    def reply(where: Where, packet: Packet) -> Packet:
        if where.kind != "propose":
            return packet
        card = replace(ModelCard.decode(packet.head), tensors=(Tensor("another", 2, 2),))
        return Packet(signed_by(bench.consortium.keys[where.site], card).encode())

    bench.link.alter_reply = reply
    bench.link.offline = set(bench.names[1:])
    with pytest.raises(ServerError) as ended:
        bench.run(rounds=1)
    assert "no site described the session's adapter" in ended.value.problem
