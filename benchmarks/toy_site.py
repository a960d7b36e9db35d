"""A site's process that trains nothing, for timing the protocol alone: keys, policy, store, agent and TLS are real.

python -m benchmarks.toy_site HOME SERVER CA ROSTER SIZE [DROPS]

In every round whose number DROPS divides, the site loses its vector on the way out, and so drops out; 0: in none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plaintext
from benchmarks.consortium import update_of
from benchmarks.layout import layout_of
from fedclient.cli import _serve, only_agent
from fedclient.site import Facts, Site
from keys.pin import accept_roster
from keys.store import load_site
from secagg.config import Policy
from secagg.enrol import AttemptRef
from secagg.errors import Refused
from secagg.initial import initial_adapter
from secagg.schemes import SCHEMES
from secagg.session import Metrics, Packet
from secagg.vector import Layout, Vector

PATIENCE_S = 60.0


@dataclass
class InstantLearner:
    """Implements `fedclient.site.Learner`; its updates were made beforehand."""

    layout: Layout

    def __post_init__(self) -> None:
        self._update = update_of(self.layout.size)

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Facts of a model that does not exist."""
        values = initial_adapter(self.layout, nonce)
        return Facts(bytes(32), bytes(32), bytes(32), self.layout, values)

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """The same update every round."""
        return self._update.values, self._update.metrics

    def save(self, adapter: Vector) -> None:
        """Keeps nothing."""


class DroppingSite(Site):
    """A site that drops out of every `drops`-th round, once it has made its vector; 0 = of none."""

    drops = 0

    def handle(self, kind: str, packets: Sequence[Packet]) -> Packet:
        """The reply; a refusal in the vector's place where the site drops out."""
        reply = super().handle(kind, packets)
        if self.drops and reply.words is not None and AttemptRef.decode(packets[0].head).round % self.drops == 0:
            raise Refused("this site drops out of the round")
        return reply


def main(home: Path, server: str, ca: Path, roster: Path, size: int, drops: int = 0) -> None:
    """Serves until the session is over."""
    plaintext.register()
    keys = load_site(home)
    learner, policy = InstantLearner(layout_of(size)), Policy(tuple(SCHEMES), least_colluders=0)
    with only_agent(home):
        listed = accept_roster(keys, roster, int(time.time()))
        site = DroppingSite(
            keys.home, keys.keys, keys.state_key, listed, policy, learner, os.urandom, lambda: int(time.time())
        )
        site.drops = drops
        _serve(site, keys, server, ca, PATIENCE_S)


if __name__ == "__main__":
    own_home, address, own_ca, listing, *numbers = sys.argv[1:]
    main(Path(own_home), address, Path(own_ca), Path(listing), *map(int, numbers))
