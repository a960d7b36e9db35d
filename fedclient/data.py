"""A site's private records, as blocks of tokens: read from JSONL, split into training and held-out, packed.

A line is {"text": ...} or {"prompt": ..., "completion": ...}; other keys are ignored. Errors name file and
line, never what stands there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedclient.settings import LocalError

NO_LOSS: Final = -100  # the label that torch's cross entropy ignores
_FORMAT: Final = 'write one JSON object a line: {"text": ...} or {"prompt": ..., "completion": ...}'


class DataError(LocalError):
    """The site's data cannot be used as it stands."""

    code = "data"


@dataclass(frozen=True, slots=True)
class Record:
    """One document: a text (its `prompt` is None), or a prompt and the completion to learn."""

    prompt: str | None = field(repr=False)
    text: str = field(repr=False)

    def digest(self, seed: int) -> bytes:
        """32 bytes that order records for the split; equal records share it."""
        return hashlib.sha256(json.dumps([seed, self.prompt, self.text]).encode("ascii")).digest()


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of tokens to train or evaluate on; padding stands at the end and carries no loss.

    tokens, labels: int32, shape (rows, sequence length); a label is its token, or NO_LOSS.
    """

    tokens: NDArray[np.int32] = field(repr=False)
    labels: NDArray[np.int32] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)


def read_records(path: Path) -> list[Record]:
    """All records of a .jsonl file, or of every .jsonl file of a folder by name. Raises DataError."""
    records = [record for file in _files(path) for record in _read_file(file)]
    if not records:
        raise DataError(f"{path} holds no records", _FORMAT)
    return records


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist", "give --data an existing .jsonl file or a folder of them")
    files = sorted(file for file in path.glob("*.jsonl") if file.is_file())
    if not files:
        raise DataError(f"{path} holds no .jsonl file", "put the records into files that end in .jsonl")
    return files


def _read_file(file: Path) -> Iterator[Record]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{file}:{number}")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8", "save it as UTF-8") from None  # the cause holds the bytes
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "check its permissions") from None


def _parse(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON", _FORMAT) from None  # the cause holds the line
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a JSON object", _FORMAT)
    if ("text" in record) == ("prompt" in record or "completion" in record):
        raise DataError(f"{where}: holds neither or both of a text and a prompt with its completion", _FORMAT)
    if "text" in record:
        return Record(None, _text(record, "text", where))
    return Record(_text(record, "prompt", where), _text(record, "completion", where))


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise DataError(f'{where}: "{key}" is missing or not a text', _FORMAT)
    if not value.strip():
        raise DataError(f'{where}: "{key}" is empty', "fill it in, or remove the line")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f'{where}: "{key}" holds half a surrogate pair', "remove the broken escape") from None
    return value


def split(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(training, held-out) records; about `fraction` of the distinct ones are held out, at least one.

    Distinct records are ordered by the hash of seed and content and the first ones held out, so the split
    does not depend on the order of lines or files, and copies of a record never stand on both sides.
    Raises DataError.
    """
    order = sorted({record.digest(seed) for record in records})
    if not 0 < fraction < 1 or len(order) < 2:
        raise DataError("too few different records to hold any out", "add records, or give --eval-data")
    held_out = set(order[: min(max(round(fraction * len(order)), 1), len(order) - 1)])
    training = [record for record in records if record.digest(seed) not in held_out]
    return training, [record for record in records if record.digest(seed) in held_out]


def to_blocks(records: Sequence[Record], tokenizer: Any, sequence_length: int) -> Blocks:
    """The records as rows of `sequence_length` tokens.

    Texts are joined, each followed by the end token, and cut into rows; the last row is padded. A prompt with
    its completion fills one padded row, with loss on the completion and its end token only; where it is too
    long the prompt loses its beginning first (down to one token), then the completion its end.
    tokenizer: a transformers tokenizer. Raises DataError if no row has a token to predict.
    """
    texts = [record.text for record in records if record.prompt is None]
    pairs = [record for record in records if record.prompt is not None]
    rows = [*_packed(texts, tokenizer, sequence_length), *_paired(pairs, tokenizer, sequence_length)]
    rows = [(tokens, labels) for tokens, labels in rows if any(label != NO_LOSS for label in labels[1:])]
    if not rows:
        raise DataError("no record is long enough to learn from", "add records of at least two tokens")
    padding = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    tokens = np.full((len(rows), sequence_length), padding, np.int32)
    labels = np.full((len(rows), sequence_length), NO_LOSS, np.int32)
    for index, (row_tokens, row_labels) in enumerate(rows):
        tokens[index, : len(row_tokens)] = row_tokens
        labels[index, : len(row_labels)] = row_labels
    return Blocks(tokens, labels)


Row = tuple[list[int], list[int]]  # tokens, labels


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text, without special tokens; not verbose, as texts may well exceed the context."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _packed(texts: list[str], tokenizer: Any, length: int) -> Iterator[Row]:
    end = _end(tokenizer)
    stream = list(itertools.chain.from_iterable([*ids, *end] for ids in _encode(texts, tokenizer)))
    for start in range(0, len(stream), length):
        row = stream[start : start + length]
        yield row, row


def _paired(pairs: list[Record], tokenizer: Any, length: int) -> Iterator[Row]:
    end = _end(tokenizer)
    prompts = _encode([str(record.prompt) for record in pairs], tokenizer)
    completions = _encode([record.text for record in pairs], tokenizer)
    for prompt_ids, completion_ids in zip(prompts, completions, strict=True):
        completion = [*completion_ids, *end][: length - 1]
        room = length - len(completion)  # at least one token, to predict the completion's first from
        prompt = (prompt_ids or end)[-room:]
        yield prompt + completion, [NO_LOSS] * len(prompt) + completion
