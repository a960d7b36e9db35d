"""The laboratory: n sites, some of them the server's, and a server that keeps everything and may say anything.

`Lab` holds the sites: honest ones, of which several machines may run, and colluders (parties.py). `Attempt` is the
server's side of one attempt: it composes every message, from the truth or from a `Story` that it tells some of the
sites. Whatever is said and whatever leaves an honest site is in the `View`, with what the colluders know: nothing else
is the adversary's. knowledge.py computes from a view all that follows from it, worlds.py shows that nothing else does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from secagg.chain import Ledger, Position
from secagg.config import Policy, RoundContext
from secagg.errors import Misuse, SecAggError
from secagg.labels import SIGN_ROUND_OPEN
from secagg.masked.messages import (
    Box,
    KeyAdvert,
    KeyRoster,
    MaskedVector,
    Projections,
    RoundOpen,
    RoundRecord,
    SealedShares,
    ShareBundle,
    ShareStatement,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    key_roster_digest,
    survivor_set_digest,
)
from secagg.primitives.signature import sign
from secagg.schemes import scheme_named
from secagg.session import Packet, Update
from secagg.wire import Struct, tag_of
from tests.adversaries.forms import FORMS, masked_part
from tests.adversaries.parties import GRID, Colluder, HonestSite, random_input
from tests.masked.stage import PHASES
from tests.sim import Consortium, Dice

S = TypeVar("S", bound=Struct)


# ---------------------------------------------------------------------- what the adversary holds


@dataclass(frozen=True)
class Heard:
    """One request to an honest site and what came of it: a reply, or the code of a refusal."""

    context: RoundContext = field(compare=False, repr=False)
    digest: bytes
    machine: str
    site: str
    request: bytes
    reply: bytes = b""
    words: bytes = b""
    refusal: str = ""


@dataclass
class View:
    """Everything the server and its colluders ever saw, in order, and all that the colluders know."""

    heard: list[Heard] = field(default_factory=list)
    colluders: dict[str, Colluder] = field(default_factory=dict)
    stolen: dict[bytes, bytes] = field(default_factory=dict)  # secrets by public value

    def replies(self, kind: type[S]) -> Iterable[tuple[Heard, S]]:
        """Everything of one kind that left an honest site; a masked message also from within another."""
        for each in self.heard:
            for head in dict.fromkeys((each.reply, masked_part(each.reply)) if each.reply else ()):
                if tag_of(head) == kind.TAG:
                    yield each, kind.decode(head)


# ---------------------------------------------------------------------- the laboratory


class Lab:
    """n sites, some of them the server's. `machines`: every machine of an honest site, clones too, by name.

    The scheme is the class's unless the manifest's fields name one.
    """

    scheme: ClassVar[str] = next(iter(FORMS))

    def __init__(
        self, n: int = 7, colluding: Iterable[str] = (), size: int = 12, cap: int = 1, seed: object = 0,
        inputs: Mapping[str, Update] | None = None, **manifest: Any,
    ) -> None:  # fmt: skip
        self.consortium = Consortium(n)
        self.manifest = self.consortium.manifest(size, **{**GRID, "scheme": self.scheme, "weight_cap": cap, **manifest})
        self.cap, self.size, self.seed = cap, size, seed
        self.names, self.colluding = self.consortium.names, tuple(colluding)
        self.honest = tuple(name for name in self.names if name not in self.colluding)
        self.inputs = dict(inputs or {name: random_input((seed, name), size, cap) for name in self.names})
        keys = self.consortium.keys
        self.view = View(colluders={name: Colluder(keys[name], self.inputs[name]) for name in self.colluding})
        self.machines = {name: self._machine(name) for name in self.honest}
        self.form = FORMS[self.manifest.scheme]
        self.envelopes = self.form.envelopes({name: keys[name] for name in self.colluding})

    def if_read(self, *sums: Any) -> list[Any]:
        """These sums, or none where it takes a site to read a sum and the server has none."""
        return [] if self.form.blind and not self.colluding else list(sums)

    def steal_openings(self, machine: str) -> None:
        """Gives the adversary what a machine keeps of its last attempt so that the sum can be opened, if anything."""
        party = self.machines[machine]
        assert party.saved is not None
        context = next(each for each in party.contexts.values() if party.saved[2].startswith(each.digest))
        opening = scheme_named(self.manifest.scheme).opening(context, party.keys, party.saved[2])
        kept = self.form.kept(context, party.saved[2])
        self.view.stolen |= {public: secret for public, secret in kept.items() if secret in opening}

    def _machine(self, name: str) -> HonestSite:
        policy = Policy(tuple(FORMS), largest_weight=1 << 20, least_colluders=0)
        return HonestSite(
            self.consortium.keys[name], self.manifest, self.consortium, self.inputs[name], policy,
            Dice((self.seed, "rng", name)), Position.start(self.manifest), Ledger(self.manifest.digest()),
        )  # fmt: skip

    def clone(self, machine: str, rng: Dice | None = None) -> str:
        """A second machine of the same site from here on, with fresh randomness unless told otherwise; its name."""
        name = f"{machine}'"
        self.machines[name] = self.machines[machine].machine(rng or Dice((self.seed, "rng", name)))
        return name

    def attempt(self, number: int = 1, position: Position | None = None) -> Attempt:
        """The server's side of a new attempt. position: of the sites it is for, if not the start."""
        header = (position or Position.start(self.manifest)).header(self.manifest, number)
        return Attempt(self, RoundContext(self.manifest, self.consortium.roster, header, self.names))

    def next_round(self, *machines: str, adapter: bytes = b"n" * 32) -> Position:
        """Puts these machines, or all, after a round 1 that made this adapter, holding an update; where they stand."""
        start = Position.start(self.manifest)
        position = replace(start, round=1, adapter=adapter, transcript=Dice(("transcript", adapter))(32))
        for name in machines or tuple(self.machines):
            party = self.machines[name]
            party.position, party.client, party.saved = position, None, None
            party.update = self.inputs[party.keys.site]
        return position

    def inside(self) -> dict[bytes, bytes]:
        """The secrets of honest machines by their public values: for the lab, never for the adversary."""
        return {public: secret for each in self.machines.values() for public, secret in each.inside.items()}


@dataclass(frozen=True)
class Story:
    """What some sites are told: who advertised (u1), who dealt shares (u2), who sent a vector (u3).

    Names of machines and of colluders. variant: which of their adverts the colluders show in it.
    """

    u1: tuple[str, ...]
    u2: tuple[str, ...]
    u3: tuple[str, ...]
    variant: int = 0

    @classmethod
    def of(cls, *u1: str) -> Story:
        """The story in which these sites do everything."""
        return cls(u1, u1, u1)

    def but(self, *gone: str) -> Story:
        """The same story, except that these sites sent no vector."""
        return replace(self, u3=tuple(name for name in self.u3 if name not in gone))


class Attempt:
    """The server's side of one attempt: every reply it got, and every message it can make of them."""

    def __init__(self, lab: Lab, context: RoundContext) -> None:
        self.lab, self.context, self.view = lab, context, lab.view
        self.adverts: dict[str, KeyAdvert] = {}
        self.sealed: dict[str, SealedShares] = {}
        self.vectors: dict[str, MaskedVector] = {}
        self.words: dict[str, np.ndarray] = {}
        self.signatures: dict[str, SurvivorSignature] = {}
        self.shares: dict[str, UnmaskShares] = {}
        self.projections: dict[str, Projections] = {}
        self.refusals: dict[str, SecAggError] = {}

    # ------------------------------------------------------------------ messages

    def opening(self, cohort: Iterable[str] = ()) -> RoundOpen:
        """A RoundOpen under the server's signature."""
        draft = RoundOpen(self.context.header, tuple(sorted(cohort or self.lab.names)), bytes(64))
        key = self.lab.consortium.server_keys.identity
        return replace(draft, signature=sign(key, SIGN_ROUND_OPEN, self.context.digest, draft.unsigned()))

    def roster(self, story: Story) -> tuple[KeyAdvert, ...]:
        """The adverts of U1."""
        colluders = self.view.colluders
        known = [colluders[w].advert(self.context, story.variant) for w in story.u1 if w in colluders]
        return _by_site([*known, *(self.adverts[w] for w in story.u1 if w in self.adverts)])

    def h1(self, story: Story) -> bytes:
        """The digest of U1."""
        return key_roster_digest(self.context.digest, self.roster(story))

    def dealt(self, story: Story) -> dict[str, SealedShares]:
        """Boxes and statement of every site of U2, by site."""
        colluders, adverts = self.view.colluders, self.roster(story)
        found = {w: self.sealed[w] for w in story.u2 if w in self.sealed}
        found |= {w: colluders[w].deal(self.context, adverts, story.variant) for w in story.u2 if w in colluders}
        return {each.statement.site: each for _, each in sorted(found.items())}

    def statements(self, story: Story) -> tuple[ShareStatement, ...]:
        """The statements of U2."""
        return _by_site([each.statement for each in self.dealt(story).values()])

    def bundle(self, story: Story, site: str) -> ShareBundle:
        """What the site gets in the masking phase: the statements, and the boxes for it as far as there are any."""
        boxes = [
            Box(sender, box.ciphertext)
            for sender, sealed in self.dealt(story).items()
            for box in sealed.boxes
            if box.site == site and sender != site
        ]
        return ShareBundle(self.statements(story), _by_site(boxes))

    def survivors(self, story: Story) -> tuple[MaskedVector, ...]:
        """The signed vectors of U3; colluders mask over whatever the story says."""
        adverts, statements = self.roster(story), self.statements(story)
        found = [self.vectors[w] for w in story.u3 if w in self.vectors]
        for name in (w for w in story.u3 if w in self.view.colluders):
            vector, words = self.view.colluders[name].vector(self.context, adverts, statements, story.variant)
            self.words[name] = words
            found.append(vector)
        return _by_site(found)

    def h3(self, story: Story) -> bytes:
        """The digest of U3."""
        return survivor_set_digest(self.context.digest, self.survivors(story))

    def proof(self, story: Story) -> SurvivorProof | None:
        """Every signature there is on the story's U3, the colluders' with them."""
        h3 = self.h3(story)
        found = [each for each in self.signatures.values() if each.survivor_set == h3]
        known = {each.site for each in found}
        found += [
            self.view.colluders[w].consent(self.context, h3)
            for w in story.u3
            if w in self.view.colluders and w not in known
        ]
        unique = {each.site: each for each in found}
        return SurvivorProof(_by_site(list(unique.values()))) if unique else None

    # ------------------------------------------------------------------ phases

    def ask(self, machine: str, message: Struct | Packet) -> Struct | None:
        """What an honest machine answers to a message; None if it refuses, and then only a code has left."""
        packet = message if isinstance(message, Packet) else Packet(self.whole(machine, message).encode())
        party = self.lab.machines[machine]
        context = party.context(self.context.header.attempt)
        try:
            reply = party.ask(self.context.header.attempt, packet)
        except SecAggError as error:
            assert not isinstance(error, Misuse), error
            self.refusals[machine] = error
            said = f"{error.code} {getattr(error, 'site', '')}"
            self.view.heard.append(Heard(context, context.digest, machine, party.keys.site, packet.head, refusal=said))
            return None
        self.refusals.pop(machine, None)
        words = b"" if reply.words is None else reply.words.astype("<u8").tobytes()
        heard = Heard(context, context.digest, machine, party.keys.site, packet.head, reply.head, words)
        self.view.heard.append(heard)
        return self._take(machine, reply)

    def whole(self, machine: str, message: Struct) -> Struct:
        """The scheme's own request around a masked message."""
        return self.lab.envelopes.around(self.context, self.site(machine), message)

    def refuses(self, machine: str, message: Struct | Packet, error: type[SecAggError], rule: str) -> SecAggError:
        """Asserts that an honest machine refuses the message for this reason and that nothing but a code leaves."""
        assert self.ask(machine, message) is None, f"{machine} answered"
        refusal = self.refusals[machine]
        assert type(refusal) is error, repr(refusal)
        assert re.search(rule, str(refusal)), refusal
        assert self.view.heard[-1].reply == self.view.heard[-1].words == b""
        return refusal

    def _take(self, machine: str, reply: Packet) -> Struct:
        self.lab.envelopes.keep(self.context, reply.head)
        head = masked_part(reply.head)
        for kind, kept in (
            (KeyAdvert, self.adverts), (SealedShares, self.sealed), (MaskedVector, self.vectors),
            (SurvivorSignature, self.signatures), (UnmaskShares, self.shares), (Projections, self.projections),
        ):  # fmt: skip
            if tag_of(head) == kind.TAG:
                kept[machine] = kind.decode(head)  # type: ignore[index]
                if reply.words is not None:
                    self.words[machine] = reply.words.copy()
                return kept[machine]  # type: ignore[index]
        raise AssertionError("an honest site sent something that is no message of the round")

    def advertise(self, *machines: str, cohort: Iterable[str] = ()) -> None:
        """Asks these for their adverts."""
        self._each(machines, lambda w: self.opening(cohort))

    def share(self, story: Story, *machines: str) -> None:
        """Tells these who advertised; without names, the honest of the story's U1."""
        self._each(machines or story.u1, lambda w: KeyRoster(self.roster(story)))

    def mask(self, story: Story, *machines: str) -> None:
        """Tells these who dealt shares; without names, the honest of U2."""
        self._each(machines or story.u2, lambda w: self.bundle(story, self.site(w)))

    def consent(self, story: Story, *machines: str) -> None:
        """Tells these who sent vectors; without names, the honest of U3."""
        self._each(machines or story.u3, lambda w: SurvivorSet(self.survivors(story)))

    def unmask(self, story: Story, *machines: str) -> None:
        """Shows these every signature there is on the story's U3; without names, the honest of U3."""
        proof = self.proof(story)
        if proof is not None:
            self._each(machines or story.u3, lambda w: proof)

    def check(self, record: RoundRecord, *machines: str) -> None:
        """Shows these a record of the round, and asks for their projections."""
        self._each(machines or self.lab.machines, lambda w: record)

    def finish(self, machine: str, aggregate: Packet) -> bool:
        """Gives a machine an aggregate of the attempt; whether it took it. The server hears where it stands then."""
        party, request = self.lab.machines[machine], aggregate.head
        context = party.context(self.context.header.attempt)
        heard = Heard(context, context.digest, machine, party.keys.site, request)
        try:
            party.finish(self.context.header.attempt, aggregate)
        except SecAggError as error:
            said = f"{error.code} {getattr(error, 'site', '')}"
            self.view.heard.append(replace(heard, refusal=said))
            return False
        self.view.heard.append(replace(heard, reply=party.position.encode()))
        return True

    def run(self, story: Story, until: str = "unmask", machines: Iterable[str] = ()) -> Attempt:
        """Plays the story to these sites, or to all in it, to the end of a phase."""
        told = tuple(machines)
        for phase in PHASES:
            if phase == "advertise":
                self.advertise(*(told or [w for w in story.u1 if w not in self.adverts]))
            else:
                getattr(self, phase)(story, *told)
            if phase == until:
                break
        return self

    def site(self, machine: str) -> str:
        """The site that a machine, or a colluder, is."""
        return machine.rstrip("'")

    def _each(self, machines: Iterable[str], message: Callable[[str], Struct]) -> None:
        for machine in sorted(machines):
            if machine in self.lab.machines:
                self.ask(machine, message(machine))


def _by_site(items: Iterable[S]) -> tuple[S, ...]:
    """In the one order there is; of two for one site, the last."""
    found = {each.site: each for each in items}  # type: ignore[attr-defined]
    return tuple(found[site] for site in sorted(found))
