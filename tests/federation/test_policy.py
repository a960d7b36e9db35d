"""policy.toml: what is in it holds, and what is wrong with it is said in two lines."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fedclient.policy import POLICY_FILE, PolicyError, load_policy
from secagg.config import Policy

DIGEST = "ab" * 32
BAD = {
    "not TOML": "least_survivors = ",
    "not UTF-8": b"schemes = ['\xff']",
    "a rule that does not exist": "least_survivor = 3",
    "a rule of the wrong kind": "[least_survivors]\nn = 3",
    "a text for a number": 'least_survivors = "3"',
    "a real number": "least_threshold = 3.0",
    "a truth value for a number": "largest_weight = true",
    "zero": "largest_rounds = 0",
    "a negative number": "least_survivors = -1",
    "a negative count": "least_colluders = -1",
    "a number for a truth value": "whole_roster = 1",
    "one scheme and not a list": 'schemes = "masked"',
    "a scheme that is no text": "schemes = [1]",
    "a digest that is too short": 'base_models = ["abcd"]',
    "a digest that is not hexadecimal": f'base_models = ["{"g" * 64}"]',
    "a digest with a space in it": f'base_models = ["{"ab" * 31} ab"]',
    "a digest that is no text": "base_models = [12]",
    "the same rule twice": "largest_rounds = 5\nlargest_rounds = 6",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_policy_is_refused_in_two_lines(tmp_path: Path, what: str) -> None:
    content = BAD[what]
    file = tmp_path / POLICY_FILE
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PolicyError) as refusal:
        load_policy(file)
    assert str(file) in refusal.value.problem
    assert "\n" not in refusal.value.problem and "\n" not in refusal.value.remedy
    assert str(refusal.value) == "settings"


def test_a_policy_that_cannot_be_read_is_refused_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / POLICY_FILE).mkdir()
    with pytest.raises(PolicyError):
        load_policy(tmp_path / POLICY_FILE)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_policy(tmp_path / POLICY_FILE) == Policy()
    (tmp_path / POLICY_FILE).write_text("")
    assert load_policy(tmp_path / POLICY_FILE) == Policy()


def test_every_rule_can_be_set(tmp_path: Path) -> None:
    rules = {
        "schemes": ('["masked", "ckks"]', ("masked", "ckks")),
        "least_survivors": ("7", 7),
        "least_threshold": ("6", 6),
        "least_colluders": ("0", 0),
        "largest_weight": ("16", 16),
        "largest_rounds": ("20", 20),
        "base_models": (f'["{DIGEST}"]', (bytes.fromhex(DIGEST),)),
        "whole_roster": ("false", False),
        "server_reads_sum": ("true", True),
    }
    assert set(rules) == {field.name for field in fields(Policy)}
    file = tmp_path / POLICY_FILE
    file.write_text("\n".join(f"{name} = {text}" for name, (text, _) in rules.items()))
    assert load_policy(file) == Policy(**{name: value for name, (_, value) in rules.items()})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("least_survivors = 0", "least_survivors is not an integer from 1"),
        ("largest_weight = true", "largest_weight is not an integer from 1"),
        ("least_colluders = -1", "least_colluders is not an integer from 0"),
        ("whole_roster = 1", "whole_roster is neither true nor false"),
        ("server_reads_sum = 0", "server_reads_sum is neither true nor false"),
        ('schemes = "masked"', "schemes is not a list of texts"),
        ("base_models = [1]", "base_models is not a list of texts"),
        ('base_models = ["ab"]', "64 hexadecimal digits"),
        ("least_survivor = 3", "there is no rule 'least_survivor'"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_with_its_name(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / POLICY_FILE).write_text(line)
    with pytest.raises(PolicyError) as refusal:
        load_policy(tmp_path / POLICY_FILE)
    assert says in refusal.value.problem
