"""The section on what changed since an older run."""

from __future__ import annotations

from typing import Final

from fedserver.overhead import names
from fedserver.overhead.blocks import Block, Table, Text
from fedserver.overhead.compare import LEAST_CHANGE, LEAST_REPETITIONS, Comparison
from fedserver.overhead.units import digits, percent, ratio, size, spread

SHOWN_CHANGES: Final = 12  # that stand open


def change_blocks(comparison: Comparison) -> list[Block]:
    rows = {
        grown: [
            (
                names.record(each.record), each.what, _change_side(each.what, each.old),
                _change_side(each.what, each.new), ratio(each.ratio),
            )
            for each in comparison.changes[:: 1 if grown else -1] if (each.ratio > 1) == grown
        ]
        for grown in (True, False)
    }  # fmt: skip
    told = (
        f"{comparison.judged} figures are in both runs and can be judged; {len(comparison.changes)} of them changed by "
        f"more than noise. {comparison.unjudged} have fewer than {LEAST_REPETITIONS} repetitions and are not judged, "
        f"{comparison.appeared} are new, {comparison.vanished} are gone."
    )
    rule = (
        "A time counts as changed if the ranges of its repetitions do not meet and the middles differ by at least "
        f"{percent(LEAST_CHANGE)}; bytes and memory if they differ by half a percent."
    )
    machine = "" if comparison.same_machine else (
        " The runs come from different machines or Python versions: their times are not held against each other, "
        "only bytes, memory, values and ratios."
    )  # fmt: skip
    headings, numeric = ("figure", "of it", "older run", "this run", "new over old"), frozenset((2, 3, 4))
    blocks: list[Block] = [Text(told + machine), Text(rule)]
    for grown, what in ((True, "slower or larger"), (False, "faster or smaller")):
        if not rows[grown]:
            blocks.append(Text(f"Nothing got {what}."))
            continue
        shown, rest = tuple(rows[grown][:SHOWN_CHANGES]), tuple(rows[grown][SHOWN_CHANGES:])
        blocks.append(Table(f"What got {what}, the largest change first.", headings, shown, numeric))
        if rest:
            blocks.append(Table(f"{len(rest)} smaller changes", headings, rest, numeric, folded=True))
    return blocks


def _change_side(what: str, numbers: tuple[float, ...]) -> str:
    if what.startswith("ratio"):
        return spread(numbers, ratio)
    if what.endswith("time"):
        return spread(numbers)
    return digits(numbers[0]) if what == "value" else size(numbers[0])
