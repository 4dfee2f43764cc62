"""The short walk of plain machines gives, number for number, what the walk of all machines gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from simulator.kernels import full_walk, is_plain, plain_walk
from simulator.plan import Plan
from simulator.walk_input import walk_input
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples


def plain(case: Case) -> Case:
    """The case without what limits buffers, and without rows in the DRAM."""
    free = {"read_bandwidth_bits_per_cycle": None, "write_bandwidth_bits_per_cycle": None}
    memories = [
        memory.model_copy(update={"rows": None} if memory.kind == "dram" else free if memory.kind == "buffer" else {})
        for memory in case.accelerator.memories
    ]
    return replace(case, accelerator=case.accelerator.model_copy(update={"memories": tuple(memories)}))


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_short_walk_gives_what_the_full_one_gives(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=2000, max_events=200, max_levels=1))
    def check(drawn: Case) -> None:
        case = plain(drawn)
        laid_out = walk_input(Plan(case.layer, case.precision, case.accelerator, case.mapping))
        assert is_plain(laid_out)
        for found, expected in zip(plain_walk(laid_out), full_walk(laid_out, None), strict=True):
            np.testing.assert_array_equal(found, expected)

    check()


@given(cases(max_levels=1))
def test_only_plain_machines_take_the_short_walk(case: Case) -> None:
    limited = any(
        width is not None
        for buffer in case.accelerator.buffers
        for width in (buffer.read_bandwidth_bits_per_cycle, buffer.write_bandwidth_bits_per_cycle)
    )
    laid_out = walk_input(Plan(case.layer, case.precision, case.accelerator, case.mapping))
    if is_plain(laid_out):
        assert case.accelerator.dram.rows is None
        assert not (limited and laid_out.port.max() >= 0)
    else:
        assert limited or case.accelerator.dram.rows is not None
