"""The consortium of the vectors, and rounds of it in which every byte that is drawn or sent is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secagg.chain import Position
from secagg.config import Manifest, Policy, RoundContext, Setting
from secagg.errors import SecAggError
from secagg.identity import Roster, RosterEntry, ServerKeys, SiteKeys, public_bytes, sign_roster
from secagg.initial import initial_adapter
from secagg.lanes import headroom
from secagg.quantize import QuantizerParams
from secagg.schemes import scheme_named
from secagg.session import ClientSession, InMemory, Metrics, Packet, Update
from secagg.thresholds import plan
from secagg.vector import Layout, Vector, adapter_digest
from tests.vectors import form
from tests.vectors.form import Json, drawn

NAMES = ("aasen", "borg", "dale", "fjell", "hauge", "lunde")
OUTSIDE = "borg"  # on the roster, in no session: places are those of the roster (spec §9.1)
EXPIRES = 4_102_444_800  # 2100-01-01
POLICY = Policy(least_colluders=0, largest_weight=1 << 20, whole_roster=False)
SECRETS = ("share_secret", "mask_secret", "seed", "mask_secret_coefficients", "seed_coefficients")
DRAWS = {"masked": (*SECRETS, "dither_seed"), "ckks": ("blind_seed", "blind_secret", *SECRETS, "hedge")}
IN_ORDER = ("blind_seed", "blind_secret", *SECRETS, "dither_seed", "hedge")
SHAPES = {  # d: rank, fan in, fan out
    21: (3, 4, 3), 24: (2, 6, 6), 40: (2, 10, 10),
}  # fmt: skip


class Draws:
    """A site's randomness in one attempt, in the order in which our code asks for it; notes what it gave."""

    def __init__(self, *what: object, names: Sequence[str] = DRAWS["masked"]) -> None:
        self.given: dict[str, bytes] = {}
        self._what, self._names = what, names

    def __call__(self, count: int) -> bytes:
        name = self._names[len(self.given)]
        self.given[name] = drawn("draw", *self._what, name, count=count)
        return self.given[name]

    def listed(self) -> Json:
        return {name: value.hex() for name, value in self.given.items()}

    def again(self) -> Draws:
        """The same randomness, from the start."""
        return Draws(*self._what, names=self._names)


class Given:
    """Randomness that a file lists. Asking for more, for less or in another order is an error."""

    def __init__(self, listed: Mapping[str, str]) -> None:
        self._left = [bytes.fromhex(listed[name]) for name in IN_ORDER if name in listed]

    def __call__(self, count: int) -> bytes:
        value = self._left.pop(0)
        assert len(value) == count, f"{count} bytes are drawn where {len(value)} are listed"
        return value


@dataclass(frozen=True)
class Session:
    """A session of n sites on a roster of n + 1. `options`: bits, weight_cap, rotate, clip_norm_q20."""

    n: int
    colluders: int | None = None
    size: int = 24
    bits: int = 8
    weight_cap: int = 1
    rotate: int = 0
    clip_norm_q20: int = 0
    least: int = 0  # survivors, where more than the rule asks for
    scheme: str = field(default="masked", repr=False)  # what is drawn goes by the rest

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in NAMES[: self.n + 1] if name != OUTSIDE)

    @cached_property
    def seeds(self) -> dict[str, bytes]:
        """The Ed25519 seed of every site on the roster."""
        return {name: drawn("identity", name) for name in NAMES[: self.n + 1]}

    @cached_property
    def server_seed(self) -> bytes:
        return drawn("server")

    def keys(self, site: str) -> SiteKeys:
        return SiteKeys(site, Ed25519PrivateKey.from_private_bytes(self.seeds[site]))

    @cached_property
    def server_keys(self) -> ServerKeys:
        return ServerKeys(Ed25519PrivateKey.from_private_bytes(self.server_seed))

    @cached_property
    def roster(self) -> Roster:
        root = Ed25519PrivateKey.from_private_bytes(drawn("root"))
        entries = [RosterEntry(name, self.keys(name).public, _node_key(name), EXPIRES) for name in self.seeds]
        return sign_roster(Roster("vectors", 1, EXPIRES, public_bytes(root), tuple(entries), (), bytes(64)), root)

    @cached_property
    def layout(self) -> Layout:
        rank, fan_in, fan_out = SHAPES[self.size]
        stem = "base_model.model.model.layers.0.self_attn.q_proj"
        return Layout(((f"{stem}.lora_A.weight", (rank, fan_in)), (f"{stem}.lora_B.weight", (fan_out, rank))))

    @cached_property
    def initial(self) -> Vector:
        return initial_adapter(self.layout, drawn("nonce"))

    @cached_property
    def manifest(self) -> Manifest:
        numbers = plan(self.n, self.colluders, least=self.least)
        lane_bits = headroom(self.bits, self.n, self.weight_cap)
        quantizer = QuantizerParams(self.bits, lane_bits, self.weight_cap, self.rotate, self.clip_norm_q20)
        return Manifest(
            version=1, suite=1, scheme=self.scheme, nonce=drawn("nonce"), roster=self.roster.digest(), sites=self.names,
            colluders=numbers.colluders, dropouts=numbers.dropouts, threshold=numbers.threshold,
            quorum=numbers.quorum, least_survivors=numbers.least_survivors, graph=1, quantizer=quantizer,
            first_range_q40=1 << 40, size=self.size, layout=self.layout.digest(), base_model=drawn("base model"),
            tokenizer=drawn("tokenizer"), lora_config=drawn("lora config"),
            initial_adapter=adapter_digest(self.layout, self.initial), rule=1, rounds=3,
            server_key=self.server_keys.public,
            settings=(Setting("examples_per_weight", "10"), Setting("model", "vectors")), options=(),
        )  # fmt: skip

    def context(self, attempt: int = 1, position: Position | None = None) -> RoundContext:
        """An attempt at the round after `position`, as a site sees it."""
        header = (position or Position.start(self.manifest)).header(self.manifest, attempt)
        return RoundContext(self.manifest, self.roster, header)

    def update(self, site: str, round_: int = 1) -> Update:
        """Multiples of 1/256 below 1/4, of which no step of spec §10 rounds any in round 1, and a few large ones."""
        octets = np.frombuffer(drawn("update", site, round_, count=self.size), np.uint8)
        steps = octets.astype(np.int32) % 129 - 64
        steps[1] = 700 if site == self.names[0] else steps[1]  # beyond the range unless rotated
        examples = 1 + drawn("examples", site, round_)[0] % (10 * self.weight_cap)
        weight = min(self.weight_cap, max(1, -(-examples // 10)))
        tokens = 0 if site == self.names[-1] else 100 + octets[0].item()
        metrics = Metrics(examples, 2.5 + octets[2].item() / 64, 3.25 if tokens else 0.0, tokens)
        return Update((steps / 256).astype(np.float32), weight, metrics)


def _node_key(name: str) -> bytes:
    scalar = int.from_bytes(drawn("node", name, count=47), "big")
    public = ec.derive_private_key(scalar, ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Played:
    """One attempt driven with real sessions, and everything that was said in it.

    silent: sites that answer nothing from a phase on. lost: sites whose answer to that phase does not arrive.
    """

    session: Session
    attempt: int = 1
    position: Position | None = None
    cohort: Sequence[str] = ()
    silent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    salt: object = 0
    trips: list[Json] = field(default_factory=list)
    heads: dict[str, list[tuple[str, Packet, Packet]]] = field(default_factory=dict)  # phase -> site, request, reply
    clients: dict[str, ClientSession] = field(default_factory=dict)
    draws: dict[str, Draws] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)
    error: SecAggError | None = None

    def __post_init__(self) -> None:
        session = self.session
        self.cohort = tuple(self.cohort or session.names)
        self.context = session.context(self.attempt, self.position)
        self.scheme = scheme_named(session.manifest.scheme)
        self.archive = InMemory()
        asked = replace(self.context, cohort=self.cohort)
        self.server: Any = self.scheme.server(asked, session.server_keys, self.archive)
        for site in self.cohort:
            header = self.context.header
            what = (session, header.round, self.attempt, site, self.salt)
            self.draws[site] = Draws(*what, names=DRAWS[session.scheme])
            self.updates[site] = session.update(site, header.round)
            keys = session.keys(site)
            self.clients[site] = self.scheme.client(
                self.context, keys, POLICY, self.updates[site], self.draws[site]
            )  # fmt: skip

    def until(self, phase: str) -> Played:
        """Drives the attempt to the beginning of a phase."""
        while self.server.phase != phase:
            self.step()
        return self

    def run(self) -> Played:
        """Drives the attempt to its aggregate, or to the error that ends it at the server."""
        try:
            while not self.server.done:
                self.step()
        except SecAggError as error:
            self.error = error
        return self

    def step(self) -> None:
        """Drives one phase."""
        phase, exchanged = self.server.phase, []
        quiet = self.quiet(phase)
        asked = dict(sorted(self.server.requests().items()))
        for site, request in asked.items():
            if site not in quiet:
                exchanged.append((site, request, self.clients[site].handle(request)))
        self.heads[phase] = exchanged
        self.trips.append({"phase": phase, "requests": _grouped(asked), "replies": replies_of(exchanged)})
        self.server.receive([(site, reply) for site, _, reply in exchanged])

    def quiet(self, phase: str) -> set[str]:
        """The sites that are silent by now."""
        phases = [*self.heads, phase]
        return {site for past in phases for site in self.silent.get(past, ())}

    # ------------------------------------------------------------------ what a file lists

    def common(self) -> Json:
        """The inputs that everybody in the attempt knows."""
        return {
            "manifest": self.session.manifest.encode().hex(),
            "roster": self.session.roster.encode().hex(),
            "header": self.context.header.encode().hex(),
        }

    def site_inputs(self, site: str) -> Json:
        """The inputs of one site."""
        return {
            "identity_seed": self.session.seeds[site].hex(),
            "random": self.draws[site].listed(),
            "update": form.update(self.updates[site]),
        }

    def history(self, site: str) -> list[str]:
        """The heads of all requests that the site has answered, in order."""
        return [request.head.hex() for phase in self.heads.values() for name, request, _ in phase if name == site]

    def reply(self, phase: str, site: str) -> Packet:
        return next(reply for name, _, reply in self.heads[phase] if name == site)

    def opening(self, site: str = "") -> bytes:
        """What opens the aggregate, if anything is needed: at the site, or at any that has sent a vector."""
        site = site or self.heads["mask"][0][0]
        return self.scheme.opening(self.context, self.session.keys(site), self.clients[site].to_bytes())

    def request(self, site: str) -> Packet:
        """What the server would send the site now."""
        requests: Mapping[str, Packet] = self.server.requests()
        return requests[site]


def _grouped(asked: Mapping[str, Packet]) -> list[Json]:
    """Requests, each once, with the sites it goes to."""
    groups: dict[bytes, list[str]] = {}
    for site, request in asked.items():
        groups.setdefault(request.head, []).append(site)
    return [{"to": sites, "head": head.hex()} for head, sites in groups.items()]


def replies_of(exchanged: Sequence[tuple[str, Packet, Packet]]) -> list[Json]:
    return [{"site": site, **form.packet(reply)} for site, _, reply in exchanged]
