"""Whole rounds of real processes: what each scheme adds to one, and where its time goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from fedserver.overhead.record import OTHERS, Record
from fedserver.overhead.run import Run
from fedserver.overhead.units import middle

WHOLE: Final = "whole"
TRAIN: Final = "train"  # of a real federation: handing out the last sum, opening it, training
UNPROTECTED: Final = "plain"  # our own transport, nothing protected
BASELINE: Final = "flower-fedavg"
PHASES: Final = {
    TRAIN: "sites get the sum of the round before, open it and train",
    "start": "sites get the sum of the round before and open it; training is left out",
    "advertise": "sites sign fresh keys for the round",
    "share": "sites share the secrets that unmask in case one vanishes",
    "mask": "sites quantise and protect their updates and send them",
    "contribute": "sites quantise and encrypt their updates and send them, in their one message of the round",
    "send": "sites send their updates, quantised and in clear",
    "consent": "sites agree on who survived",
    "unmask": "survivors release what opens the sum, or opens it to sites",
    "check": "sites check the sum against what they sent",
    "commit": "the server opens the sum if it may, and stores the round",
}


class Setting(NamedTuple):
    """What a round was held with."""

    values: int
    sites: int
    dropped: int


@dataclass(frozen=True)
class Cost:
    """One scheme's rounds under one setting: of the whole, and by phase in the order of the round."""

    scheme: str
    whole: Record
    phases: tuple[Record, ...]

    @property
    def protocol(self) -> tuple[Record, ...]:
        """The server's phases, but for training."""
        return tuple(each for each in self.phases if each.stage != TRAIN and each.role != "site")

    @property
    def seconds(self) -> float:
        """Wall time of a round, the middle one."""
        return middle(self.whole.wall_s) or 0.0


@dataclass(frozen=True)
class Added:
    """What a round takes beyond the same round with nothing protected. Bytes are a site's."""

    seconds: tuple[float, ...]
    bytes_up: int | None
    bytes_down: int | None


def costs(run: Run) -> dict[Setting, dict[str, Cost]]:
    """Every setting, by scheme; a scheme without a figure of the whole round is left out."""
    grouped: dict[Setting, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for each in run.of("round"):
        if each.values and each.sites and each.scheme and each.wall_s:
            grouped[Setting(each.values, each.sites, each.dropped or 0)][each.scheme].append(each)
    found: dict[Setting, dict[str, Cost]] = {}
    for setting, schemes in grouped.items():
        costs_here = {scheme: cost for scheme, group in schemes.items() if (cost := _cost(scheme, group)) is not None}
        if costs_here:
            found[setting] = costs_here
    return found


def _cost(scheme: str, group: Sequence[Record]) -> Cost | None:
    whole = next((each for each in group if each.stage in (WHOLE, None)), None)
    order = {name: place for place, name in enumerate(PHASES)}
    phases = sorted(
        (each for each in group if each.stage not in (WHOLE, None)), key=lambda each: order.get(each.stage or "", 99)
    )
    return None if whole is None else Cost(scheme, whole, tuple(phases))


def headline(found: dict[Setting, dict[str, Cost]]) -> Setting | None:
    """The setting that says most: the most schemes, something to hold them against, nobody missing, large."""

    def says(setting: Setting) -> tuple[int, bool, int, int, int, int]:
        schemes = set(found[setting])
        protected = len(schemes - set(OTHERS))
        return (
            protected, UNPROTECTED in schemes, len(schemes), -setting.dropped, setting.values, -setting.sites
        )  # fmt: skip

    return max(found, key=says, default=None)


def added(cost: Cost, plain: Cost) -> Added:
    """The difference, repetition by repetition where there are as many of both."""
    ours, theirs = cost.whole.wall_s or (), plain.whole.wall_s or ()
    if len(ours) == len(theirs):
        times = tuple(own - other for own, other in zip(ours, theirs, strict=True))
    else:
        times = ((middle(ours) or 0.0) - (middle(theirs) or 0.0),)
    return Added(
        times,
        _less(cost.whole.bytes_up, plain.whole.bytes_up),
        _less(cost.whole.bytes_down, plain.whole.bytes_down),
    )


def _less(own: int | None, other: int | None) -> int | None:
    return None if own is None or other is None else own - other
