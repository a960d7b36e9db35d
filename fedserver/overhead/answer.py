"""The answer in five lines at most: what protection costs a round, beside what, on which model."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Final

from fedserver.overhead import names
from fedserver.overhead.peers import pairs
from fedserver.overhead.record import OTHERS, Record
from fedserver.overhead.rounds import BASELINE, TRAIN, UNPROTECTED, Added, Cost, Setting, added, costs, headline
from fedserver.overhead.run import FLOORS, ModelRow, Run, middle_s
from fedserver.overhead.units import digits, middle, percent, ratio, seconds, size, spread

MOST: Final = 5
SHOWN_BITS: Final = 8  # the default of fedserver
SHOWN_RANK, SHOWN_SITES, SHOWN_MINUTES = 16, 20, 10
FLOOR: Final = "aes-ctr"
SHOWN_MODEL: Final = "Llama-3-8B"


def answer(run: Run) -> list[str]:
    """Lines of plain text, the most important first; none if the run holds nothing to say."""
    if run.kind == "session":
        return _of_session(run)[:MOST]
    lines = [line for scheme in run.schemes() if (line := _of_scheme(run, scheme))]
    lines += [line for line in (_beside(run), _on_a_model(run), _accuracy(run)) if line]
    return lines[:MOST]


# ------------------------------------------------------------------ a scheme


def _of_scheme(run: Run, scheme: str) -> str:
    found = costs(run)
    at = headline({each: schemes for each, schemes in found.items() if scheme in schemes})
    if at is None:
        return _by_processor(run, scheme)
    cost, plain = found[at][scheme], found[at].get(UNPROTECTED)
    where = f"a round of {names.setting(at.values, at.sites)}" + (f", {at.dropped} of them lost" if at.dropped else "")
    if plain is None:
        return f"{scheme}: {where} takes {spread(cost.whole.wall_s)}{_traffic(cost.whole)}."
    return f"{scheme} {_adds(added(cost, plain), where)}: {_instead(cost, plain, found[at].get(BASELINE))}."


def _adds(more: Added, where: str) -> str:
    """Like 'adds 1.3 s (1.1 to 1.5 s) and 2.7 MB a site to a round of ...'."""
    time = spread([abs(each) for each in more.seconds]) if _one_sign(more.seconds) else _around(more.seconds)
    takes = median(more.seconds) < 0 and _one_sign(more.seconds)
    verb, to = ("saves", "of") if takes else ("adds", "to")
    if more.bytes_up is None or more.bytes_down is None:
        return f"{verb} {time} {to} {where}"
    traffic = more.bytes_up + more.bytes_down
    if (traffic < 0) == takes:
        return f"{verb} {time} and {size(abs(traffic))} a site {to} {where}"
    return (
        f"{verb} {time} {to} {where}, and {'saves' if traffic < 0 else 'adds'} a site {size(abs(traffic))} of traffic"
    )


def _one_sign(times: tuple[float, ...]) -> bool:
    return min(times) >= 0 or max(times) <= 0


def _around(times: tuple[float, ...]) -> str:
    return f"no time beyond the spread ({seconds(min(times))} to {seconds(max(times))})"


def _instead(cost: Cost, plain: Cost, flower: Cost | None) -> str:
    text = f"{seconds(cost.seconds)} where the same transport with nothing protected takes {seconds(plain.seconds)}"
    text += "" if flower is None else f" and Flower's own plaintext round {seconds(flower.seconds)}"
    ours, theirs = cost.whole, plain.whole
    if ours.bytes_up is None or ours.bytes_down is None or theirs.bytes_up is None or theirs.bytes_down is None:
        return text
    return (
        f"{text}; a site sends {size(ours.bytes_up)} and receives {size(ours.bytes_down)}, "
        f"instead of {size(theirs.bytes_up)} and {size(theirs.bytes_down)}"
    )


def _traffic(record: Record) -> str:
    sent = f"; a site sends {size(record.bytes_up)}" if record.bytes_up is not None else ""
    return sent + (f" and receives {size(record.bytes_down)}" if sent and record.bytes_down is not None else "")


def _by_processor(run: Run, scheme: str) -> str:
    """Where no whole round was run: the roles' own work, at the largest size that a site's was measured at."""
    totals = [each for each in run.of("total") if each.scheme == scheme and middle_s(each) and each.values]
    at_site = max((each for each in totals if each.role == "site"), key=_extent, default=None)
    if at_site is None:
        return ""
    same = [
        each for each in totals
        if each.role in ("server", "open") and (each.values, each.sites) == (at_site.values, at_site.sites)
    ]  # fmt: skip
    others = "".join(f", {names.role(each.role)} {seconds(middle_s(each))}" for each in same)
    where = names.setting(at_site.values, at_site.sites, at_site.neighbours)
    return (
        f"{scheme} takes a site {seconds(middle_s(at_site))}{others} of CPU time a round ({where}){_traffic(at_site)}."
    )


def _extent(record: Record) -> tuple[bool, int, int]:
    return not record.extrapolated, record.values or 0, record.sites or 0


# ------------------------------------------------------------------ beside others, on a model, in accuracy


def _beside(run: Run) -> str:
    """For each other package the comparison with ours at a site where they were held against most; and a floor's."""
    at_site = [pair for pair in pairs(run) if pair.place.role == "site"]
    theirs = [pair for pair in at_site if pair.upper in OTHERS and pair.lower not in OTHERS and not pair.stage]
    floors = [pair for pair in at_site if pair.lower == FLOOR and pair.upper not in OTHERS]
    parts, where = [], ""
    if theirs:
        at = max({pair.place for pair in theirs}, key=lambda place: (sum(p.place == place for p in theirs), place))
        where = f", {names.setting(at.values, at.sites)}"
        here = [pair for pair in theirs if pair.place == at]
        for upper in dict.fromkeys(pair.upper for pair in here):
            times = " and ".join(f"{ratio(pair.middle)} that of {pair.lower}" for pair in here if pair.upper == upper)
            parts.append(f"{names.name(upper)} takes {times}")
    if floors:
        floor = max(floors, key=lambda pair: (bool(pair.stage), pair.place))
        what = f"{floor.upper}'s {'masks take' if floor.stage else 'whole work takes'}"
        parts.append(f"{what} {ratio(floor.middle)} that of AES-CTR alone")
    return f"CPU time at a site{where}: {'; '.join(parts)}." if parts else ""


def _on_a_model(run: Run) -> str:
    row = shown_row(run.models)
    if row is None:
        return ""
    share = row.get(f"share_{SHOWN_MINUTES}_min")
    part = f", {percent(share)} of a round that trains for {SHOWN_MINUTES} minutes" if share is not None else ""
    sign = " (extrapolated)" if row.get("extrapolated") else ""
    return (
        f"{row['model']} with LoRA r = {row['rank']} on {row['targets']}, {row['sites']} sites, {row['scheme']}{sign}: "
        f"{size(row['bytes_up'])} up and {seconds(row['site_cpu_s'])} of a site's CPU time a round{part}."
    )


def shown_row(models: Iterable[ModelRow]) -> ModelRow | None:
    """The one row of the model table that stands for it."""
    rows = [row for row in models if row.get("site_cpu_s") is not None]

    def nearness(row: ModelRow) -> tuple[bool, bool, bool, bool]:
        return (
            row["model"] == SHOWN_MODEL, row["rank"] == SHOWN_RANK, row["sites"] == SHOWN_SITES,
            "all" in str(row["targets"]),
        )  # fmt: skip

    return max(rows, key=nearness, default=None)


def _accuracy(run: Run) -> str:
    judged = [each for each in run.of("accuracy") if each.value is not None and "perplexity" in (each.unit or "")]
    if judged:
        parts = ", ".join(f"{digits(each.value or 0.0, 4)} {_with(each)}" for each in judged[:6])
        return f"Perplexity of the demo's adapter: {parts}."
    errors = [each for each in run.of("accuracy") if each.value is not None]
    if not errors:
        return ""
    shown = [each for each in errors if each.bits == SHOWN_BITS] or errors[:1]
    parts = ", ".join(f"{digits(each.value or 0.0, 2)} {_with(each)}" for each in shown)
    return f"Error of the aggregate ({errors[0].unit}): {parts}."


def _with(record: Record) -> str:
    bits = f" at {record.bits} bits" if record.bits and record.scheme not in FLOORS else ""
    return f"with {names.name(record.scheme)}{bits}"


# ------------------------------------------------------------------ a real federation


def _of_session(run: Run) -> list[str]:
    found = costs(run)
    if not found:
        return []
    at: Setting = next(iter(found))
    cost = next(iter(found[at].values()))
    protocol = [each.protocol_s for each in run.rounds]
    trained = [each.train_s for each in run.rounds]
    whole = sum(protocol) + sum(trained)
    lines = [
        f"{cost.scheme} took {spread(protocol)} of each round ({names.setting(at.values, at.sites)}), besides "
        f"{spread(trained)} in which sites got the last sum and trained: {percent(sum(protocol) / (whole or 1.0))} "
        "of the time of both."
    ]
    if cost.whole.bytes_up is not None and cost.whole.bytes_down is not None:
        lines.append(
            f"A site sent {size(cost.whole.bytes_up)} a round and received {size(cost.whole.bytes_down)}: "
            f"{digits(cost.whole.bytes_up / at.values)} bytes up for each value of the adapter."
        )
    cpu = [middle(each.cpu_s) or 0.0 for each in cost.protocol if each.cpu_s]
    if cpu:
        lines.append(f"The server's process spent {seconds(sum(cpu))} of CPU time a round on the protocol.")
    given = [middle(each.cpu_s) or 0.0 for each in cost.phases if each.role == "site" and each.stage != TRAIN]
    if given:
        lines.append(f"Sites that gave their record spent {seconds(sum(given))} of CPU time a round on it.")
    slowest = max(cost.protocol, key=lambda each: middle(each.wall_s) or 0.0, default=None)
    if slowest is not None and not given:
        lines.append(f"The longest phase was {slowest.stage}: {spread(slowest.wall_s)}.")
    missing = sum(bool(each.missing) for each in run.rounds)
    lines.append(
        f"{_some(len(run.rounds), 'round')} ended, {missing or 'none'} of them without some site; "
        f"{_some(run.voids, 'attempt')} gave no sum."
    )
    return lines


def _some(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
