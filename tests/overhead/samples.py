"""Small records written by hand, with figures whose ratios and powers are known."""

from __future__ import annotations

from typing import Any

from fedserver.overhead.record import Record
from fedserver.overhead.run import Run

Plain = dict[str, Any]


def around(middle: float) -> list[float]:
    """Three repetitions with this median."""
    return [middle * 0.98, middle, middle * 1.03]


def total(scheme: str, role: str, values: int, sites: int, cpu_s: float, **more: Any) -> Plain:
    """A role's whole work of a round."""
    setting = {"scheme": scheme, "role": role, "values": values, "sites": sites, "neighbours": sites - 1, "bits": 8}
    return {"family": "total", **setting, "cpu_s": around(cpu_s), **more}


def round_(scheme: str, wall_s: float, up: int, down: int, **phases: float) -> list[Plain]:
    """A round of 4 sites and 500,000 values, whole and by phase."""
    common = {"family": "round", "scheme": scheme, "role": "whole", "values": 500_000, "sites": 4, "dropped": 0}
    whole = {**common, "stage": "whole", "wall_s": around(wall_s), "bytes_up": up, "bytes_down": down}
    return [whole, *({**common, "stage": name, "wall_s": around(seconds)} for name, seconds in phases.items())]


def everything() -> list[Plain]:
    """At least one record of each family."""
    grown = [
        total(scheme, role, values, 10, factor * values / 1e6)
        for scheme, role, factor in (("masked", "site", 0.3), ("masked", "server", 0.2), ("ckks", "site", 0.6))
        for values in (100_000, 1_000_000, 4_000_000)
    ]
    return [
        *grown,
        total("masked", "site", 40_000_000, 10, 12.0, extrapolated=True),
        *(total("masked", "site", 500_000, sites, 0.01 * sites**2) for sites in (4, 10, 40)),
        *(
            {"family": "stage", "scheme": "masked", "role": role, "stage": stage, "values": 10**6, "sites": 10,
             "cpu_s": around(0.1)}
            for role, stage in (("site", "quantise"), ("site", "protect"), ("server", "add"), ("open", "open"))
        ),
        {"family": "peer", "scheme": "flower-secagg+", "role": "site", "values": 10**6, "sites": 10, "neighbours": 9,
         "cpu_s": around(2.7), "bytes_up": 8_000_000, "against": [{"scheme": "masked", "ratios": [8.8, 9.0, 9.3]}],
         "note": "<script>alert(1)</script> & | a_b"},
        {"family": "floor", "scheme": "aes-ctr", "values": 10**6, "cpu_s": around(0.002)},
        {"family": "memory", "scheme": "masked", "role": "site", "values": 10**6, "sites": 10, "peak_bytes": 10**7},
        *round_("plain", 1.0, 800_000, 810_000, start=0.4, mask=0.5, commit=0.1),
        *round_("masked", 1.3, 900_000, 1_100_000, start=0.4, advertise=0.2, mask=0.5, unmask=0.1, commit=0.1),
        *round_("flower-fedavg", 2.6, 2_000_000, 2_000_000),
        {"family": "accuracy", "scheme": "masked", "role": "whole", "values": 81_920, "sites": 4, "bits": 8,
         "value": 24.98, "unit": "perplexity"},
        {"family": "startup", "stage": "fedserver --help", "wall_s": around(0.4)},
        {"family": "upload", "scheme": "masked", "bytes_up": 10**8, "wall_s": around(1.5),
         "against": [{"scheme": "https", "ratios": [1.5, 1.6, 1.7]}]},
        {"family": "training", "stage": "one step", "values": 81_920, "wall_s": around(0.05)},
    ]  # fmt: skip


MODELS = tuple(
    {
        "model": model, "rank": 16, "targets": "all-linear", "values": values, "scheme": "masked", "sites": sites,
        "bytes_up": 2 * values, "bytes_down": 2 * values, "site_cpu_s": 1e-6 * values, "server_cpu_s": 1e-5 * values,
        "share_1_min": 0.3, "share_10_min": 0.05, "extrapolated": values > 4_000_000, "fits": sites <= 100,
    }
    for model, values in (("GPT-2", 1_200_000), ("Llama-3-8B", 41_900_000)) for sites in (20, 1000)
)  # fmt: skip


def saved(records: list[Plain]) -> Plain:
    """As pytest-benchmark writes it."""
    return {
        "machine_info": {
            "node": "host-of-somebody", "machine": "x86_64", "system": "Linux", "release": "6.1",
            "python_implementation": "CPython", "python_version": "3.11.9",
            "cpu": {"brand_raw": "A <b>fast</b> processor", "count": 2}, "packages": {"numpy": "2.4.6"},
        },
        "commit_info": {"id": "0123456789abcdef0123", "dirty": True},
        "datetime": "2026-11-21T15:00:00.5", "version": "5.3.1",
        "benchmarks": [{"name": "one", "extra_info": {"records": records}}, {"name": "other", "extra_info": {}}],
    }  # fmt: skip


def run_of(*records: Plain) -> Run:
    """A run of these alone."""
    return Run(tuple(Record.from_plain(each) for each in records))
