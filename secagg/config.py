"""What every site agrees to before anything is sent: session manifest, round header, policy (spec §7)."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Annotated, Final

from secagg.errors import Malformed, Misuse, Refused
from secagg.identity import Roster
from secagg.labels import GRAPH, HEADER, MANIFEST
from secagg.quantize import QuantizerParams, headroom
from secagg.thresholds import MIN_SITES, Thresholds
from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Range, Struct, encode_plain

VERSION: Final = 1
SUITE: Final = 1  # X25519, HKDF-SHA256, ChaCha20-Poly1305, AES-256-CTR, Ed25519, Shamir over 2^256 + 297
COMPLETE_GRAPH: Final = 1
MEAN_OF_FACTORS: Final = 1  # the aggregation rule "fedit": A and B are averaged entry by entry
MAX_SIZE: Final = 1 << 29  # values; at least two share a word, and a message carries 2^28 words at most
MAX_ROUNDS: Final = 100_000
MAX_RANGE_Q40: Final = 1 << 52
SERVER_READS_SUM: Final = "server-reads-sum"  # the option of a scheme whose server would not, unless it is "yes"


@dataclass(frozen=True, slots=True)
class Setting(Struct):
    """One option that all sites share; its meaning is the training code's, or the scheme's."""

    name: Annotated[str, Length(1, 64)]
    value: Annotated[str, Length(0, 512)]


@dataclass(frozen=True, slots=True)
class Manifest(Struct):
    """Everything a session fixes. Its digest is the session id.

    Raises Malformed for limits, Misuse for thresholds or a headroom that do not hold.
    """

    TAG = 2

    version: Annotated[int, Range(VERSION, VERSION)]
    suite: Annotated[int, Range(SUITE, SUITE)]
    scheme: Name
    nonce: Key32  # fresh per session; also the seed of the initial adapter
    roster: Digest
    sites: Annotated[tuple[Name, ...], Items(MIN_SITES, MAX_SITES, by="")]
    colluders: Annotated[int, Range(0, MAX_SITES)]
    dropouts: Annotated[int, Range(0, MAX_SITES)]
    threshold: Annotated[int, Range(1, MAX_SITES)]
    quorum: Annotated[int, Range(1, MAX_SITES)]
    least_survivors: Annotated[int, Range(MIN_SITES, MAX_SITES)]
    graph: Annotated[int, Range(COMPLETE_GRAPH, COMPLETE_GRAPH)]
    quantizer: QuantizerParams
    first_range_q40: Annotated[int, Range(1, MAX_RANGE_Q40)]
    size: Annotated[int, Range(1, MAX_SIZE)]
    layout: Digest
    base_model: Digest
    tokenizer: Digest
    lora_config: Digest
    initial_adapter: Digest
    rule: Annotated[int, Range(MEAN_OF_FACTORS, MEAN_OF_FACTORS)]
    rounds: Annotated[int, Range(1, MAX_ROUNDS)]
    server_key: Key32
    settings: Annotated[tuple[Setting, ...], Items(0, 64, by="name")]
    options: Annotated[tuple[Setting, ...], Items(0, 16, by="name")]  # their meaning is the scheme's

    def __post_init__(self) -> None:
        Struct.__post_init__(self)
        _ = self.thresholds
        lanes = headroom(self.quantizer.bits, len(self.sites), self.quantizer.weight_cap)
        if self.quantizer.lane_bits != lanes:
            raise Misuse(f"lanes of {self.quantizer.lane_bits} bits where the headroom asks for {lanes}")

    @property
    def thresholds(self) -> Thresholds:
        """The session's numbers. Raises Misuse if they break a condition."""
        return Thresholds(
            len(self.sites), self.colluders, self.dropouts, self.threshold, self.quorum, self.least_survivors
        )

    def digest(self) -> bytes:
        """The 32-byte session id."""
        return hashlib.sha256(MANIFEST + self.encode()).digest()

    def graph_digest(self) -> bytes:
        """32 bytes that name who masks with whom."""
        return hashlib.sha256(GRAPH + encode_plain([self.graph, list(self.sites)])).digest()

    def setting(self, name: str) -> str:
        """The value of a training option. Raises Malformed if the manifest lacks it."""
        for each in self.settings:
            if each.name == name:
                return each.value
        raise Malformed(f"the manifest lacks the setting {name}")

    def require_options(self, known: Set[str]) -> None:
        """Raises Refused for an option of the scheme that is none of these."""
        for each in self.options:
            if each.name not in known:
                raise Refused(f"scheme {self.scheme} has no option {each.name}")

    def option(self, name: str) -> str:
        """The value of an option of the scheme; empty if the manifest does not give it."""
        return next((each.value for each in self.options if each.name == name), "")


@dataclass(frozen=True, slots=True)
class RoundHeader(Struct):
    """What every signature, key and sealed share of one attempt is bound to."""

    TAG = 3

    suite: Annotated[int, Range(SUITE, SUITE)]
    session: Digest
    round: Annotated[int, Range(1, MAX_ROUNDS)]
    attempt: Annotated[int, Range(1, 1000)]
    scheme: Name
    roster: Digest
    adapter: Digest  # the global adapter the updates of this round start from
    previous: Digest  # transcript of the round before; the session id in round 1
    graph: Digest
    range_q40: Annotated[int, Range(1, MAX_RANGE_Q40)]

    def digest(self) -> bytes:
        """32 bytes: the salt of every key and the prefix of every signed message."""
        return hashlib.sha256(HEADER + self.encode()).digest()


@dataclass(frozen=True)
class RoundContext:
    """One attempt of one round, as everybody who takes part sees it.

    cohort: the sites that have an update and were asked; only the server chooses it, sites check it.
    """

    manifest: Manifest
    roster: Roster
    header: RoundHeader
    cohort: tuple[str, ...] = ()
    digest: bytes = field(init=False, repr=False)
    points: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises Malformed if manifest, roster and header do not belong together."""
        if self.header.session != self.manifest.digest() or self.header.scheme != self.manifest.scheme:
            raise Malformed("the header belongs to another session")
        if not self.roster.digest() == self.manifest.roster == self.header.roster:
            raise Malformed("the header belongs to another roster")
        if self.header.graph != self.manifest.graph_digest():
            raise Malformed("the header names another graph")
        strangers = set(self.manifest.sites) - set(self.roster.names())
        if strangers or not set(self.cohort) <= set(self.manifest.sites):
            raise Malformed("a site is not on the roster")
        object.__setattr__(self, "digest", self.header.digest())
        object.__setattr__(self, "points", {name: i for i, name in enumerate(self.roster.names(), 1)})

    def identity_key(self, site: str) -> bytes:
        """The 32-byte identity key. Raises Refused for a site outside the session."""
        if site not in self.manifest.sites:
            raise Refused(f"{site} is not part of this session")
        return self.roster.entry(site).identity_key


@dataclass(frozen=True, slots=True)
class Policy:
    """The least a site accepts, whatever the server proposes.

    base_models: digests it will train; empty accepts any that its operator's options let it load.
    whole_roster: every site of the roster whose entry is current takes part; the caller checks it.
    server_reads_sum: whether a scheme that hides each round's sum from the server may be told to show it.
    """

    schemes: tuple[str, ...] = ("masked", "ckks")
    least_survivors: int = 3
    least_threshold: int = 2
    least_colluders: int = 1
    largest_weight: int = 1
    largest_rounds: int = 1000
    base_models: tuple[bytes, ...] = ()
    whole_roster: bool = True
    server_reads_sum: bool = False

    def check(self, manifest: Manifest) -> None:
        """Raises Refused, naming the rule, unless the manifest satisfies every one."""
        rules = {
            f"scheme {manifest.scheme} is not allowed": manifest.scheme in self.schemes,
            f"{manifest.least_survivors} survivors are fewer than {self.least_survivors}": (
                manifest.least_survivors >= self.least_survivors
            ),
            f"threshold {manifest.threshold} is below {self.least_threshold}": (
                manifest.threshold >= self.least_threshold
            ),
            f"{manifest.colluders} declared colluders are fewer than {self.least_colluders}": (
                manifest.colluders >= self.least_colluders
            ),
            f"weight cap {manifest.quantizer.weight_cap} is above {self.largest_weight}": (
                manifest.quantizer.weight_cap <= self.largest_weight
            ),
            f"{manifest.rounds} rounds are more than {self.largest_rounds}": (manifest.rounds <= self.largest_rounds),
            "the base model is not one of those allowed": (
                not self.base_models or manifest.base_model in self.base_models
            ),
            "the server would read each round's sum": (
                self.server_reads_sum or manifest.option(SERVER_READS_SUM) != "yes"
            ),
        }
        for broken in (rule for rule, holds in rules.items() if not holds):
            raise Refused(f"this site's policy: {broken}")
