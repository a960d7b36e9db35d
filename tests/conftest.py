"""Hypothesis draws the same examples in every run; `HYPOTHESIS_PROFILE=thorough` draws many new ones."""

import os

from hypothesis import settings

settings.register_profile("fast", deadline=None, derandomize=True, database=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
