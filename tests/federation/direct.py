"""A whole federation in one process: the real server loop and the real sites, joined by function calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedclient.packets import SiteRefusal
from fedclient.settings import LocalError
from fedclient.site import Facts, Site
from fedclient.timings import TIMINGS
from fedserver.checkpoint import Checkpoint
from fedserver.federation import Federation, Result
from fedserver.journal import Journal, events_named
from fedserver.link import Answer
from fedserver.plan import Plan
from secagg.config import Policy
from secagg.enrol import AttemptRef
from secagg.errors import SecAggError
from secagg.initial import initial_adapter
from secagg.session import Metrics, Packet
from secagg.vector import Layout, Vector
from secagg.wire import tag_of
from tests.sim import Consortium, Dice, random_update

REQUESTS = {  # by the request's tag
    10: "advertise", 12: "share", 14: "mask", 16: "consent", 18: "unmask", 21: "check", 61: "share", 63: "mask"
}  # fmt: skip
PHASES = tuple(dict.fromkeys(REQUESTS.values()))
LAYOUT = Layout((("m.lora_A.weight", (8, 50)), ("m.lora_B.weight", (60, 8))))


class Killed(BaseException):
    """A process that ends here and now, whatever it was doing."""


@dataclass(frozen=True)
class Where:
    """One request on its way to one site. phase, round, attempt: of an `answer`; phase is `kind` otherwise."""

    kind: str
    site: str
    phase: str = ""
    round: int = 0
    attempt: int = 0

    @classmethod
    def of(cls, kind: str, site: str, packets: Sequence[Packet]) -> Where:
        """What these packets ask."""
        if kind != "answer":
            return cls(kind, site, kind)
        ref = AttemptRef.decode(packets[0].head)
        return cls(kind, site, REQUESTS[tag_of(packets[1].head)], ref.round, ref.attempt)

    def asks(self, phase: str, round_: int = 1, attempt: int = 1) -> bool:
        """Whether this is that phase of that attempt."""
        return self == Where("answer", self.site, phase, round_, attempt)


T, R = TypeVar("T"), TypeVar("R")
AlterRequest = Callable[[Where, Sequence[Packet]], Sequence[Packet] | None]  # None = lost
AlterReply = Callable[[Where, Packet], Packet | None]


@dataclass
class ToyLearner:
    """Trains nothing: an update is a fixed function of site and round."""

    site: str
    layout: Layout = LAYOUT
    base_model: bytes = b"b" * 32
    tokenizer: bytes = b"t" * 32
    examples: int = 10
    scale: float = 0.3
    saved: Vector | None = None
    trained: list[int] = field(default_factory=list)

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Facts of a model that does not exist."""
        values = initial_adapter(self.layout, nonce)
        return Facts(self.base_model, self.tokenizer, b"l" * 32, self.layout, values)

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """A pseudo-random update whose entries lie below `scale`."""
        self.trained.append(round_)
        update = random_update((self.site, round_), self.layout.size, scale=self.scale)
        return update.values, replace(update.metrics, examples=self.examples)

    def save(self, adapter: Vector) -> None:
        """Keeps the adapter for the test to look at."""
        self.saved = adapter.copy()


@dataclass
class DirectLink:
    """Hands requests to sites in this process; the alterations play network, server and sites that lie."""

    members: dict[str, Site]
    offline: set[str] = field(default_factory=set)
    alter_request: AlterRequest = lambda where, packets: packets
    alter_reply: AlterReply = lambda where, reply: reply
    refusals: list[tuple[Where, BaseException]] = field(default_factory=list)
    sent: list[tuple[Where, Answer]] = field(default_factory=list)  # everything that left a site

    def sites(self) -> frozenset[str]:
        """Who is online."""
        return frozenset(self.members) - self.offline

    def ask(
        self, kind: str, requests: Mapping[str, Sequence[Packet]], timeout_s: float, max_words: int = 0
    ) -> Iterator[tuple[str, Answer]]:
        """Each site's answer, in order of name."""
        for site in sorted(requests):
            where = Where.of(kind, site, requests[site])
            packets = _of_the_test(self.alter_request, where, requests[site])
            if site in self.offline or packets is None:
                continue
            answer = self._answer(where, packets)
            if answer is not None:
                yield site, answer

    def _answer(self, where: Where, packets: Sequence[Packet]) -> Answer | None:
        try:
            reply = self.members[where.site].handle(where.kind, packets)
        except Killed:
            return None
        except (SecAggError, LocalError) as error:
            self.refusals.append((where, error))
            print(f"{where}: {type(error).__name__}: {getattr(error, 'problem', error)}")  # pytest shows it on failure
            refusal = SiteRefusal(error.code, getattr(error, "site", ""))
            self.sent.append((where, refusal))
            return refusal
        self.sent.append((where, reply))
        return _of_the_test(self.alter_reply, where, reply)


def _of_the_test(alter: Callable[[Where, T], R], where: Where, packets: T) -> R:
    """What the test's own code gives: what it raises is the test's failure, and no void attempt to the server."""
    try:
        return alter(where, packets)
    except (SecAggError, LocalError) as error:
        raise AssertionError(f"{where}: {error!r}") from error


@dataclass
class Bench:
    """n sites and a server over one folder. bits is 16 so that a wrong sum stands out from rounding."""

    folder: Path
    n: int = 5
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consortium = Consortium(self.n)
        self.processes: dict[str, int] = {}
        self.learners = {name: ToyLearner(name) for name in self.names}
        self.policies = {name: Policy(largest_weight=1 << 20) for name in self.names}
        self.link = DirectLink({name: self.site(name) for name in self.names})
        defaults = {
            "roster": "", "keys": "", "out": str(self.folder / "out"), "scheme": "masked", "bits": 16,
            "model": "toy", "rounds": 2, "first_range": 1.0, "join_timeout": 0.0,
        }  # fmt: skip
        self.plan = Plan(**{**defaults, **self.options})

    @property
    def names(self) -> tuple[str, ...]:
        """The sites, ascending."""
        return self.consortium.names

    # ------------------------------------------------------------------ processes

    def site(self, name: str) -> Site:
        """A new process of this site, over its old state."""
        self.processes[name] = self.processes.get(name, 0) + 1
        rng = Dice(("process", name, self.processes[name]))
        return Site(
            self.folder / name, self.consortium.keys[name], self.state_key(name), self.consortium.roster,
            self.policies[name], self.learners[name], rng, lambda: 1000,
        )  # fmt: skip

    def state_key(self, name: str) -> bytes:
        """What seals the site's state at rest."""
        return Dice(("state", name))(32)

    def restart(self, *names: str) -> None:
        """Ends these sites' processes and starts them again."""
        for name in names:
            self.link.members[name] = self.site(name)

    def server(self, **changes: Any) -> Federation:
        """A new server process over the old checkpoint."""
        out = Path(self.plan.out)
        return Federation(
            replace(self.plan, **changes), self.consortium.roster, self.consortium.server_keys, self.link,
            Journal(self.journal), Checkpoint(out / "state"), lambda: 1000, sleep=lambda _: None,
        )  # fmt: skip

    def run(self, **changes: Any) -> Result:
        """Runs a session to its end."""
        return self.server(**changes).run()

    # ------------------------------------------------------------------ what is left behind

    @property
    def journal(self) -> Path:
        """The server's journal."""
        return Path(self.plan.out) / "events.jsonl"

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every event of that name in the server's journal."""
        return list(events_named(self.journal, name))

    def contributors(self) -> list[tuple[str, ...]]:
        """The survivors of each finished round, as the server recorded them."""
        return [tuple(each["contributors"]) for each in self.events("aggregated")]

    def but(self, *gone: str) -> tuple[str, ...]:
        """All sites except these."""
        return tuple(name for name in self.names if name not in gone)

    def state(self, name: str) -> dict[str, bytes]:
        """Every file of a site's home, by path, but for its timings, which no answer depends on."""
        return {
            str(path.relative_to(self.folder / name)): path.read_bytes()
            for path in sorted((self.folder / name).rglob("*"))
            if path.is_file() and path.name != TIMINGS
        }

    def session_folder(self, name: str) -> Path:
        """The folder of the site's only session."""
        (folder,) = (self.folder / name / "state").iterdir()
        return folder

    def codes(self, name: str) -> list[tuple[str, str]]:
        """What a site refused and the code that left, in order."""
        return [
            (where.phase, answer.code)
            for where, answer in self.link.sent
            if where.site == name and isinstance(answer, SiteRefusal)
        ]

    # ------------------------------------------------------------------ the one right result

    def assert_right(self, result: Result, *contributors: Sequence[str], saved_at: Sequence[str] | None = None) -> None:
        """The recorded survivors are these, and the adapter is start + plain means, with one set of bits."""
        assert self.contributors() == [tuple(each) for each in contributors]
        self.assert_result(result, saved_at)

    def assert_result(self, result: Result, saved_at: Sequence[str] | None = None) -> None:
        """The adapter is the start plus the plain mean over each round's recorded survivors, at every site too.

        Stochastic rounding moves a rotated value by less than one step of the quantiser, 2 R / levels, and the
        rotation is orthonormal: so the mean's root mean square error is below one step a round.
        """
        assert result.adapter is not None
        expected, tolerance = self.expected(result), 0.0
        for event in self.events("aggregated"):
            tolerance += 2 * self.range_of(event["round"]) / ((1 << self.plan.bits) - 1)
        error = result.adapter.astype(np.float64) - expected
        assert np.sqrt(np.mean(error**2)) < tolerance
        for name in self.names if saved_at is None else saved_at:
            saved = self.learners[name].saved
            assert saved is not None, name
            assert saved.tobytes() == result.adapter.tobytes(), name

    def range_of(self, round_: int) -> float:
        """The quantiser's range in a round."""
        if round_ == 1:
            return self.plan.first_range
        return float(self.events("aggregated")[round_ - 2]["totals"]["next_range"])

    def expected(self, result: Result) -> np.ndarray:
        """Initial adapter plus the weighted plaintext mean of each round's contributors, float64."""
        manifest = Checkpoint(Path(self.plan.out) / "state").manifest()
        assert manifest is not None
        values = initial_adapter(result.layout, manifest.nonce).astype(np.float64)
        for event in self.events("aggregated"):
            weights = {name: self.weight(name) for name in event["contributors"]}
            for name, weight in weights.items():
                update = random_update((name, event["round"]), LAYOUT.size, scale=self.learners[name].scale).values
                values += update.astype(np.float64) * (weight / sum(weights.values()))
        return values

    def weight(self, name: str) -> int:
        """The rule of spec §7.5, written once more."""
        if not self.plan.examples_per_weight:
            return 1
        return max(1, min(self.plan.weight_cap, -(-self.learners[name].examples // self.plan.examples_per_weight)))
