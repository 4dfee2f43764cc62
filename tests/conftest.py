"""Hypothesis profiles: ``ci`` repeats the same examples in every run, ``nightly`` looks for new ones.

Choose with ``HYPOTHESIS_PROFILE=nightly``. ``quick`` is for work on the engines.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "ci", max_examples=150, deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile(
    "nightly", max_examples=5000, deadline=None, print_blob=True, suppress_health_check=_SLOW_IS_FINE
)
settings.register_profile(
    # A first failure fast, without shrinking it.
    "quick", max_examples=150, deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
