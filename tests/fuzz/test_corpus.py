"""What the fuzzer found worth keeping, and every target's own seeds, break nothing; `make fuzz` looks further."""

from __future__ import annotations

import importlib

import pytest

from keys.public import SitePublic
from secagg.ckks_shared.keys import SharedKeys
from secagg.enrol import SIGNED
from secagg.identity import Roster
from secagg.wire import field_rules
from tests.core.made import structs
from tests.fuzz.run import CORPUS, TARGETS
from tests.fuzz.target import LABELS

KEPT_BYTES = 300_000  # in all: a repository is no place for a fuzzer's finds


@pytest.mark.parametrize("target", TARGETS)
def test_no_kept_input_gets_anything_but_typed_errors_out_of(target: str) -> None:
    module = importlib.import_module(f"tests.fuzz.fuzz_{target}")
    kept = sorted((CORPUS / target).iterdir())
    assert kept
    for data in [*module.seeds(), *(path.read_bytes() for path in kept), b""]:
        module.one(data)


def test_the_corpus_is_small() -> None:
    sizes = {path: path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < KEPT_BYTES
    assert {path.parent.name for path in sizes} == set(TARGETS)


def test_every_private_key_in_the_corpus_is_one_that_anybody_can_guess() -> None:
    """Only fuzz_key_files writes any, from numbers that stand in its source."""
    from tests.fuzz.fuzz_key_files import files

    known = {line for content in files().values() for line in content.split(b"\n") if b'"secret"' in line}
    assert known
    assert not [path for path in CORPUS.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


def test_a_target_can_sign_every_message_that_is_signed() -> None:
    """Else the fuzzer would see of it no more than the check of its signature."""
    signed = {kind for kind in structs() if field_rules(kind) and field_rules(kind)[-1].name == "signature"}
    assert signed - {Roster, SitePublic, SharedKeys} == set(LABELS) | set(SIGNED)  # those three are files, not messages
