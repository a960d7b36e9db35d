"""One embedded model for all tests of learning: loading it takes longer than most of them."""

import json

import pytest

from fedclient.adapter import AdapterModel
from fedclient.data import to_blocks
from fedclient.settings import LoraSettings
from fedclient.training import limit_threads


@pytest.fixture(scope="session")
def model():
    limit_threads(1)
    return AdapterModel.load("embedded", LoraSettings())


@pytest.fixture
def write_lines(tmp_path):
    """Writes a JSONL file of these records; gives its path."""

    def write(*records, name="notes.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def blocks_of(model):
    """Blocks of 64 tokens from records."""
    return lambda records, length=64: to_blocks(records, model.tokenizer, length)
