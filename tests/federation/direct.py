"""A whole federation in one process: the real server loop and the real sites, joined by function calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedclient.settings import LocalError
from fedclient.site import Facts, Site
from fedserver.checkpoint import Checkpoint
from fedserver.federation import Federation, Result
from fedserver.journal import Journal
from fedserver.link import Answer
from fedserver.packets import SiteRefusal
from fedserver.plan import Plan
from secagg.config import Policy
from secagg.errors import SecAggError
from secagg.initial import initial_adapter
from secagg.session import Metrics, Packet
from secagg.vector import Layout, Vector
from tests.sim import Consortium, Dice, random_update

Alter = Callable[[str, str, Sequence[Packet]], Sequence[Packet] | None]  # (kind, site, packets); None = lost


@dataclass
class ToyLearner:
    """Trains nothing: an update is a fixed function of site and round."""

    site: str
    layout: Layout = Layout((("m.lora_A.weight", (8, 50)), ("m.lora_B.weight", (60, 8))))
    base_model: bytes = b"b" * 32
    saved: Vector | None = None
    trained: list[int] = field(default_factory=list)

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Facts of a model that does not exist."""
        values = initial_adapter(self.layout, nonce)
        return Facts(self.base_model, b"t" * 32, b"l" * 32, self.layout, values, "{}")

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """A pseudo-random update whose entries lie below 0.3."""
        self.trained.append(round_)
        update = random_update((self.site, round_), self.layout.size)
        return update.values, update.metrics

    def save(self, adapter: Vector) -> None:
        """Keeps the adapter for the test to look at."""
        self.saved = adapter.copy()


@dataclass
class DirectLink:
    """Hands requests to sites in this process; `lose` and `alter` play the network."""

    members: dict[str, Site]
    offline: set[str] = field(default_factory=set)
    alter_request: Alter = lambda kind, site, packets: packets  # noqa: E731
    alter_reply: Callable[[str, str, Packet], Packet | None] = lambda kind, site, reply: reply  # noqa: E731
    refusals: list[tuple[str, str, BaseException]] = field(default_factory=list)

    def sites(self) -> frozenset[str]:
        """Who is online."""
        return frozenset(self.members) - self.offline

    def ask(
        self, kind: str, requests: Mapping[str, Sequence[Packet]], timeout_s: float, max_words: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """Each site's answer, in order of name."""
        for site in sorted(requests):
            packets = self.alter_request(kind, site, requests[site])
            if site in self.offline or packets is None:
                continue
            try:
                reply = self.members[site].handle(kind, packets)
            except (SecAggError, LocalError) as error:
                self.refusals.append((kind, site, error))
                yield site, SiteRefusal(error.code, getattr(error, "site", ""))
                continue
            altered = self.alter_reply(kind, site, reply)
            if altered is not None:
                yield site, altered


@dataclass
class Bench:
    """n sites and a server over one folder."""

    folder: Path
    n: int = 5
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consortium = Consortium(self.n)
        self.learners = {name: ToyLearner(name) for name in self.consortium.names}
        self.policy = Policy(largest_weight=1 << 20)
        self.link = DirectLink({name: self.site(name) for name in self.consortium.names})
        defaults = {
            "roster": "", "keys": "", "out": str(self.folder / "out"), "scheme": "masked",
            "model": "toy", "rounds": 3, "first_range": 1.0, "join_timeout": 0.0,
        }  # fmt: skip
        self.plan = Plan(**{**defaults, **self.options})

    def site(self, name: str) -> Site:
        """A new process of this site, over its old state."""
        keys = self.consortium.keys[name]
        home = self.folder / name
        return Site(
            home, keys, Dice(("state", name))(32), self.consortium.roster, self.policy, self.learners[name],
            os.urandom, lambda: 1000,
        )  # fmt: skip

    def restart(self, name: str) -> None:
        """Ends a site's process and starts it again."""
        self.link.members[name] = self.site(name)

    def server(self, **changes: Any) -> Federation:
        """A new server process over the old checkpoint."""
        out = Path(self.plan.out)
        return Federation(
            replace(self.plan, **changes), self.consortium.roster, self.consortium.server_keys, self.link,
            Journal(out / "events.jsonl"), Checkpoint(out / "state"), lambda: 1000, sleep=lambda _: None,
        )  # fmt: skip

    def run(self, **changes: Any) -> Result:
        """Runs a session to its end."""
        return self.server(**changes).run()


def expected_adapter(bench: Bench, nonce: bytes, contributors: Sequence[Sequence[str]]) -> np.ndarray:
    """Initial adapter plus the plaintext mean of each round's contributors, float64."""
    layout = bench.learners[bench.consortium.names[0]].layout
    values = initial_adapter(layout, nonce).astype(np.float64)
    for round_, names in enumerate(contributors, 1):
        updates = [random_update((name, round_), layout.size).values.astype(np.float64) for name in names]
        values += sum(updates) / len(updates)
    return values
