"""Hypothesis draws the same examples in every run; `HYPOTHESIS_PROFILE=thorough` draws many new ones."""

import os
import signal

from hypothesis import settings

settings.register_profile("fast", deadline=None, derandomize=True, database=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# A shell ignores Ctrl-C in what it runs in the background, and every process started from there inherits that: those
# that the tests interrupt would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
