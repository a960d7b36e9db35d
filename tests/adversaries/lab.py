"""The adversary laboratory: real honest sites, and a server that keeps everything and may say anything.

`Lab` holds n sites. Those named in `colluding` hand all their secrets to the server and sign whatever it likes
(`Colluder`). The others are honest: the real session and the real rules of the log (`HonestSite`), one in memory for
each copy of the site's machine that runs. `Attempt` is the server's side of one attempt: it composes every message,
from the truth or from a `Story` that it tells some of the sites. Whatever is said and whatever leaves an honest site
is in the `View`, with what the colluders know: nothing else is the adversary's. `knowledge.py` computes from a view
all that follows from it, `worlds.py` shows that nothing else does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from secagg.chain import Ledger, Position
from secagg.config import Manifest, Policy, RoundContext
from secagg.errors import Misuse, Refused, SecAggError
from secagg.identity import SiteKeys
from secagg.labels import SIGN_KEY_ADVERT, SIGN_ROUND_OPEN, SIGN_SEALED_SHARES, SIGN_SURVIVORS
from secagg.masked.client import quantizer_of
from secagg.masked.graph import box_aad, box_key, neighbour_seeds, self_seed
from secagg.masked.messages import (
    Box,
    KeyAdvert,
    KeyRoster,
    MaskedVector,
    RoundOpen,
    SealedShares,
    ShareBundle,
    ShareStatement,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    UnmaskShares,
    boxes_digest,
    key_roster_digest,
    masked_words_digest,
    seed_commitment,
    share_set_digest,
    survivor_set_digest,
)
from secagg.masked.states import Advertised, decode_state
from secagg.primitives.aead import seal
from secagg.primitives.agreement import agree, public_key
from secagg.primitives.prg import Stream
from secagg.primitives.shamir import split
from secagg.primitives.signature import sign
from secagg.schemes import scheme_named
from secagg.session import ClientSession, Metrics, Packet, Update
from secagg.tally import Tally
from secagg.wire import Struct
from tests.masked.stage import REQUEST_OF, resigned
from tests.sim import Consortium, Dice

REPLY_OF = dict(
    zip(REQUEST_OF.values(), (KeyAdvert, SealedShares, MaskedVector, SurvivorSignature, UnmaskShares), strict=False)
)
GRID: Mapping[str, Any] = {"rotate": 0, "first_range_q40": 255 << 32}  # level q is the value (2q - 255) / 256, exactly
S = TypeVar("S", bound=Struct)


# ---------------------------------------------------------------------- inputs


def grid_update(levels: np.ndarray, weight: int, metrics: Metrics) -> Update:
    """The update that quantises to these levels whatever the dither: sums of updates are then sums of words."""
    return Update(((2.0 * levels - 255.0) / 256.0).astype(np.float32), weight, metrics)


def random_input(seed: object, size: int, cap: int = 1) -> Update:
    """Random levels, weight and counts. Level 0 is the largest, so that all sites have one peak."""
    dice = Dice(("input", seed))
    levels = np.frombuffer(dice(size), np.uint8).astype(np.float64)
    levels[0] = 255
    numbers = [1 + byte for byte in dice(4)]
    return grid_update(levels, 1 + numbers[0] % cap, Metrics(numbers[1], numbers[2] / 64, numbers[3] / 64, numbers[1]))


def words_of_update(context: RoundContext, update: Update) -> np.ndarray:
    """What a site masks: the packed, weighted levels and the tally."""
    blocks = quantizer_of(context).blocks(update.values, update.weight, Stream(bytes(48)))
    words = [block.copy() for block in blocks]
    tally = Tally.of(update.metrics, update.weight, blocks.clipped, blocks.peak_q40)
    return np.concatenate([*words, tally.words()])


# ---------------------------------------------------------------------- the honest


@dataclass
class HonestSite:
    """One machine of an honest site: the real session behind the real rules of its log, as `fedclient.site` has them.

    Only the disk is left out; test_second_answers.py has it. `inside` is for the lab's book-keeping, never for the
    adversary: the secrets this machine drew, by their public values.
    """

    keys: SiteKeys
    manifest: Manifest
    consortium: Consortium
    update: Update | None
    policy: Policy
    rng: Dice
    position: Position
    ledger: Ledger
    client: ClientSession | None = None
    attempt: int = 0
    saved: tuple[int, int, bytes] | None = None
    inside: dict[bytes, bytes] = field(default_factory=dict)
    contexts: dict[tuple[Position, int], RoundContext] = field(default_factory=dict)

    def ask(self, attempt: int, request: Packet) -> Packet:
        """The reply. Raises SecAggError, and then only its code leaves."""
        context = self.context(attempt)
        client = self._session(context)
        try:
            reply = client.handle(request)
            self.ledger, _ = self.ledger.answer(context.header, client.stage, client.evidence)
        except SecAggError:
            self.client = None
            raise
        self.saved = context.header.round, attempt, client.to_bytes()
        self._note(context)
        if client.released:
            self.update = None
        return reply

    def context(self, attempt: int) -> RoundContext:
        """The attempt as this site sees it."""
        key = self.position, attempt
        if key not in self.contexts:
            header = self.position.header(self.manifest, attempt)
            self.contexts[key] = RoundContext(self.manifest, self.consortium.roster, header)
        return self.contexts[key]

    def _session(self, context: RoundContext) -> ClientSession:
        round_, attempt = context.header.round, context.header.attempt
        if self.client is not None and self.attempt == attempt:
            return self.client
        scheme, parts = scheme_named(self.manifest.scheme), (context, self.keys, self.policy)
        if self.saved is not None and self.saved[:2] == (round_, attempt):
            self.client = scheme.restore(*parts, self.saved[2], self.update, self.rng)
        else:
            self.ledger.admit(self.position, context.header, self.manifest)
            if self.update is None:
                raise Refused("this site holds no update for the round")
            self.client = scheme.client(*parts, self.update, self.rng)
        self.attempt = attempt
        return self.client

    def _note(self, context: RoundContext) -> None:
        assert self.saved is not None
        state = decode_state(self.saved[2][32:])
        if isinstance(state, Advertised):
            self.inside[state.advert.mask_key] = state.mask_secret
            self.inside[state.advert.seed_commitment] = state.seed

    def machine(self, rng: Dice) -> HonestSite:
        """A second machine with everything this one has, as a snapshot restored elsewhere; rng: its randomness."""
        other = copy.copy(self)
        other.rng, other.client, other.inside = rng, None, dict(self.inside)
        return other


# ---------------------------------------------------------------------- those who help the server


@dataclass(frozen=True)
class Own:
    """The three secrets of a colluder in an attempt."""

    share_secret: bytes
    mask_secret: bytes
    seed: bytes


class Colluder:
    """A site whose keys are the server's: it forgets nothing, deals to and masks over any list, and signs anything."""

    def __init__(self, keys: SiteKeys, update: Update) -> None:
        self.keys, self.update = keys, update
        self.site = keys.site
        self.own: list[Own] = []
        self._made: dict[object, Any] = {}  # what it said once in an attempt it says again

    def secrets(self, context: RoundContext, variant: int) -> Own:
        """Its secrets in the attempt; another variant shows other sites another advert."""
        dice = Dice((self.site, context.digest, variant))
        own = Own(dice(32), dice(32), dice(32))
        if own not in self.own:
            self.own.append(own)
        return own

    def advert(self, context: RoundContext, variant: int = 0) -> KeyAdvert:
        """A valid advert."""
        return self._once((context.digest, variant), lambda: self._advert(context, variant))

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _advert(self, context: RoundContext, variant: int) -> KeyAdvert:
        own = self.secrets(context, variant)
        keys = public_key(own.share_secret), public_key(own.mask_secret)
        draft = KeyAdvert(self.site, *keys, seed_commitment(context.digest, own.seed), bytes(64))
        return replace(draft, signature=self.keys.sign(SIGN_KEY_ADVERT, context.digest, draft.unsigned()))

    def deal(self, context: RoundContext, adverts: tuple[KeyAdvert, ...], variant: int = 0) -> SealedShares:
        """Valid boxes for all sites of a key roster."""
        h1 = key_roster_digest(context.digest, adverts)
        return self._once((h1, variant), lambda: self._deal(context, adverts, h1, variant))

    def _deal(self, context: RoundContext, adverts: tuple[KeyAdvert, ...], h1: bytes, variant: int) -> SealedShares:
        own = self.secrets(context, variant)
        dice, points = Dice((self.site, h1)), [context.points[each.site] for each in adverts]
        t = min(context.manifest.threshold, len(points))
        keys, seeds = (split(secret, t, points, dice) for secret in (own.mask_secret, own.seed))
        boxes = []
        for peer in (each for each in adverts if each.site != self.site):
            key = box_key(context, agree(own.share_secret, peer.share_key), self.site, peer.site)
            x = context.points[peer.site]
            boxes.append(Box(peer.site, seal(key, keys[x] + seeds[x], box_aad(context, h1, self.site, peer.site))))
        draft = ShareStatement(self.site, h1, boxes_digest(boxes), bytes(64))
        signature = self.keys.sign(SIGN_SEALED_SHARES, context.digest, draft.unsigned())
        return SealedShares(replace(draft, signature=signature), tuple(boxes))

    def vector(
        self, context: RoundContext, adverts: tuple[KeyAdvert, ...], statements: tuple[ShareStatement, ...],
        variant: int = 0,
    ) -> tuple[MaskedVector, np.ndarray]:  # fmt: skip
        """Its update under the right masks, so that a sum with it in comes out."""
        h2 = share_set_digest(context.digest, statements)
        key = h2, key_roster_digest(context.digest, adverts), variant
        return self._once(key, lambda: self._vector(context, adverts, statements, h2, variant))

    def _vector(
        self, context: RoundContext, adverts: tuple[KeyAdvert, ...], statements: tuple[ShareStatement, ...],
        h2: bytes, variant: int,
    ) -> tuple[MaskedVector, np.ndarray]:  # fmt: skip
        own = self.secrets(context, variant)
        inside = {each.site for each in statements} - {self.site}
        peers = [(each.site, each.mask_key) for each in adverts if each.site in inside]
        seeds = neighbour_seeds(context, h2, own.mask_secret, self.site, peers)
        words = words_of_update(context, self.update)
        for seed in (*seeds.plus, self_seed(context, h2, self.site, own.seed)):
            words += expand(seed, words.size)
        for seed in seeds.minus:
            words -= expand(seed, words.size)
        draft = MaskedVector(self.site, h2, masked_words_digest(context.digest, words), bytes(64))
        return resigned(context, self.keys, draft), words

    def consent(self, context: RoundContext, h3: bytes) -> SurvivorSignature:
        """Its signature on any survivor set."""
        draft = SurvivorSignature(self.site, h3, bytes(64))
        return replace(draft, signature=self.keys.sign(SIGN_SURVIVORS, context.digest, draft.unsigned()))


def expand(seed: bytes, count: int) -> np.ndarray:
    """The first words of a mask."""
    return np.frombuffer(Stream(seed).read(8 * count), "<u8").astype(np.uint64)


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

    def replies(self, kind: type[S]) -> Iterable[tuple[Heard, S]]:
        """Everything of one kind that left an honest site."""
        for each in self.heard:
            if each.reply and each.reply[1] == kind.TAG:
                yield each, kind.decode(each.reply)


# ---------------------------------------------------------------------- the laboratory


class Lab:
    """n sites, some of them the server's. `machines`: every machine of an honest site, clones too, by name."""

    def __init__(
        self, n: int = 7, colluding: Iterable[str] = (), size: int = 12, cap: int = 1, seed: object = 0,
        inputs: Mapping[str, Update] | None = None, **manifest: Any,
    ) -> None:  # fmt: skip
        self.consortium = Consortium(n)
        self.manifest = self.consortium.manifest(size, **{**GRID, "weight_cap": cap, **manifest})
        self.cap, self.size, self.seed = cap, size, seed
        self.names, self.colluding = self.consortium.names, tuple(colluding)
        self.honest = tuple(name for name in self.names if name not in self.colluding)
        self.inputs = dict(inputs or {name: random_input((seed, name), size, cap) for name in self.names})
        keys = self.consortium.keys
        self.view = View(colluders={name: Colluder(keys[name], self.inputs[name]) for name in self.colluding})
        self.machines = {name: self._machine(name) for name in self.honest}

    def _machine(self, name: str) -> HonestSite:
        policy = Policy(largest_weight=1 << 20, least_colluders=0)
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
        packet = message if isinstance(message, Packet) else Packet(message.encode())
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

    def refuses(self, machine: str, message: Struct | Packet, error: type[SecAggError], rule: str) -> SecAggError:
        """Asserts that an honest machine refuses the message for this reason and that nothing but a code leaves."""
        assert self.ask(machine, message) is None, f"{machine} answered"
        refusal = self.refusals[machine]
        assert type(refusal) is error, repr(refusal)
        assert re.search(rule, str(refusal)), refusal
        assert self.view.heard[-1].reply == self.view.heard[-1].words == b""
        return refusal

    def _take(self, machine: str, reply: Packet) -> Struct:
        for kind, kept in (
            (KeyAdvert, self.adverts), (SealedShares, self.sealed), (MaskedVector, self.vectors),
            (SurvivorSignature, self.signatures), (UnmaskShares, self.shares),
        ):  # fmt: skip
            if reply.head[1] == kind.TAG:
                kept[machine] = kind.decode(reply.head)  # type: ignore[index]
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

    def run(self, story: Story, until: str = "unmask", machines: Iterable[str] = ()) -> Attempt:
        """Plays the story to these sites, or to all in it, to the end of a phase."""
        told = tuple(machines)
        for phase in REQUEST_OF:
            if phase == "advertise":
                self.advertise(*(told or [w for w in story.u1 if w not in self.adverts]))
            else:
                getattr(self, phase)(story, *told)
            if phase == until:
                break
        return self

    def site(self, machine: str) -> str:
        """The site that a machine belongs to."""
        return self.lab.machines[machine].keys.site

    def _each(self, machines: Iterable[str], message: Callable[[str], Struct]) -> None:
        for machine in sorted(machines):
            if machine in self.lab.machines:
                self.ask(machine, message(machine))


def _by_site(items: Iterable[S]) -> tuple[S, ...]:
    """In the one order there is; of two for one site, the last."""
    found = {each.site: each for each in items}  # type: ignore[attr-defined]
    return tuple(found[site] for site in sorted(found))
