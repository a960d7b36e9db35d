"""A real federation's journal, and what sites gave of their own records, as a run that the report renders."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from fedclient.timings import Timing, kept
from fedclient.transcript import MANIFEST
from fedserver.journal import read_events
from fedserver.overhead.record import Record
from fedserver.overhead.rounds import PHASES, TRAIN, WHOLE
from fedserver.overhead.run import Round, Run
from fedserver.plan import Plan, ServerError
from secagg.config import Manifest
from secagg.errors import Malformed
from secagg.schemes import cautions

EVENTS, PLAN_FILE, STATE = "events.jsonl", "plan.json", "state"  # as in fedserver.app, which loads Flower
_AS_NAMED: Final = {"start": TRAIN}  # a journal's name of a phase -> the report's
_ENDS: Final = ("open", *PHASES)  # order of a site's phases


def session_run(folder: Path, timings: Sequence[Path] = ()) -> Run:
    """The run in a session's --out. timings: copies of sites' timings.jsonl. Raises ServerError."""
    if not (folder / PLAN_FILE).exists() or not (folder / EVENTS).exists():
        raise ServerError(f"{folder} holds no session", "give the --out of a fedserver that has run")
    plan = Plan.load(folder / PLAN_FILE)
    events = read_events(folder / EVENTS)[0]
    finished = [each for each in events if each["event"] == "aggregated"]
    if not finished:
        raise ServerError(f"no round of the session in {folder} has ended", "run the report after the first round")
    manifest = _manifest(folder)
    try:
        records = [*_records(finished, plan), *_sites_records(timings, finished, plan, manifest)]
        rounds = tuple(_round(each) for each in finished)
        facts = _facts(events, finished, plan, manifest)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"{folder / EVENTS} is not as fedserver writes it: {error}", "report on a copy") from None
    voids = sum(each["event"] == "void" for each in events)
    return Run(tuple(records), "session", facts, rounds=rounds, voids=voids)


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.decode((folder / STATE / MANIFEST).read_bytes())
    except (OSError, Malformed):
        return None


def _round(event: dict[str, Any]) -> Round:
    return Round(
        event["round"], event["attempt"], len(event["contributors"]), tuple(event["dropouts"]),
        event["seconds_train"], _protocol_s(event), event["seconds_total"],
    )  # fmt: skip


def _protocol_s(event: dict[str, Any]) -> float:
    return float(sum(event["seconds"].values()) + event.get("seconds_commit", 0.0))


def _records(finished: Sequence[dict[str, Any]], plan: Plan) -> list[Record]:
    """Of the whole rounds, and of each phase over the rounds that had it."""
    common = _common(finished, plan)
    up, down = ([_of_a_site(each, name) for each in finished] for name in ("bytes_up", "bytes_down"))
    whole = Record(
        **common, role="whole", stage=WHOLE, wall_s=tuple(each["seconds_total"] for each in finished),
        bytes_up=round(median(up)), bytes_down=round(median(down)),
    )  # fmt: skip
    names = dict.fromkeys(name for each in finished for name in ("start", *each["seconds"], "commit"))
    return [whole, *(record for name in names if (record := _phase(name, finished, common)) is not None)]


def _common(finished: Sequence[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    first = finished[0]
    sites = len(first["contributors"]) + len(first["dropouts"])
    return {"family": "round", "scheme": plan.scheme, "values": first["size"], "sites": sites, "bits": plan.bits}


def _of_a_site(event: dict[str, Any], name: str) -> float:
    return float(sum(event[name].values())) / len(event["contributors"])


def _phase(name: str, finished: Sequence[dict[str, Any]], common: dict[str, Any]) -> Record | None:
    wall = {"start": "seconds_train", "commit": "seconds_commit"}.get(name)
    those = [each for each in finished if (wall in each if wall else name in each["seconds"])]
    if not those:
        return None
    seconds = tuple(float(each[wall] if wall else each["seconds"][name]) for each in those)
    cpu = [each["cpu"][name] for each in those if name in each.get("cpu", {})]
    up, down = (
        round(median(each[way].get(name, 0) / len(each["contributors"]) for each in those))
        for way in ("bytes_up", "bytes_down")
    )
    return Record(
        **common, role="server", stage=_AS_NAMED.get(name, name), wall_s=seconds,
        cpu_s=tuple(cpu) if len(cpu) == len(seconds) else None, bytes_up=up, bytes_down=down,
    )  # fmt: skip


def _sites_records(
    files: Sequence[Path], finished: Sequence[dict[str, Any]], plan: Plan, manifest: Manifest | None
) -> list[Record]:
    """A record for each phase, with one repetition for each site and round."""
    taken: dict[str, dict[tuple[Path, int], tuple[float, float]]] = defaultdict(dict)
    for file in files:
        lines = _lines(file, manifest)
        for line in lines:
            for phase, seconds in line.seconds.items():
                wall, cpu = taken[phase].get((file, line.round), (0.0, 0.0))
                taken[phase][file, line.round] = wall + seconds, cpu + line.cpu.get(phase, 0.0)
    common = _common(finished, plan)
    return [
        Record(
            **common, role="site", stage=phase, wall_s=tuple(wall for wall, _ in taken[phase].values()),
            cpu_s=tuple(cpu for _, cpu in taken[phase].values()), note="from the records that sites gave",
        )
        for phase in sorted(taken, key=lambda name: _ENDS.index(name) if name in _ENDS else len(_ENDS))
        if phase in _ENDS and phase != "start"
    ]  # fmt: skip


def _lines(file: Path, manifest: Manifest | None) -> list[Timing]:
    """Those of this session. Raises ServerError if there are none."""
    try:
        lines = list(kept(file))
    except OSError as error:
        raise ServerError(f"cannot read {file}: {error.strerror}", "give a copy of HOME/timings.jsonl") from None
    if manifest is not None:
        lines = [each for each in lines if each.session == manifest.digest().hex()]
    if not lines:
        raise ServerError(f"{file} holds nothing of this session", "give a copy of HOME/timings.jsonl of its sites")
    return lines


def _facts(
    events: Sequence[dict[str, Any]], finished: Sequence[dict[str, Any]], plan: Plan, manifest: Manifest | None
) -> dict[str, str]:
    begun, ended = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(events[place]["time"])) for place in (0, -1))
    model = Path(plan.model).name if Path(plan.model).is_absolute() else plan.model
    lora, said = plan.lora, cautions(plan.scheme, plan.options())
    return {
        "taken": f"{begun} to {ended} UTC",
        "session": "" if manifest is None else manifest.digest().hex()[:16],
        "scheme": f"{plan.scheme}, {plan.bits} bits a value",
        **({"caution": " ".join(said)} if said else {}),
        "model": f"{model}, LoRA r = {lora.rank} on {lora.target_modules}",
        "rounds": f"{len(finished)} of {plan.rounds}",
    }
