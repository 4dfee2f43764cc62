"""Hypothesis profiles: ``ci`` repeats the same examples in every run, ``nightly`` looks for new ones.

Choose with ``HYPOTHESIS_PROFILE=nightly``. ``quick`` is for work on the engines; ``few`` is a look at each property,
for runs without compiled kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from workloads import Network, open_network
from workloads.accuracy import AccuracyEvaluator
from workloads.tasks import find_task

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
settings.register_profile(
    "few", max_examples=15, deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE,
    phases=(Phase.explicit, Phase.generate),
)
settings.register_profile(
    # For kernels that are not compiled: some hundred times slower, and here only held to what compiled ones do.
    "handful", max_examples=5, deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Mappings of one file of tests are cached together, and apart from the user's; plots are drawn small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitmosaic.views.plots.PNG_DPI", 50)
        patch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits() -> Network:
    """The CNN that comes with Bitmosaic, opened once for a file of tests."""
    return open_network("digits_cnn")


@pytest.fixture(scope="module")
def evaluator(digits: Network) -> AccuracyEvaluator:
    """Measures the digits CNN; one thread, so that sums have one order."""
    return AccuracyEvaluator(digits, find_task(digits), threads=1)
