"""Virtual sites: how a process of Flower's simulation engine answers for any site of one consortium.

The engine hands each message to whichever worker process is free, so what a worker remembers of a site may be
old. A virtual site therefore keeps nothing between two requests but what never changes: keys, roster, texts and
the base model. Where the session stands is read from the site's durable store every time, as after a restart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from fedclient.learner import LearnerOptions, LoraLearner, load_records
from fedclient.policy import POLICY_FILE, load_policy
from fedclient.settings import LocalError, LoraSettings
from fedclient.site import Facts, Learner, Site
from keys.pin import accept_roster
from keys.public import read_roster
from keys.store import SiteHome, load_site
from secagg.config import Policy
from secagg.identity import Roster
from secagg.session import Packet

if TYPE_CHECKING:
    from fedclient.adapter import AdapterModel

ROSTER: Final = "roster.json"
HOMES: Final = "sites"
DATA: Final = "data"  # <site>/train.jsonl and test.jsonl
BUSY_LOCK: Final = "agent.lock"  # the one that a real fedclient holds while it runs
BUSY_S: Final = 600.0


class VirtualSite:
    """One site, opened afresh for every request; any number of processes may hold one for the same home."""

    def __init__(self, home: SiteHome, roster: Roster, policy: Policy, learner: Learner) -> None:
        self._home, self._roster, self._policy, self._learner = home, roster, policy, learner

    @property
    def name(self) -> str:
        """The site's name on the roster."""
        return self._home.name

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        """As `Site.handle`; waits for another process that answers for this site. Raises what it raises."""
        try:
            with FileLock(self._home.home / BUSY_LOCK, timeout=BUSY_S, mode=0o600):
                return self._opened().handle(kind, packets)
        except Timeout:
            problem = f"another process has answered for {self.name} for {BUSY_S:.0f} s"
            raise LocalError(problem, "end that process, then run the simulation again") from None

    def _opened(self) -> Site:
        home = self._home
        return Site(
            home.home, home.keys, home.state_key, self._roster, self._policy, self._learner, os.urandom,
            lambda: int(time.time()),
        )  # fmt: skip


def open_site(folder: Path, partition: int) -> VirtualSite:
    """The site that plays a partition: the roster's, in its order. Raises LocalError or KeyFileError.

    folder: what `python -m fedserver.simulate` prepared: roster.json, sites/<name>/, data/<name>/.
    """
    home = load_site(folder / HOMES / site_of(folder, partition))
    roster = accept_roster(home, folder / ROSTER, int(time.time()))
    data = folder / DATA / home.name
    options = LearnerOptions(home.name, home.home / "adapter")
    records = load_records(data / "train.jsonl", data / "test.jsonl", 0.0)
    return VirtualSite(home, roster, load_policy(home.home / POLICY_FILE), SharedLearner(options, *records))


def site_of(folder: Path, partition: int) -> str:
    """The name of the site that plays a partition. Raises LocalError if the roster is too short."""
    sites = read_roster(folder / ROSTER).sites
    if not 0 <= partition < len(sites):
        problem = f"there is no site for partition {partition}: the roster lists {len(sites)}"
        raise LocalError(problem, f"run with num-supernodes={len(sites)}")
    return sites[partition].site


class SharedLearner(LoraLearner):
    """A learner that has the base model in common with the other virtual sites of its process.

    They take turns, and each writes its adapter into the model before it trains or evaluates.
    """

    _facts: tuple[dict[str, str], bytes, Facts] | None = None

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """As `LoraLearner.prepare`, but at once where nothing changed: every request of the protocol comes here."""
        if self._facts is None or self._facts[:2] != (settings, nonce):
            self._facts = settings, nonce, super().prepare(settings, nonce)
        return self._facts[2]

    def _load(self, name: str, lora: LoraSettings) -> AdapterModel:
        self._model = _shared_model(name, lora, self._options.device)
        return self._model


@lru_cache(maxsize=1)
def _shared_model(name: str, lora: LoraSettings, device: str) -> AdapterModel:
    from fedclient.adapter import AdapterModel

    return AdapterModel.load(name, lora, device)
