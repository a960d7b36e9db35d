"""The sections of the report, top-down: the answer first, the method and what is missing last."""

from __future__ import annotations

from fedserver.overhead.answer import answer
from fedserver.overhead.blocks import Block, Points, Section, Text
from fedserver.overhead.compare import Comparison
from fedserver.overhead.method import method, not_measured
from fedserver.overhead.run import Run
from fedserver.overhead.show_changes import change_blocks
from fedserver.overhead.show_peers import model_blocks, peer_blocks
from fedserver.overhead.show_rest import accuracy_blocks, memory_blocks, startup_blocks, training_blocks, upload_blocks
from fedserver.overhead.show_rounds import each_round, round_blocks, sites_blocks
from fedserver.overhead.show_work import growth_blocks, stage_blocks


def sections(run: Run, comparison: Comparison | None) -> list[Section]:
    """Every section that the run has something for."""
    made = [
        ("answer", "The answer", [Points(tuple(lines), numbered=True)] if (lines := answer(run)) else _no_answer()),
        ("changes", "Since the older run", [] if comparison is None else change_blocks(comparison)),
        ("round", "Where a round's time goes", round_blocks(run)),
        ("rounds", "Round by round", each_round(run)),
        ("sites", "At the sites", sites_blocks(run)),
        ("stages", "Where the processor's time goes", stage_blocks(run)),
        ("growth", "How it grows", growth_blocks(run)),
        ("peers", "Side by side", peer_blocks(run)),
        ("models", "On your model", model_blocks(run.models)),
        ("accuracy", "What it costs in accuracy", accuracy_blocks(run)),
        ("memory", "Memory", memory_blocks(run)),
        ("upload", "Uploads and start-up", [*upload_blocks(run), *startup_blocks(run), *training_blocks(run)]),
        ("method", "How this was measured", method(run)),
        ("missing", "What was not measured", [Points(tuple(not_measured(run)))]),
    ]
    return [Section(key, title, tuple(blocks)) for key, title, blocks in made if blocks]


def _no_answer() -> list[Block]:
    return [Text("This run holds no figure of any scheme.")]
