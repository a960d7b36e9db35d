"""Whole attempts with every message in both directions, and a chain of rounds (spec §11, §7.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from secagg.chain import Position
from secagg.session import Mean
from secagg.vector import Vector, adapter_digest
from tests.vectors import form
from tests.vectors.form import Json, bad, case_file, file, good
from tests.vectors.making.trips import PLAIN, ROTATED, TWO_GONE, is_exact, plain_words, settled
from tests.vectors.scene import Played, Session

THREE = Session(3, size=21, rotate=1)
Silent = Mapping[str, Sequence[str]]

ROUNDS: dict[str, list[tuple[str, Session, Silent]]] = {
    "round_3_sites_0_dropouts": [("not rotated", PLAIN, {}), ("rotated", THREE, {})],
    "round_3_sites_1_dropout": [
        ("silent in advertise", PLAIN, {"advertise": ["dale"]}),
        ("silent in share", PLAIN, {"share": ["aasen"]}),
        ("silent in mask: its shares have left, its vector has not", PLAIN, {"mask": ["fjell"]}),
        ("silent in consent: its vector has left, its signature has not", PLAIN, {"consent": ["dale"]}),
        ("silent in unmask: it has signed", PLAIN, {"unmask": ["dale"]}),
        ("silent in check: its masked words travel", PLAIN, {"check": ["dale"]}),
    ],
    "round_3_sites_2_dropouts": [
        ("both silent in share", PLAIN, {"share": ["aasen", "dale"]}),
        ("both silent in mask", PLAIN, {"mask": ["aasen", "fjell"]}),
    ],
    "round_5_sites_0_dropouts": [("weights, lanes of 16 bits", ROTATED, {})],
    "round_5_sites_1_dropout": [
        ("silent in advertise: outside U1", ROTATED, {"advertise": ["aasen"]}),
        ("silent in mask: its key is revealed", ROTATED, {"mask": ["fjell"]}),
        (
            "silent in consent: a survivor, its seed is revealed, its masked words travel",
            ROTATED,
            {"consent": ["dale"]},
        ),
        ("silent in check: a survivor, its masked words travel", ROTATED, {"check": ["hauge"]}),
    ],
    "round_5_sites_2_dropouts": [
        ("both keys are revealed", TWO_GONE, {"mask": ["aasen", "hauge"]}),
        ("one deals no shares, one leaves before its vector", TWO_GONE, {"share": ["dale"], "mask": ["lunde"]}),
        ("one leaves before its vector, one after it", TWO_GONE, {"mask": ["fjell"], "consent": ["aasen"]}),
        ("two that the thresholds do not bear", ROTATED, {"mask": ["aasen", "hauge"]}),
        ("three, and too few shares", TWO_GONE, {"mask": ["aasen"], "unmask": ["dale", "fjell"]}),
    ],
}


def round_file(name: str) -> Json:
    """All attempts of one number of sites and dropouts."""
    cases = [_attempt(title, session, silent) for title, session, silent in ROUNDS[name]]
    about = (
        "Whole attempts. silent: phase -> sites that answer nothing from that phase on. words: x_u of every site that "
        "sent a vector. An attempt that ends too-few-sites names the phase at whose end the server found so."
    )
    return case_file(about, "11", cases, "attempt")


def _attempt(name: str, session: Session, silent: Silent) -> Json:
    played = settled(session, silent=silent)
    inputs = attempt_inputs(played, silent)
    if played.error is not None:
        case = bad(name, inputs, played.error.code)
        case["error"]["phase"] = played.server.phase
        return {**case, "outputs": {"trips": played.trips}}
    outputs = {
        "trips": played.trips,
        "exact": is_exact(played),
        "words": {site: form.words(plain_words(played, site)) for site in masked_sites(played)},
        **opened(played),
    }
    return good(name, inputs, outputs)


def attempt_inputs(played: Played, silent: Silent) -> Json:
    """Everything from which the attempt follows."""
    return {
        **played.common(),
        "server_seed": played.session.server_seed.hex(),
        "cohort": list(played.cohort),
        "silent": {phase: list(sites) for phase, sites in silent.items()},
        "sites": {site: played.site_inputs(site) for site in played.cohort},
    }


def masked_sites(played: Played) -> list[str]:
    return [site for site, *_ in played.heads["mask"]]


def opened(played: Played) -> Json:
    """The aggregate and all that follows from it."""
    aggregate, opening = played.server.result(), played.opening()
    mean: Mean = played.scheme.open(played.context, aggregate.payload, opening)
    return {
        "aggregate": form.packet(aggregate.payload),
        **({"opening": opening.hex()} if opening else {}),
        "survivors": list(mean.contributors),
        "mean": form.floats(mean.values),
        "totals": totals(mean),
        "transcript": mean.transcript.hex(),
        "next_range_q40": mean.next_range_q40,
    }


def totals(mean: Mean) -> Json:
    return {each.name: getattr(mean.totals, each.name) for each in fields(mean.totals)}


def transcript_chain() -> Json:
    """Three rounds of one session, each from the adapter that the one before left."""
    session, rows = Session(5, colluders=0, size=21, rotate=1, weight_cap=2), []
    position, adapter = Position.start(session.manifest), session.initial
    first = position
    for attempt, silent in ((1, {}), (3, {"mask": ["dale"]}), (1, {"share": ["aasen"], "consent": ["hauge"]})):
        played = settled(session, attempt=attempt, position=position, silent=silent)
        found = opened(played)
        rows.append({"inputs": attempt_inputs(played, silent), **_round(played)})
        position, adapter = after(session, position, adapter, played)
        rows[-1]["outputs"] = {**found, "adapter": form.floats(adapter), "position": position.encode().hex()}
    inputs = {
        "tensors": [[name, list(shape)] for name, shape in session.layout.tensors],
        "start": first.encode().hex(), "adapter": form.floats(session.initial),
    }  # fmt: skip
    outputs = {"position": position.encode().hex(), "adapter": form.floats(adapter)}
    case = good("three rounds", {**inputs, "rounds": rows}, outputs)
    about = (
        "A chain of three rounds in attempts 1, 3 and 1. rounds: each with its inputs (as in the files round_*) and, "
        "in its outputs, the aggregate, what it opens to, the next adapter (binary32 little-endian) and the Position."
    )
    return file(about, "7.7, 11.7", "chain", [case])


def _round(played: Played) -> Json:
    return {"round": played.context.header.round, "attempt": played.context.header.attempt}


def after(session: Session, position: Position, adapter: Vector, played: Played) -> tuple[Position, Vector]:
    """Spec §7.7."""
    mean: Mean = played.scheme.open(played.context, played.server.result().payload)
    grown = np.add(adapter, mean.values, dtype=np.float32)
    return position.after(mean, adapter_digest(session.layout, grown)), grown


FILES: dict[str, Any] = {f"masked/{name}.json": partial(round_file, name) for name in ROUNDS}
