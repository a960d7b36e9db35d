"""How the figures of a run were taken, and which ones it lacks."""

from __future__ import annotations

from typing import Final

from fedserver.overhead import names
from fedserver.overhead.blocks import Block, Points, Table
from fedserver.overhead.record import OTHERS, Record
from fedserver.overhead.rounds import costs
from fedserver.overhead.run import Run, time_of

WAYS: Final = {
    "stage": "CPU time of one stage on sessions that the protocol brought there",
    "total": "CPU time of all a role's replies of one round, signatures and encoding included",
    "peer": "CPU time of the same work by another package, in the same process, in turn with ours",
    "floor": "CPU time of work that no protection can save: plain averages, a cipher, a copy",
    "memory": "high-water mark of a process of its own, less its imports and its input",
    "round": "wall time by the server's journal: real processes with keys, stores and TLS on this machine",
    "accuracy": "the opened sum beside the mean of the same updates in floating point",
    "startup": "wall time of a command from a cold process",
    "upload": "wall time of one upload through the gateway, in turn with plain HTTPS",
    "training": "wall time of one local step",
}
SESSION_WAY: Final = "wall time and the server process's CPU time by the journal of this federation's rounds"
_MISSING: Final = {
    "round": "whole rounds of real processes",
    "total": "a role's whole work of a round",
    "stage": "single stages of a role's work",
    "peer": "other packages",
    "floor": "floors: plain averages, a cipher, a copy",
    "memory": "peak memory",
    "accuracy": "accuracy",
    "startup": "start-up",
    "upload": "uploads beside plain HTTPS",
    "training": "local training",
}
_PEERS: Final = ("flower-secagg+", "tenseal-4096", "tenseal-8192-each", "flower-fedavg", "plain")
_RULES: Final = (
    "CPU time is that of all threads of the process, and of no other process; arithmetic libraries get one thread.",
    "Ratios are taken between repetitions that followed one another, so that what slows the machine slows both; they "
    "carry over to other machines better than seconds do.",
    "Of repetitions the middle is told, and in brackets the least and the most.",
    "Bytes are counted from encoded messages: heads and 8 bytes a word, without the records of HTTP and TLS around "
    "them. MB are 10^6 bytes.",
)
_SESSION_RULES: Final = (
    "Wall time is the server's: from asking the sites to the last answer it took, network and waiting included.",
    "CPU time is that of the server's own process; its SuperLink, which is the gateway too, is another.",
    "Of rounds the middle is told, and in brackets the least and the most.",
    "Bytes are counted from encoded messages: heads and 8 bytes a word, without the records of HTTP and TLS around "
    "them. MB are 10^6 bytes. A site's share is the sum over all sites, divided by those in the sum.",
    "Each site keeps a record of its own, which fedclient report shows there and which it never sends.",
)


def method(run: Run) -> list[Block]:
    """Where, when and how; a line for each kind of figure."""
    facts = tuple((name, text) for name, text in run.facts.items())
    blocks: list[Block] = []
    if facts:
        blocks.append(Table("Where and when", ("what", "which"), facts))
    kinds = tuple(
        (family, _way(run, family), _repetitions(records), str(len(records)))
        for family in _MISSING if (records := run.of(family))
    )  # fmt: skip
    if kinds:
        headings = ("kind", "how it was taken", "repetitions", "records")
        blocks.append(Table("Kinds of figures", headings, kinds, frozenset((2, 3))))
    notes = tuple(dict.fromkeys((each.family, names.name(each.scheme), each.note) for each in run.records if each.note))
    if notes:
        blocks.append(Table("Notes on single figures", ("kind", "scheme", "note"), notes, folded=True))  # type: ignore[arg-type]
    return [*blocks, Points(_SESSION_RULES if run.kind == "session" else _RULES)]


def _way(run: Run, family: str) -> str:
    return SESSION_WAY if run.kind == "session" else WAYS[family]


def _repetitions(records: list[Record]) -> str:
    counts = [len(times) for each in records if (times := time_of(each))]
    if not counts:
        return "1"
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def not_measured(run: Run) -> list[str]:
    """One line for each thing that a reader could expect here and does not find."""
    there = {each.family for each in run.records}
    gone = [text for family, text in _MISSING.items() if family not in there]
    if run.kind == "session":
        given = any(each.role == "site" for each in run.records)
        sites = "of sites, all but what some gave of their records" if given else "the sites' own time"
        return [
            "other schemes, and the same rounds with nothing protected: run the benchmarks for those",
            f"{sites}; their memory; the network apart from the waiting for it",
            f"in this federation nobody measured: {', '.join(each for each in gone if each != _MISSING['round'])}",
        ]
    lines = [f"not in this run: {each}" for each in gone]
    if not run.models:
        lines.append("not in this run: the model table")
    lines += [
        line for family in ("stage", "total", "round", "memory") if family in there for line in _absent(run, family)
    ]
    if there & {"peer", "round"}:
        seen = {each.scheme for each in run.records}
        absent = [names.name(each) for each in _PEERS if each not in seen]
        if absent:
            lines.append(f"skipped, or not installed: {', '.join(absent)}")
    return [*lines, *_limits(run)]


def _absent(run: Run, family: str) -> list[str]:
    here = {each.scheme for each in run.of(family)} - set(OTHERS)
    absent = [scheme for scheme in run.schemes() if scheme not in here]
    return [f"{_MISSING[family]} under {', '.join(absent)}"] if absent else []


def _limits(run: Run) -> list[str]:
    lines = []
    guessed = [each for each in run.records if each.extrapolated]
    if guessed:
        most = max(
            (each for each in run.records if not each.extrapolated and each.values),
            key=lambda e: e.values or 0,
            default=None,
        )
        beyond = f"; nothing was run above {names.setting(most.values, None)}" if most is not None else ""
        lines.append(f"{len(guessed)} figures are extrapolated and marked as such{beyond}")
    rows = sum(bool(row.get("extrapolated")) for row in run.models)
    if rows:
        lines.append(f"{rows} of {len(run.models)} rows of the model table are extrapolated")
    if costs(run):
        lines.append("real networks: every process of a round ran on one machine, so no time is a network's")
        if not any(setting.dropped for setting in costs(run)):
            lines.append("rounds in which sites vanish")
    if not any(each.scheme == "https" for each in run.records) and run.of("upload"):
        lines.append("uploads over plain HTTPS, to hold ours against")
    lines.append("energy, money, and machines other than this one")
    return lines
