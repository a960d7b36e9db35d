"""What a server proposes after the consent changes nothing that a site agreed to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from fedclient.settings import LocalError
from fedclient.site import Facts
from secagg.config import Setting
from secagg.enrol import Finish, Proposal
from secagg.errors import Refused
from secagg.session import Metrics, Packet
from secagg.vector import Vector
from tests.federation.direct import Bench, ToyLearner, Where


@dataclass
class WatchedLearner(ToyLearner):
    """Notes the model that it holds whenever it trains or saves."""

    held: str = ""
    used: list[str] = field(default_factory=list)

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        self.held = settings["model"]
        return super().prepare(settings, nonce)

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        self.used.append(self.held)
        return super().train(adapter, round_)

    def save(self, adapter: Vector) -> None:
        self.used.append(self.held)
        super().save(adapter)


def evil_proposal(bench: Bench, nonce: bytes) -> Packet:
    """The session's proposal, with another model."""
    settings = [Setting(name, value) for name, value in bench.plan.settings().items() if name != "model"]
    named = tuple(sorted([*settings, Setting("model", "evil/model")], key=lambda each: each.name))
    return Packet(Proposal(1, "masked", nonce, bench.consortium.roster.digest(), named).encode())


@pytest.mark.parametrize("kind", ["start", "finish"])
def test_a_proposal_after_the_consent_does_not_change_what_is_trained_or_saved(bench: Bench, kind: str) -> None:
    learner = bench.learners["site-01"] = WatchedLearner("site-01")
    bench.restart("site-01")

    def propose_first(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == kind and where.site == "site-01":
            nonce = bench.link.members["site-01"]._session.manifest.nonce
            bench.link.members["site-01"].handle("propose", [evil_proposal(bench, nonce)])
            assert learner.held == "evil/model"
        return packets

    bench.link.alter_request = propose_first
    bench.run(rounds=2)
    assert learner.used == ["toy"] * 3


def test_a_proposal_before_a_second_finish_does_not_change_what_is_saved(bench: Bench) -> None:
    """No aggregate comes with it that would have the site look at its model."""
    learner = bench.learners["site-01"] = WatchedLearner("site-01")
    bench.restart("site-01")
    bench.run(rounds=1)
    site = bench.link.members["site-01"]
    manifest = site._session.manifest
    site.handle("propose", [evil_proposal(bench, manifest.nonce)])
    site.handle("finish", [Packet(Finish(manifest.digest(), 1, ()).encode())])
    assert learner.used == ["toy"] * 3


def test_a_process_that_has_answered_in_a_session_joins_no_other(bench: Bench) -> None:
    bench.run(rounds=1)
    site = bench.link.members["site-01"]
    with pytest.raises(Refused, match="another session"):
        site.handle("propose", [evil_proposal(bench, b"n" * 32)])


def test_an_abandoned_session_leaves_no_update_on_disk_once_another_begins(bench: Bench) -> None:
    bench.link.alter_request = lambda where, packets: None if where.kind == "answer" else packets
    with pytest.raises(LocalError):
        bench.run(rounds=1)
    home = bench.folder / "site-01" / "state"
    assert list(home.glob("*/update-*"))
    bench.link.alter_request = lambda where, packets: packets
    bench.restart("site-01")
    old = {path.parent for path in home.glob("*/update-*")}
    bench.run(rounds=1, out=str(bench.folder / "second"))
    assert not [path for folder in old for path in (*folder.glob("update-*"), *folder.glob("client.sealed"))]
