"""The figures of a session, from its journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedserver.app import EVENTS
from fedserver.journal import events_named


def summarise(out: Path, scheme: str, sites: Sequence[str], judged: dict[str, Any]) -> dict[str, Any]:
    """What the demo's summary.json holds. judged: perplexities of `fedclient.demo.evaluate`, by adapter."""
    rounds = list(events_named(out / EVENTS, "aggregated"))
    protection = next(events_named(out / EVENTS, "protection"), {})
    protocol = sum(sum(each["seconds"].values()) for each in rounds)
    return {
        "scheme": scheme,
        "options": protection.get("options", {}),
        "cautions": protection.get("cautions", []),
        "rounds": len(rounds),
        "sites": list(sites),
        "perplexity": {
            "base": judged["base"]["union"],
            "alone": {site: judged["alone"][site]["union"] for site in sites},
            "federated": judged["federated"]["union"],
            "per_domain": {
                "base": judged["base"]["domains"],
                "alone": {site: judged["alone"][site]["domains"] for site in sites},
                "federated": judged["federated"]["domains"],
            },
        },
        "bytes_up_per_param": bytes_up_per_parameter(rounds),
        "seconds": {
            "train": round(sum(each["seconds_train"] for each in rounds), 2),
            "protocol": round(protocol, 2),
        },
        "phases": phases(rounds),
        "took_part": [each["contributors"] for each in rounds],
        "dropouts": {str(each["round"]): each["dropouts"] for each in rounds if each["dropouts"]},
        "voids": len(list(events_named(out / EVENTS, "void"))),
    }


def bytes_up_per_parameter(rounds: Sequence[dict[str, Any]]) -> float:
    """Mean over rounds and contributing sites of the encoded bytes sent up, per value of the adapter."""
    if not rounds:
        return 0.0
    per: list[float] = [sum(each["bytes_up"].values()) / len(each["contributors"]) / each["size"] for each in rounds]
    return round(sum(per) / len(per), 4)


def phases(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean seconds and bytes of each phase over the rounds; training and its traffic under 'start'."""
    names = list(dict.fromkeys(name for each in rounds for name in each["bytes_down"]))
    found = {}
    for name in names:
        seconds = [each["seconds_train"] if name == "start" else each["seconds"].get(name, 0.0) for each in rounds]
        found["train" if name == "start" else name] = {
            "seconds": sum(seconds) / len(rounds),
            "bytes_up": sum(each["bytes_up"].get(name, 0) for each in rounds) / len(rounds),
            "bytes_down": sum(each["bytes_down"].get(name, 0) for each in rounds) / len(rounds),
        }
    return found
