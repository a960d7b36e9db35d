"""A pytest plugin: hypothesis stops at the first example that fails, for a mutant need not be explained."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("hurry", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
settings.load_profile("hurry")
