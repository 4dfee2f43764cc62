"""Kernels without compilation: the same tests hold where Numba leaves them plain Python.

What differs between the two (wrap-around of whole numbers, types of scalars, arrays read beyond their end) would be a
mistake of a kernel. Coverage and the mutation check (``tools/mutate.py``) run kernels this way too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Left out is what calls no other kernels than the rest of its file and takes long here: searches by CP-SAT and with
# devices off, fronts, large products, most cases of one table.
SUITES = {
    "engines": ("tests/properties/test_engines_agree.py", "tests/properties/test_trace.py",
                "tests/properties/test_plain_walk.py", ""),
    "batches": ("tests/properties/test_batch.py", "tests/unit/test_batch.py", ""),
    "steps by values": ("tests/properties/test_bit_sparse.py", "tests/unit/test_bit_sparse.py",
                        "(not bypassing or 1-weight or 4-input) and not command_line and not digits_take"),
    "nests": ("tests/unit/test_nest_search.py", "not a_known_better"),
    "chains": ("tests/unit/test_zigzag_search.py", "nothing_costs_less"),
    "tilings": ("tests/unit/test_bit_fusion_search.py", ""),
    "values": ("tests/properties/test_functional.py", "tests/unit/test_functional.py", "not every_width"),
    "mapper": ("tests/properties/test_mapper_optimal.py", "tests/unit/test_pareto.py",
               "not cp_sat and not auto and not latency and not fronts and not devices and not two_levels "
               "and not loads_behind"),
}


@pytest.mark.parametrize("name", SUITES)
def test_kernels_give_the_same_results_as_plain_python(name: str) -> None:
    *files, chosen = SUITES[name]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "HYPOTHESIS_PROFILE": "handful"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    result = subprocess.run(
        command + (["-k", chosen] if chosen else []), cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    summary = result.stdout.splitlines()[-1]
    assert " passed" in summary and "skipped" not in summary


def test_the_switch_leaves_plain_functions() -> None:
    code = "from simulator import kernels; print(type(kernels.plain_walk).__name__)"
    for switch, expected in (("1", "function"), ("0", "CPUDispatcher")):
        environment = os.environ | {"NUMBA_DISABLE_JIT": switch}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == expected
