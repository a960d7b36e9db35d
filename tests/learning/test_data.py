"""A site's records become blocks of tokens, and no error shows what is in them."""

import json
import traceback

import numpy as np
import pytest

from fedclient.data import NO_LOSS, DataError, Record, read_records, split, to_blocks

SECRET = "Jane-Doe-1957"
TEXTS = [Record(None, f"note {number} says that all is well") for number in range(40)]


@pytest.mark.parametrize(
    "line",
    [
        f'{{"text": "{SECRET}"',
        f'"{SECRET}"',
        f'["{SECRET}"]',
        f'{{"note": "{SECRET}"}}',
        f'{{"{SECRET}": "text"}}',
        f'{{"text": ["{SECRET}"]}}',
        f'{{"text": "{SECRET}", "prompt": "a", "completion": "b"}}',
        f'{{"prompt": "{SECRET}"}}',
        f'{{"completion": "{SECRET}"}}',
        f'{{"prompt": "{SECRET}", "completion": 5}}',
        f'{{"prompt": "{SECRET}", "completion": " "}}',
        f'{{"text": "{SECRET} \\ud800"}}',
        '{"text": ""}',
        "[" * 100_000 + SECRET,
    ],
)
def test_a_bad_line_is_named_by_place_and_its_content_is_never_shown(tmp_path, line):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert f"{path}:3: " in caught.value.problem
    assert caught.value.__suppress_context__ or not caught.value.__context__  # a JSON error holds the line
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.problem + caught.value.remedy
    assert SECRET not in shown


def test_text_that_is_not_utf8_is_refused_without_showing_its_bytes(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text": "' + SECRET.encode() + b'\xff"}\n')
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert caught.value.__suppress_context__  # the decoding error behind it holds the bytes
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_missing_and_empty_data_are_told_apart(tmp_path, write_lines):
    problems = []
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent", tmp_path / "folder", write_lines()):
        with pytest.raises(DataError) as caught:
            read_records(path)
        problems.append(caught.value.problem)
    assert len(set(problems)) == 3


def test_a_folder_gives_the_records_of_all_its_files(tmp_path, write_lines):
    write_lines({"text": "second"}, name="b.jsonl")
    write_lines({"prompt": "first", "completion": "yes", "id": 7}, name="a.jsonl")
    write_lines({"other": "ignored"}, name="c.json")
    assert read_records(tmp_path) == [Record("first", "yes"), Record(None, "second")]


def test_records_print_without_their_text():
    assert SECRET not in repr(Record(SECRET, SECRET))


def test_the_split_does_not_depend_on_the_order_of_records():
    one, other = split(TEXTS, 0.25, seed=3), split(TEXTS[::-1], 0.25, seed=3)
    assert all(set(left) == set(right) for left, right in zip(one, other, strict=True))
    assert len(one[1]) == 10
    assert set(split(TEXTS, 0.25, seed=4)[1]) != set(one[1])


def test_copies_of_a_record_never_stand_on_both_sides():
    training, held_out = split(TEXTS * 3, 0.5, seed=0)
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == 120


@pytest.mark.parametrize("records", [[], TEXTS[:1], TEXTS[:1] * 5])
def test_too_few_different_records_cannot_be_split(records):
    with pytest.raises(DataError):
        split(records, 0.5, seed=0)


def test_packing_keeps_every_token_and_ends_every_text(model):
    tokenizer = model.tokenizer
    blocks = to_blocks(TEXTS, tokenizer, 64)
    kept = blocks.tokens[blocks.labels != NO_LOSS]
    wanted = [i for record in TEXTS for i in (*tokenizer(record.text)["input_ids"], tokenizer.eos_token_id)]
    assert kept.tolist() == wanted


def test_only_the_completion_of_a_prompt_is_learned(model):
    tokenizer = model.tokenizer
    blocks = to_blocks([Record("What is two and two?", " Four.")], tokenizer, 64)
    learned = blocks.labels[blocks.labels != NO_LOSS]
    assert tokenizer.decode(learned) == " Four.<|eos|>"
    assert blocks.tokens.shape == (1, 64)


def test_a_prompt_that_is_too_long_loses_its_beginning_and_keeps_its_completion(model):
    tokenizer = model.tokenizer
    blocks = to_blocks([Record("far away " * 100 + "near by", " Four.")], tokenizer, 32)
    row = tokenizer.decode(blocks.tokens[0])
    assert row.endswith("near by Four.<|eos|>")
    assert (blocks.labels[0] != NO_LOSS).sum() == len(tokenizer(" Four.")["input_ids"]) + 1


def test_a_completion_that_is_too_long_leaves_one_token_to_predict_from(model):
    blocks = to_blocks([Record("Question?", "and so on " * 100)], model.tokenizer, 32)
    assert np.flatnonzero(blocks.labels[0] == NO_LOSS).tolist() == [0]


def test_records_without_a_token_to_predict_are_refused(model):
    class Endless:
        eos_token_id = pad_token_id = None

        def __call__(self, texts, **_):
            return {"input_ids": [[7] for _ in texts]}

    with pytest.raises(DataError):
        to_blocks([Record(None, "x")], Endless(), 64)


def test_json_written_by_other_tools_is_read(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": "naïve"}).encode() + b"\r\n\r\n")
    assert read_records(path) == [Record(None, "naïve")]
