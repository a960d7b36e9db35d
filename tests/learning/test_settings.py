"""Settings travel as integers and texts, in one form, and are light to read."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.settings import LoraSettings, SettingsError, TrainingSettings

PLAIN = TrainingSettings().to_plain()


@given(st.floats(1e-12, 10.0), st.floats(1e-3, 1.0), st.integers(1, 1000))
def test_settings_survive_their_plain_form_bit_by_bit(rate, decay, epochs):
    settings = TrainingSettings(learning_rate=rate, learning_rate_decay=decay, local_epochs=epochs)
    plain = settings.to_plain()
    assert {type(value) for value in plain.values()} <= {int, str}
    assert TrainingSettings.from_plain(plain) == settings


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"learning_rate": "1e-2"},
        {"learning_rate": "0.010"},
        {"learning_rate": "nan"},
        {"learning_rate": "-1.0"},
        {"learning_rate": "0.0"},
        {"learning_rate_decay": "1.5"},
        {"local_epochs": True},
        {"local_epochs": "1"},
        {"batch_size": 0},
        {"sequence_length": 1 << 40},
        {"code": "import os"},
    ],
)
def test_a_plain_form_that_to_plain_did_not_write_is_refused(change):
    with pytest.raises(SettingsError):
        TrainingSettings.from_plain(PLAIN | change)


def test_a_plain_form_with_a_setting_missing_is_refused():
    with pytest.raises(SettingsError):
        TrainingSettings.from_plain({name: PLAIN[name] for name in list(PLAIN)[1:]})


@pytest.mark.parametrize("named", ["", "q_proj,", ".*", "q proj", "__import__('os')", None, ["q_proj"]])
def test_target_modules_are_names_and_never_patterns(named):
    with pytest.raises(SettingsError):
        LoraSettings(target_modules=named)


def test_every_lora_setting_changes_the_lora_digest():
    others = [
        LoraSettings(rank=4),
        LoraSettings(alpha=32),
        LoraSettings(dropout=0.1),
        LoraSettings(target_modules="q_proj"),
    ]
    assert len({settings.digest() for settings in [LoraSettings(), *others]}) == 5


def test_steps_and_rates_of_a_round_follow_from_the_settings_alone():
    settings = TrainingSettings(learning_rate=0.5, learning_rate_decay=0.5, batch_size=8, local_epochs=3)
    assert [settings.rate_in(number) for number in (1, 2, 3)] == [0.5, 0.25, 0.125]
    assert settings.steps(blocks=17) == 9
    assert TrainingSettings(max_blocks=10, batch_size=8).steps(blocks=1000) == 2
    assert TrainingSettings(local_steps=5).steps(blocks=1000) == 5


def test_the_text_of_an_error_never_leaves_more_than_its_kind():
    error = SettingsError("/srv/alice/hiv/notes.jsonl is missing", "look in /srv/alice")
    assert str(error) == "settings"
    assert "alice" not in repr(error)


@pytest.mark.parametrize(
    "module",
    [
        "fedclient.settings",
        "fedclient.data",
        "fedclient.base_model",
        "fedclient.adapter",
        "fedclient.training",
    ],
)
def test_importing_a_module_loads_no_learning_library(module):
    heavy = {"torch", "transformers", "peft", "tokenizers", "safetensors", "flwr"}
    code = f"import sys, {module}; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
