"""What an operator chooses of a scheme: checked before anything starts, and in the manifest that sites agree to."""

from __future__ import annotations

from typing import Any

import pytest

from fedserver.plan import Plan, ServerError
from fedserver.preflight import require_options


def plan(scheme: str, **changes: Any) -> Plan:
    return Plan(roster="", keys="", out="", scheme=scheme, model="toy", rounds=1, **changes)


def test_an_option_that_the_scheme_does_not_know_is_refused_with_what_to_do() -> None:
    with pytest.raises(ServerError) as caught:
        require_options(plan("masked", server_reads_sum=True))
    assert caught.value.problem == "--secagg masked has no option server-reads-sum"
    assert caught.value.remedy == "leave --server-reads-sum out, or choose another --secagg"
    require_options(plan("masked"))
    require_options(plan("ckks", server_reads_sum=True))


def test_a_plan_says_its_options_as_the_manifest_holds_them() -> None:
    assert plan("ckks").options() == {}
    assert plan("ckks", server_reads_sum=True).options() == {"server-reads-sum": "yes"}
    assert plan("ckks", server_reads_sum=True, shared_key="ab").options() == {
        "server-reads-sum": "yes", "shared-key": "ab"
    }  # fmt: skip


def test_a_scheme_whose_sites_share_a_key_is_not_started_without_it_nor_another_with_it() -> None:
    with pytest.raises(ServerError) as caught:
        require_options(plan("ckks-shared"))
    assert caught.value.problem == "--secagg ckks-shared takes a key that the sites share and this server lacks"
    for command in ("fedkeys ckks-shared new", "fedkeys ckks-shared accept FILE", "--shared-key FILE"):
        assert command in caught.value.remedy
    require_options(plan("ckks-shared", shared_key="ab" * 32))
    with pytest.raises(ServerError) as caught:
        require_options(plan("ckks", shared_key="ab" * 32))
    assert caught.value.problem == "--secagg ckks has no option shared-key"
