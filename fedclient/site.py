"""What one site does with each request: check, remember, then answer, and never twice (spec §7.4, §16)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from fedclient.settings import LocalError
from fedclient.store import JoinedSessions, SessionStore, UsedKeys, forget_other_sessions
from fedclient.timings import Laps, Timing, keep, phase_of, size_of
from secagg.chain import Position
from secagg.config import Manifest, Policy, RoundContext, Setting
from secagg.enrol import (
    AttemptRef,
    Consent,
    Finish,
    Hello,
    Here,
    ModelCard,
    OpeningFor,
    OpeningRequest,
    OpeningWanted,
    Proposal,
    Ready,
    RoundStart,
    Tensor,
    require_from,
    signed_by,
)
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Misuse, Refused, Sealed
from secagg.identity import Roster, SiteKeys
from secagg.quantize.params import MAX_VALUE
from secagg.schemes import cautions, scheme_named
from secagg.session import SHARED_KEY, ClientSession, Mean, Metrics, Packet, Rng, Update
from secagg.tally import Tally
from secagg.vector import Layout, Vector, adapter_digest

_COUNT: Final = re.compile(r"[0-9]{1,9}")
_CHECK_TRAINING: Final = "check the data, or agree on a lower --learning-rate with the other sites"


class UpdateError(LocalError):
    """Training did not give an update that may be shared."""

    code = "training"


CLOCK_SKEW_S: Final = 2 * 86_400  # clocks a day apart agree on who is current
MOST_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Facts:
    """What a learner found when it loaded the model: 32-byte digests, the adapter's layout and first values."""

    base_model: bytes
    tokenizer: bytes
    lora_config: bytes
    layout: Layout
    initial_values: Vector


class Learner(Protocol):
    """The part of a site that knows models and data."""

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Loads the model that the settings name, once. Raises LocalError."""

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """The update (new adapter minus `adapter`) and what was measured. Raises LocalError."""

    def save(self, adapter: Vector) -> None:
        """Writes the final adapter where the operator wants it. Raises LocalError."""


@dataclass
class Session:
    """A session this site agreed to, as far as it has got."""

    manifest: Manifest
    store: SessionStore
    position: Position
    adapter: Vector
    client: ClientSession | None = None
    attempt: AttemptRef | None = None
    wanted: dict[bytes, tuple[PrivateKey, OpeningWanted]] = field(default_factory=dict, repr=False)


class Site:
    """One site. `handle` takes what the server sent and gives what may leave."""

    def __init__(
        self, home: Path, keys: SiteKeys, state_key: bytes, roster: Roster, policy: Policy, learner: Learner,
        rng: Rng, now: Callable[[], int], tell: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        """now: seconds since 1970. tell: takes lines for the site's own operator."""
        self._tell = tell
        self._home, self._keys, self._state_key = home, keys, state_key
        self._roster, self._policy, self._learner = roster, policy, learner
        self._rng, self._now = rng, now
        self._prepared: tuple[bytes, tuple[Setting, ...], Facts, bytes] | None = None
        self._session: Session | None = None
        self._laps = Laps()
        self.finished = False

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        """The reply to one request. Raises SecAggError or LocalError; then nothing may leave but the code."""
        if kind not in HANDLERS or not packets:
            raise Malformed("no such request")
        self._laps.begin()
        reply = HANDLERS[kind](self, packets[0], packets[1:])
        self._laps.lap(kind)
        self._keep_timing(kind, packets, reply)
        return reply

    def _keep_timing(self, kind: str, packets: Sequence[Packet], reply: Packet) -> None:
        session = self._session
        named, round_ = ("", 0) if session is None else (session.position.session.hex(), session.position.round + 1)
        down, up = size_of(packets), size_of([reply])
        keep(self._home, Timing(self._now(), named, round_, kind, self._laps.seconds, self._laps.cpu, down, up))

    # ------------------------------------------------------------------ before the rounds

    def _hello(self, request: Packet, _: Sequence[Packet]) -> Packet:
        hello = Hello.decode(request.head)
        return Packet(signed_by(self._keys, Here(self._keys.site, hello.nonce, bytes(64))).encode())

    def _propose(self, request: Packet, _: Sequence[Packet]) -> Packet:
        proposal = Proposal.decode(request.head)
        self._require_free(proposal.nonce)
        if proposal.roster != self._roster.digest():
            raise Refused("the server uses another roster; compare its fingerprint and epoch")
        if proposal.scheme not in self._policy.schemes:
            raise Refused(f"this site's policy: scheme {proposal.scheme} is not allowed")
        facts, initial = self._prepare(proposal.nonce, proposal.settings)
        tensors = tuple(Tensor(name, rows, columns) for name, (rows, columns) in facts.layout.tensors)
        card = ModelCard(
            self._keys.site, proposal.nonce, tensors, facts.base_model, facts.tokenizer, facts.lora_config,
            initial, bytes(64),
        )  # fmt: skip
        return Packet(signed_by(self._keys, card).encode())

    def _prepare(self, nonce: bytes, settings: tuple[Setting, ...]) -> tuple[Facts, bytes]:
        """What the learner found, and the digest of the adapter's first values."""
        if self._prepared is None or self._prepared[:2] != (nonce, settings):
            plain = {each.name: each.value for each in settings}
            facts = self._learner.prepare(plain, nonce)
            self._prepared = nonce, settings, facts, adapter_digest(facts.layout, facts.initial_values)
        return self._prepared[2:]

    def _require_free(self, nonce: bytes) -> None:
        """Raises Refused if this process has answered in another session: one at a time, one an operator's start."""
        session = self._session
        if session is not None and session.manifest.nonce != nonce and session.store.ledger.last is not None:
            raise Refused("this fedclient takes part in another session; restart it to join a new one")

    def _consent(self, request: Packet, _: Sequence[Packet]) -> Packet:
        manifest = Manifest.decode(request.head)
        self._require_free(manifest.nonce)
        session = self._begin(manifest)
        session.store.save_session(manifest, self._roster, self._prepared_for(manifest).layout)
        forget_other_sessions(self._home, manifest.digest())
        if self._session is None or self._session.manifest != manifest:
            for line in describe(manifest):
                self._tell(line)
        self._session = session
        return Packet(signed_by(self._keys, Consent(self._keys.site, session.position, bytes(64))).encode())

    def _begin(self, manifest: Manifest) -> Session:
        """The session, from its start or from where this site's store says it got. Raises Refused or LocalError."""
        self._require_acceptable(manifest)
        facts = self._prepared_for(manifest)
        joined = JoinedSessions(self._home)
        joined.require_new_or_whole(manifest)
        UsedKeys(self._home).require_unused(manifest)
        store = SessionStore(self._home, manifest.digest(), self._state_key)
        joined.note(manifest)
        position, adapter = store.position() or (Position.start(manifest), facts.initial_values)
        if adapter.size != facts.layout.size or adapter_digest(facts.layout, adapter) != position.adapter:
            raise Refused("the stored adapter is not the one the chain of rounds names")
        return Session(manifest, store, position, adapter)

    def _prepared_for(self, manifest: Manifest) -> Facts:
        """What the learner found, once it holds exactly the manifest's model and settings. Raises Refused.

        Asked again before every training: a later proposal may have made the learner load something else.
        """
        facts, initial = self._prepare(manifest.nonce, manifest.settings)
        found = (
            facts.layout.digest(),
            facts.layout.size,
            facts.base_model,
            facts.tokenizer,
            facts.lora_config,
            initial,
        )
        if found != (
            manifest.layout, manifest.size, manifest.base_model, manifest.tokenizer, manifest.lora_config,
            manifest.initial_adapter,
        ):  # fmt: skip
            raise Refused("the manifest's model, tokenizer or adapter is not the one this site has")
        return facts

    def _require_acceptable(self, manifest: Manifest) -> None:
        self._policy.check(manifest)
        scheme_named(manifest.scheme).require(manifest, self._keys)
        examples_per_weight(manifest)
        if manifest.roster != self._roster.digest():
            raise Refused("the manifest names another roster")
        if self._keys.site not in manifest.sites:
            raise Refused("the manifest leaves this site out")
        for entry in self._roster.sites:
            listed = entry.site in manifest.sites
            if listed and entry.expires + CLOCK_SKEW_S < self._now():
                raise Refused(f"{entry.site}'s entry on the roster has expired")
            if self._policy.whole_roster and not listed and entry.expires - CLOCK_SKEW_S > self._now():
                raise Refused(f"this site's policy: {entry.site} is on the roster and left out")
        strangers = set(manifest.sites) - set(self._roster.names())
        if strangers:
            raise Refused(f"{min(strangers)} is not on the roster")

    def _open_session(self, digest: bytes) -> Session:
        """The session of this digest, read back from the store after a restart. Raises Refused."""
        if self._session is not None and self._session.position.session == digest:
            return self._session
        manifest = None
        if SessionStore.has(self._home, digest):
            manifest = SessionStore(self._home, digest, self._state_key).manifest()
        if manifest is None:
            raise Refused("this site has not agreed to that session, or its log of answers is gone")
        self._session = self._begin(manifest)
        return self._session

    # ------------------------------------------------------------------ rounds

    def _start(self, request: Packet, aggregates: Sequence[Packet]) -> Packet:
        start = RoundStart.decode(request.head)
        session = self._open_session(start.session)
        self._catch_up(session, start.round, start.attempts, aggregates)
        if not start.round == session.position.round + 1 <= session.manifest.rounds:
            raise Refused(f"round {start.round} is not the next one of this session")
        if not session.store.ledger.released(start.round) and session.store.update(start.round) is None:
            self._train(session, start.round)
        return self._ready(session)

    def _ready(self, session: Session) -> Packet:
        return Packet(signed_by(self._keys, Ready(self._keys.site, session.position, bytes(64))).encode())

    def _train(self, session: Session, round_: int) -> None:
        self._prepared_for(session.manifest)
        self._tell(f"round {round_} of {session.manifest.rounds}: training")
        values, metrics = self._learner.train(session.adapter, round_)
        require_shareable(session.manifest, values, metrics)
        weight = weight_of(session.manifest, metrics.examples)
        session.store.save_update(round_, Update(values, weight, metrics))
        self._laps.lap("train")

    def _catch_up(self, session: Session, before: int, attempts: Sequence[int], aggregates: Sequence[Packet]) -> None:
        """Opens the aggregates of the rounds just before `before`, as far as this site lacks them."""
        if len(attempts) != len(aggregates):
            raise Malformed("the aggregates are not one per attempt")
        for round_, attempt, aggregate in zip(range(before - len(attempts), before), attempts, aggregates, strict=True):
            if round_ > session.position.round:
                self._advance(session, round_, attempt, aggregate)

    def _advance(self, session: Session, round_: int, attempt: int, aggregate: Packet) -> None:
        if round_ != session.position.round + 1:
            raise FaultyServer(f"the aggregate of round {session.position.round + 1} is missing")
        header = session.position.header(session.manifest, attempt)
        context = RoundContext(session.manifest, self._roster, header)
        mean, opening = self._opened(session, context, aggregate)
        if opening:
            session.store.save_opening(round_, attempt, opening)
        adapter = np.add(session.adapter, mean.values, dtype=np.float32)
        if not np.isfinite(adapter).all():
            raise FaultyServer("the sum makes the adapter overflow")
        position = session.position.after(mean, self._digest_of(session.manifest, adapter))
        session.store.save_round(round_, attempt, mean.contributors, aggregate)
        session.store.save_position(position, adapter)
        session.position, session.adapter, session.client = position, adapter, None
        totals = mean.totals
        self._tell(f"round {round_}: the mean of {', '.join(mean.contributors)}; {totals.clipped:.2%} clipped")
        session.store.forget_round()
        self._laps.lap("open")

    def _opened(self, session: Session, context: RoundContext, aggregate: Packet) -> tuple[Mean, bytes]:
        """The mean, and what opened it: what this site's own session holds, or else what a peer lent it.

        Raises Sealed if neither does; a loan that does not open the sum is forgotten. A shared key under which a sum
        was refused is given up: every refusal tells the server something of it (spec §21.8).
        """
        header, scheme, store = context.header, scheme_named(session.manifest.scheme), session.store
        used = UsedKeys(self._home)
        used.require_unused(session.manifest)
        state = store.client(header.round, header.attempt)
        own = scheme.opening(context, self._keys, state)
        try:
            return scheme.open(context, aggregate, own), own
        except FaultyServer:
            used.give_up(session.manifest)
            raise
        except Sealed:
            lent = store.opening(header.round, header.attempt)
            if lent is None:
                raise
        try:
            return scheme.open(context, aggregate, lent), lent
        except (FaultyServer, Malformed):
            store.forget_opening(header.round, header.attempt)
            raise Sealed("what a peer lent does not open the sum") from None

    def _digest_of(self, manifest: Manifest, adapter: Vector) -> bytes:
        return adapter_digest(self._prepared_for(manifest).layout, adapter)

    def _answer(self, request: Packet, rest: Sequence[Packet]) -> Packet:
        ref = AttemptRef.decode(request.head)
        if len(rest) != 1:
            raise Malformed("one request of the scheme follows the reference to its attempt")
        session = self._open_session(ref.session)
        client, context = self._client(session, ref)
        before = client.stage
        try:
            reply = client.handle(rest[0])
            if reply.words is not None:
                session.store.save_sent(ref.round, ref.attempt, reply.words)
            _, line = session.store.ledger.answer(context.header, client.stage, client.evidence)
            session.store.record(line)
            session.store.save_client(ref.round, ref.attempt, client.to_bytes())
            self._laps.lap(phase_of(before, client.stage))
        except BaseException:
            session.client = None  # what is in memory may be ahead of the disk: read it back next time
            raise
        if client.released:
            session.store.forget_update()
        return reply

    def _client(self, session: Session, ref: AttemptRef) -> tuple[ClientSession, RoundContext]:
        """The session of this attempt: the one in memory, the one on disk, or a fresh one if the log admits it."""
        if ref.round != session.position.round + 1:
            raise Refused(f"round {ref.round} is not the next one of this session")
        context = RoundContext(session.manifest, self._roster, session.position.header(session.manifest, ref.attempt))
        if session.client is not None and session.attempt == ref:
            return session.client, context
        scheme, blob = scheme_named(session.manifest.scheme), session.store.client(ref.round, ref.attempt)
        update = session.store.update(ref.round)
        parts = (context, self._keys, self._policy)
        if blob is not None:
            sent = session.store.sent(ref.round, ref.attempt)
            session.client = scheme.restore(*parts, blob, update, self._rng, sent)
        else:
            session.store.ledger.admit(session.position, context.header, session.manifest)
            if update is None:
                raise Refused("this site holds no update for the round")
            UsedKeys(self._home).take(session.manifest)
            session.client = scheme.client(*parts, update, self._rng)
        session.attempt = ref
        return session.client, context

    # ------------------------------------------------------------------ openings, from peer to peer

    def _want(self, request: Packet, _: Sequence[Packet]) -> Packet:
        """A fresh key, to which a peer may seal what this site lacks; its secret stays in memory."""
        asked = OpeningRequest.decode(request.head)
        session = self._open_session(asked.session)
        if asked.round <= session.position.round:
            raise Refused("this site has opened that round")
        secret = PrivateKey(self._rng(32))
        own = OpeningWanted(
            self._keys.site, asked.session, asked.round, asked.attempt, bytes(secret.public_key), bytes(64)
        )
        wanted = signed_by(self._keys, own)
        session.wanted[wanted.digest()] = secret, wanted
        return Packet(wanted.encode())

    def _lend(self, request: Packet, _: Sequence[Packet]) -> Packet:
        """Seals the opening of a finished round to a site of the session that asks for it under its signature."""
        wanted = OpeningWanted.decode(request.head)
        session = self._open_session(wanted.session)
        if wanted.site not in session.manifest.sites:
            raise Refused(f"{wanted.site} is not part of this session")
        require_from(self._roster, wanted.site, wanted)
        opening = session.store.opening(wanted.round, wanted.attempt)
        if opening is None or wanted.round > session.position.round:
            raise Refused("this site did not open that round")
        try:
            sealed = SealedBox(PublicKey(wanted.key)).encrypt(opening)
        except CryptoError:
            raise FaultySite(wanted.site, "nothing can be sealed to its key") from None
        reply = OpeningFor(self._keys.site, wanted.digest(), sealed, bytes(64))
        return Packet(signed_by(self._keys, reply).encode())

    def _borrow(self, request: Packet, rest: Sequence[Packet]) -> Packet:
        """Takes an opening from a peer; whether it is right shows when the aggregate is opened."""
        start = OpeningRequest.decode(request.head)
        session = self._open_session(start.session)
        if len(rest) != 1:
            raise Malformed("one sealed opening follows")
        lent = OpeningFor.decode(rest[0].head)
        if lent.site not in session.manifest.sites or lent.wanted not in session.wanted:
            raise Refused("this site did not ask for that opening")
        require_from(self._roster, lent.site, lent)
        secret, wanted = session.wanted.pop(lent.wanted)
        try:
            opening = SealedBox(secret).decrypt(lent.sealed)
        except CryptoError:
            raise FaultyPeerOrServer(lent.site, "its opening does not unseal") from None
        session.store.save_opening(wanted.round, wanted.attempt, opening)
        return self._ready(session)

    def _finish(self, request: Packet, aggregates: Sequence[Packet]) -> Packet:
        finish = Finish.decode(request.head)
        session = self._open_session(finish.session)
        self._catch_up(session, finish.rounds + 1, finish.attempts, aggregates)
        if session.position.round != finish.rounds:
            raise Refused("the session did not get to that round at this site")
        session.store.forget_round()
        self._prepared_for(session.manifest)
        self._learner.save(session.adapter)
        self.finished = True
        if key := session.manifest.option(SHARED_KEY):
            command = f"fedkeys {session.manifest.scheme} forget {key[:16]} --site {self._keys.site}"
            self._tell(f"the session is over; when it has been audited, forget its key with: {command}")
        return self._ready(session)


HANDLERS: dict[str, Callable[[Site, Packet, Sequence[Packet]], Packet]] = {
    "hello": Site._hello,
    "propose": Site._propose,
    "consent": Site._consent,
    "start": Site._start,
    "answer": Site._answer,
    "finish": Site._finish,
    "want": Site._want,
    "lend": Site._lend,
    "borrow": Site._borrow,
}


def describe(manifest: Manifest) -> tuple[str, ...]:
    """What the site agrees to, for its operator: the session, and a line for each thing it does not protect."""
    settings = " ".join(f"{each.name}={each.value}" for each in (*manifest.options, *manifest.settings))
    sites = ", ".join(manifest.sites)
    options = {each.name: each.value for each in manifest.options}
    return (
        f"agreed to session {manifest.digest().hex()[:16]}: {manifest.rounds} rounds among {sites}; scheme "
        f"{manifest.scheme}; {manifest.colluders} may collude, {manifest.dropouts} may vanish, "
        f"{manifest.least_survivors} must survive a round; {settings}",
        *(f"CAUTION: {line}" for line in cautions(manifest.scheme, options)),
    )


def examples_per_weight(manifest: Manifest) -> int:
    """How many examples count as weight 1; 0: all sites weigh the same. Raises Refused, Malformed if it is missing."""
    text = manifest.setting("examples_per_weight")
    if not _COUNT.fullmatch(text):
        raise Refused("the manifest's examples_per_weight is not a count")
    return int(text)


def weight_of(manifest: Manifest, examples: int) -> int:
    """A site's weight: 1, or one for every `examples_per_weight` examples up to the cap. Raises Refused."""
    per_weight = examples_per_weight(manifest)
    return min(manifest.quantizer.weight_cap, max(1, -(-examples // per_weight))) if per_weight else 1


def require_shareable(manifest: Manifest, values: Vector, metrics: Metrics) -> None:
    """Raises UpdateError unless every scheme takes this update and what was measured."""
    try:
        Tally.of(metrics, 1, 0, 0)
    except Misuse as error:
        raise UpdateError(f"training measured nonsense: {error}", _CHECK_TRAINING) from None
    if values.dtype != np.float32 or values.shape != (manifest.size,):
        raise UpdateError("training gave an update of another shape than the adapter's", _CHECK_TRAINING)
    if not max(float(values.max()), -float(values.min())) <= MAX_VALUE:  # nor if any is NaN
        raise UpdateError("training gave an update with NaN, infinity or an absurd value in it", _CHECK_TRAINING)
