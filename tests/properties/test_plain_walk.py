"""The short walk of plain machines gives, number for number, what the walk of all machines gives."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from simulator.kernels import ENDLESS, full_walk, is_plain, plain_walk
from simulator.kernels.transfers import COMPUTE, EVENTS, FILL_DRAIN, INPUT_READ, TOTAL
from simulator.layer import Dim, Layer
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.walk_input import walk_input
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples
from tests.properties.test_batch import small_machine, tiled


def plain(case: Case) -> Case:
    """The case without what limits buffers, and without rows in the DRAM."""
    free = {"read_bandwidth_bits_per_cycle": None, "write_bandwidth_bits_per_cycle": None}
    memories = [
        memory.model_copy(update={"rows": None} if memory.kind == "dram" else free if memory.kind == "buffer" else {})
        for memory in case.accelerator.memories
    ]
    return replace(case, accelerator=case.accelerator.model_copy(update={"memories": tuple(memories)}))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_short_walk_gives_what_the_full_one_gives(dataflow: Dataflow, split: bool) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=2000, max_events=200, max_levels=1, split=split))
    def check(drawn: Case) -> None:
        case = plain(drawn)
        laid_out = walk_input(Plan(case.layer, case.precision, case.accelerator, case.mapping))
        assert is_plain(laid_out)
        whole = full_walk(laid_out, None)
        truth = int(whole[0][TOTAL])
        for most in (ENDLESS, truth + 1):
            for found, expected in zip(plain_walk(laid_out, most), whole, strict=True):
                np.testing.assert_array_equal(found, expected)
        for most in (truth, truth // 2):
            assert most <= plain_walk(laid_out, most)[0][TOTAL] <= truth

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


def test_inputs_that_bypass_are_found_where_they_lie() -> None:
    """Rows, columns and both kinds of taps, each cut by loops of both levels, none of them evenly."""
    layer = Layer(name="layer", dims={"P": 7, "Q": 8, "R": 5, "S": 3}, stride=(2, 1), padding_begin=(3, 2),
                  input_size=(14, 7))
    machine, read = small_machine(), set()
    pairs: tuple[tuple[Dim, Dim], ...] = (("P", "R"), ("Q", "S"), ("P", "Q"), ("R", "S"))
    for cut, order in itertools.product(pairs, ("PQRS", "SRQP")):
        tile = {dim: {"P": 3, "Q": 5, "R": 3, "S": 2}[dim] if dim in cut else layer.extent(dim) for dim in "PQRS"}
        register = {dim: extent if dim not in cut else 1 + (dim in "PQ") for dim, extent in tile.items()}
        mapping = tiled(tile, register, {}, order, ("input",))
        laid_out = walk_input(Plan(layer, LayerPrecision(), machine, mapping))
        assert is_plain(laid_out) and laid_out.loop_level.tolist() == [0, 0, 1, 1]
        for found, expected in zip(plain_walk(laid_out, ENDLESS), full_walk(laid_out, None), strict=True):
            np.testing.assert_array_equal(found, expected)
        read.add(int(plain_walk(laid_out, ENDLESS)[0][INPUT_READ]))
    assert len(read) == len(pairs)


def test_walks_end_early_once_they_cannot_be_short_enough() -> None:
    """Ragged tiles of loops of both levels: how long all passes hold the grid is known beforehand, to the cycle."""
    layer = Layer(name="layer", dims={"K": 9, "P": 23, "Q": 14})
    for bypass in ((), ("weight",), ("output",)):
        mapping = tiled({"K": 7, "P": 4, "Q": 3}, {"K": 2, "P": 1, "Q": 1}, {}, "KPQ", bypass)
        laid_out = walk_input(Plan(layer, LayerPrecision(), small_machine(), mapping))
        counts, _ = plain_walk(laid_out, ENDLESS)
        held = counts[COMPUTE] + counts[FILL_DRAIN]
        early, _ = plain_walk(laid_out, 1)
        # After the first pass: what that waited for, all passes, and the write of the last one.
        assert early[EVENTS] == 0
        assert held < early[TOTAL] < counts[TOTAL]
        ends = [plain_walk(laid_out, most)[0] for most in range(int(early[TOTAL]), int(counts[TOTAL]) + 2)]
        assert [end[EVENTS] > 0 for end in ends] == [False] * (len(ends) - 1) + [True]
        assert all(most <= end[TOTAL] <= counts[TOTAL] for most, end in enumerate(ends[:-1], int(early[TOTAL])))
