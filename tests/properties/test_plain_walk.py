"""The short walk of plain machines gives, number for number, what the walk of all machines gives."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.kernels import ENDLESS, full_walk, is_plain, plain_walk
from simulator.kernels.transfers import COMPUTE, EVENTS, FILL_DRAIN, INPUT_READ, TOTAL
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.walk_input import walk_input
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples
from tests.properties.test_batch import small_machine, tiled

GEMM: tuple[Dim, ...] = ("K", "C", "P")
WINDOWS: tuple[Dim, ...] = ("K", "C", "P", "Q", "R")


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


@st.composite
def long_loops(draw: st.DrawFn) -> Case:
    """Loops of many trips, which repeat themselves: tiles of one or two, windows with padding, split channels."""
    used = draw(st.sampled_from((GEMM, WINDOWS)))
    extents = {dim: draw(st.integers(1, 3 if dim == "R" else 26 if used == GEMM else 11)) for dim in used}
    layer = Layer(name="layer", dims=extents, stride=(draw(st.integers(1, 2)), 1),
                  padding_begin=(draw(st.integers(0, extents.get("R", 1) - 1)), 0))
    tile = {dim: draw(st.integers(1, min(2, extent))) for dim, extent in extents.items()}
    bypass: tuple[Operand, ...] = draw(st.sampled_from(((), *((operand,) for operand in OPERANDS))))
    if bypass:  # the buffer's loops are loops over passes too
        tile = {dim: min(extents[dim], 8 * size) for dim, size in tile.items()}
    order = sorted(draw(st.permutations(used)), key=lambda dim: bool(bypass) and dim not in RELEVANT_DIMS[bypass[0]])
    mapping = tiled(tile, {}, {}, "".join(order), bypass)
    doubled = tuple(operand for operand in OPERANDS if draw(st.booleans()))
    precision = LayerPrecision.parse(draw(st.sampled_from(("w8a8", "w8a8/w4a4@0.4"))))
    return Case(layer, precision, small_machine(), mapping.model_copy(update={"double_buffer": doubled}))


@share_of_examples
@given(long_loops(), st.sampled_from((1, 16, 37, 1000)), st.sampled_from((0, 3, 60)), st.sampled_from((1, 32)))
def test_repetitions_are_added_up_as_they_are_walked(case: Case, bandwidth: int, latency: int, burst: int) -> None:
    laid_out = walk_input(Plan(case.layer, case.precision, case.accelerator, case.mapping))
    assert is_plain(laid_out)
    laid_out = laid_out._replace(bandwidth=bandwidth, latency=latency, burst=burst)
    walked = full_walk(laid_out, None)
    total = int(walked[0][TOTAL])
    # What ends early does so beyond repetitions too, and only there where the whole walk takes as long.
    for most in (ENDLESS, total + 1):
        for found, expected in zip(plain_walk(laid_out, most), walked, strict=True):
            np.testing.assert_array_equal(found, expected)
    for most in (1, total // 2, total):
        assert min(most, total) <= plain_walk(laid_out, most)[0][TOTAL] <= total


def test_loops_of_a_billion_passes_are_not_walked_one_by_one() -> None:
    """Four elements a pass along each dimension, on two PEs in a row; products take longer than transfers."""
    mapping = tiled({"K": 4, "C": 4, "P": 4}, {}, {"K": 2}, "KPC").model_copy(update={"double_buffer": OPERANDS})
    waits = []
    short, full = (lambda laid_out: plain_walk(laid_out, ENDLESS)), (lambda laid_out: full_walk(laid_out, None))
    for trips, walk in ((1000, short), (10, full)):
        layer = Layer(name="layer", dims=dict.fromkeys(GEMM, 4 * trips))
        laid_out = walk_input(Plan(layer, LayerPrecision(), small_machine(), mapping))
        counts, _ = walk(laid_out._replace(bandwidth=1 << 20))
        assert counts[EVENTS] == trips**3 and counts[COMPUTE] == 32 * trips**3
        waits.append(int(counts[TOTAL] - counts[COMPUTE]))
    assert waits[0] == waits[1] > 0  # for the first loads and the last write alone
