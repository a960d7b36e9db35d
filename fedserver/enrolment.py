"""How the sites come to agree on one manifest: every one loads the model and says what it found (spec §7.4)."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from fedclient.packets import SiteRefusal
from fedserver.journal import Journal
from fedserver.link import Answer, Link
from fedserver.plan import Plan, ServerError
from secagg.chain import Position
from secagg.config import COMPLETE_GRAPH, MEAN_OF_FACTORS, SUITE, VERSION, Manifest, Setting
from secagg.enrol import Consent, ModelCard, Proposal, require_from
from secagg.errors import Misuse, SecAggError
from secagg.identity import Roster
from secagg.quantize import MAX_RANGE_Q40, QuantizerParams, first_range, headroom
from secagg.session import Packet
from secagg.thresholds import Thresholds
from secagg.thresholds import plan as plan_thresholds
from secagg.vector import Layout, Vector, adapter_digest

KAPPA: Final = {True: 2, False: 1}  # by rotation: rotated values have longer tails than Adam's bound (spec §10.7)
UNKNOWN_STEPS: Final = 100  # where sites count their own steps
WHAT: Final = {
    "base_model": "another base model",
    "tokenizer": "another tokenizer",
    "lora_config": "another LoRA configuration",
    "tensors": "an adapter of another shape",
    "initial_adapter": "another initial adapter",
}
_Signed = TypeVar("_Signed", ModelCard, Consent)


class Enrolment:
    """Proposal, cards and consents of one session."""

    def __init__(
        self, plan: Plan, roster: Roster, server_key: bytes, link: Link, journal: Journal, now: Callable[[], int]
    ) -> None:
        self._plan, self._roster, self._server_key = plan, roster, server_key
        self._link, self._journal, self._now = link, journal, now
        self.card: ModelCard | None = None  # what the sites agree their adapter is

    def current_sites(self) -> tuple[str, ...]:
        """The roster's sites whose entries have not expired."""
        return tuple(entry.site for entry in self._roster.sites if entry.expires >= self._now())

    def propose(self, sites: Iterable[str]) -> Manifest:
        """The manifest that fits what these sites loaded. Raises ServerError naming who differs."""
        nonce = os.urandom(32)
        settings = tuple(Setting(name, value) for name, value in self._plan.settings().items())
        proposal = Proposal(VERSION, self._plan.scheme, nonce, self._roster.digest(), settings)
        cards = self._cards(proposal, sites, self._plan.load_timeout)
        if not cards:
            raise ServerError("no site could load the model", "read each site's own message")
        self.card = _agreed(cards)
        return self._manifest(nonce, settings, self.card)

    def consent(self, manifest: Manifest, sites: Iterable[str], timeout_s: float) -> dict[str, Position]:
        """Where each site that agrees to the manifest stands. timeout_s: for each of the two questions."""
        proposal = Proposal(VERSION, manifest.scheme, manifest.nonce, manifest.roster, manifest.settings)
        wanted = sorted(sites)
        if not wanted:
            return {}
        cards = self._cards(proposal, wanted, timeout_s)
        fitting = (card for card in cards.values() if card.layout().digest() == manifest.layout)
        self.card = self.card or next(fitting, None)
        requests = {site: [Packet(manifest.encode())] for site in sorted(cards)}
        positions = {}
        for site, answer in self._link.ask("consent", requests, timeout_s):
            consent = self._checked(site, answer, Consent)
            if consent is not None and consent.position.session == manifest.digest():
                positions[site] = consent.position
                self._journal.write("consented", site=site, round=consent.position.round)
        return positions

    def layout(self, manifest: Manifest) -> Layout:
        """The adapter's layout. Raises ServerError if no site described it as the manifest does."""
        if self.card is None or self.card.layout().digest() != manifest.layout:
            raise ServerError("no site described the session's adapter", "start the sites, then --resume")
        return self.card.layout()

    def adapter_digest(self, manifest: Manifest, adapter: Vector | None) -> bytes:
        """The digest of a running adapter; of none, 32 zero bytes."""
        return bytes(32) if adapter is None else adapter_digest(self.layout(manifest), adapter)

    def _cards(self, proposal: Proposal, sites: Iterable[str], timeout_s: float) -> dict[str, ModelCard]:
        requests = {site: [Packet(proposal.encode())] for site in sorted(sites)}
        self._journal.write("proposed", asked=sorted(requests), settings=self._plan.settings())
        cards = {}
        for site, answer in self._link.ask("propose", requests, timeout_s):
            card = self._checked(site, answer, ModelCard)
            if card is not None and card.nonce == proposal.nonce:
                cards[site] = card
                self._journal.write("loaded", site=site)
        return cards

    def _checked(self, site: str, answer: Answer, kind: type[_Signed]) -> _Signed | None:
        """The site's signed message, or None, noted, if it refused or sent something else."""
        if isinstance(answer, SiteRefusal):
            self._journal.write("refused", phase=kind.__name__, site=site, code=answer.code, blames=answer.site)
            return None
        try:
            return require_from(self._roster, site, kind.decode(answer.head))
        except SecAggError as error:
            self._journal.write("fault", phase=kind.__name__, site=site, code=error.code)
            return None

    def _manifest(self, nonce: bytes, settings: tuple[Setting, ...], card: ModelCard) -> Manifest:
        plan, sites = self._plan, self.current_sites()
        numbers, lanes = session_numbers(plan, len(sites))
        layout = card.layout()
        options = tuple(Setting(name, value) for name, value in plan.options().items())
        return Manifest(
            VERSION, SUITE, plan.scheme, nonce, self._roster.digest(), sites,
            numbers.colluders, numbers.dropouts, numbers.threshold, numbers.quorum, numbers.least_survivors,
            COMPLETE_GRAPH,
            QuantizerParams(plan.bits, lanes, plan.weight_cap, int(plan.rotate), math.ceil(plan.clip_norm * 2**20)),
            first_range_of(plan), layout.size, layout.digest(), card.base_model, card.tokenizer,
            card.lora_config, card.initial_adapter, MEAN_OF_FACTORS, plan.rounds, self._server_key, settings, options,
        )  # fmt: skip


def session_numbers(plan: Plan, sites: int) -> tuple[Thresholds, int]:
    """The thresholds and the lane width for this many sites. Raises ServerError if none fit."""
    colluders, dropouts = (None if each < 0 else each for each in (plan.colluders, plan.dropouts))
    try:
        numbers = plan_thresholds(sites, colluders, dropouts)
        lanes = headroom(plan.bits, sites, plan.weight_cap)
    except Misuse as error:
        raise ServerError(str(error), "change --colluders, --dropouts, --bits or --weight-cap") from error
    if plan.min_sites and not numbers.least_survivors <= plan.min_sites <= sites:
        raise ServerError(
            f"--min-sites {plan.min_sites} is not in {numbers.least_survivors}..{sites}",
            "fewer sites than that cannot finish a round; choose another --min-sites",
        )
    return numbers, lanes


def first_range_of(plan: Plan) -> int:
    """The range of round 1 in units of 2^-40: as asked, or Adam's bound for the steps of one round."""
    if plan.first_range > 0:
        return min(MAX_RANGE_Q40, max(1, math.ceil(plan.first_range * 2.0**40)))
    training = plan.training
    steps = training.local_steps
    if not steps:
        blocks = -(-training.max_blocks // training.batch_size) if training.max_blocks else UNKNOWN_STEPS
        steps = training.local_epochs * blocks
    return first_range(max(1, math.ceil(training.learning_rate * 2.0**40)), steps, KAPPA[plan.rotate])


def _agreed(cards: dict[str, ModelCard]) -> ModelCard:
    """The card that all sites gave. Raises ServerError naming those that differ from the majority."""
    for name, what in WHAT.items():
        values = {site: getattr(card, name) for site, card in cards.items()}
        common, _ = Counter(values.values()).most_common(1)[0]
        others = sorted(site for site, value in values.items() if value != common)
        if others:
            raise ServerError(
                f"{', '.join(others)} loaded {what} than the other sites",
                "have every site use the same files and versions; fedclient --model names a local copy",
            )
    return next(iter(cards.values()))
