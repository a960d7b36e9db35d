"""The embedded default: the settings of a federation of four sites that learns something in minutes."""

from typing import Final

from fedclient.settings import LoraSettings, TrainingSettings

SITES: Final = ("cmake", "cpp", "numpy-docs", "yaml")
ROUNDS: Final = 6
LORA: Final = LoraSettings()
TRAINING: Final = TrainingSettings(max_blocks=100)  # 13 steps a round, about 3 CPU seconds
INITIAL_SEED: Final = bytes(32)
