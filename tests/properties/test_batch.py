"""Batches of mappings cost what single simulations cost, and are valid where those are."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.accelerator import Accelerator, Axis, Buffer, Dram, Grid, MulticastPassing, RegisterFile, VectorUnit
from simulator.batch import BatchResult, MappingBatch, bound_batch, simulate_batch
from simulator.engine import simulate
from simulator.errors import MappingError
from simulator.kernels import ENDLESS, full_unless_plain, tiling_cycles
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from simulator.walk_input import walk_input
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples

CHANGED = 12
fewer = settings(max_examples=max(1, settings().max_examples // 3))


@st.composite
def batches(draw: st.DrawFn, case: Case) -> MappingBatch:
    """The case's own mapping, which just fits, and changed ones, most of which are valid or miss it by little."""
    batch = MappingBatch.of([case.mapping] * CHANGED, case.accelerator)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    arrays = {name: getattr(batch, name).copy() for name in (
        "spatial", "buffer_tile", "register_tile", "dram_order", "buffer_order", "double_buffer")}
    for number in range(1, CHANGED):
        change = rng.integers(7)
        dim = rng.integers(len(DIMS))
        if change == 0:
            axis = rng.integers(arrays["spatial"].shape[1])
            arrays["spatial"][number, axis, dim] = max(0, arrays["spatial"][number, axis, dim] + rng.integers(-1, 2))
        elif change in (1, 2):
            arrays["buffer_tile"][number, dim] = rng.integers(0, case.layer.shape[dim] + 2)
        elif change == 3:
            arrays["register_tile"][number, dim] = rng.integers(0, 4)
        elif change in (4, 5):
            name = ("dram_order", "buffer_order")[change - 4]
            arrays[name][number] = rng.permutation(arrays[name][number])
            if rng.random() < 0.2:
                arrays[name][number, 0] = arrays[name][number, 1]  # one dimension twice, one not at all
        else:
            arrays["double_buffer"][number] = rng.random(3) < 0.5
    return replace(batch, **arrays)


def check(found: BatchResult, case: Case, batch: MappingBatch, engine: str) -> None:
    for number in range(len(batch)):
        try:
            mapping = batch.mapping(number, case.accelerator)
            expected = simulate(case.layer, case.precision, case.accelerator, mapping, engine=engine)
        except (MappingError, ValueError):
            assert not found.is_valid[number]
            assert found.total_cycles[number] == -1 and np.isnan(found.total_energy_pj[number])
            continue
        assert found.is_valid[number]
        assert found.total_cycles[number] == expected.total_cycles
        assert found.compute_cycles[number] == expected.compute_cycles
        assert found.fill_drain_cycles[number] == expected.fill_drain_cycles
        assert found.tile_count[number] == expected.tile_count
        assert found.total_energy_pj[number] == pytest.approx(expected.total_energy_pj, rel=1e-12)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_batch_costs_what_its_mappings_cost(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=4000, max_levels=1), st.data())
    def run(case: Case, data: st.DataObject) -> None:
        batch = data.draw(batches(case))
        for engine, score in (("fast", simulate_batch), ("bound", bound_batch)):
            found = score(case.layer, case.precision, case.accelerator, batch)
            assert found.is_valid[0]
            check(found, case, batch, engine)

    run()


@given(cases(max_levels=1))
def test_a_mapping_comes_back_from_its_batch(case: Case) -> None:
    mapping = MappingBatch.of([case.mapping], case.accelerator).mapping(0, case.accelerator)
    assert simulate(case.layer, case.precision, case.accelerator, mapping) == \
        simulate(case.layer, case.precision, case.accelerator, case.mapping)


def whole_events(case: Case, batch: MappingBatch, number: int) -> int:
    """Events of a mapping if all of its tiles were whole ones."""
    extent, tile = np.array([case.layer.extent(dim) for dim in DIMS]), batch.buffer_tile[number]
    held = batch.register_tile[number] * batch.spatial[number].prod(axis=0)
    inside = [] if batch.bypass is None else [DIMS.index(dim) for dim in RELEVANT_DIMS[batch.bypass]]
    return math.prod((-(-extent // tile)).tolist()) * math.prod((-(-tile // held))[inside].tolist())


def tiling_times(
    case: Case, batch: MappingBatch, number: int, most_events: int, most_cycles: int, *, times: int = 1
) -> list[int]:
    """Cycles of one tiling of a batch, asked for several times; the least counts where it is asked for twice."""
    template = walk_input(Plan(case.layer, case.precision, case.accelerator, case.mapping))
    geometry = np.array([[case.layer.stride[axis], case.layer.dilation[axis], case.layer.padding_begin[axis],
                          case.layer.stored_input_size[axis]] for axis in (0, 1)])
    one = np.full(times, number)
    cycles: list[int] = tiling_cycles(
        template, geometry, batch.dram_order[number], batch.buffer_order[number], batch.buffer_tile[one],
        batch.register_tile[one], batch.spatial[one].prod(axis=1), batch.double_buffer[one], most_events,
        full_unless_plain(template), np.full(times, most_cycles), times > 1,
    ).tolist()
    return cycles


@fewer
@given(cases(max_macs=2000, max_levels=1), st.data())
def test_tilings_take_the_cycles_of_their_mappings(case: Case, data: st.DataObject) -> None:
    batch = data.draw(batches(case))
    valid = simulate_batch(case.layer, case.precision, case.accelerator, batch).is_valid
    for number in np.flatnonzero(valid)[:4]:
        events = whole_events(case, batch, number)
        truth = simulate(
            case.layer, case.precision, case.accelerator, batch.mapping(number, case.accelerator)
        ).total_cycles
        assert tiling_times(case, batch, number, events, truth + 1) == [truth]
        assert tiling_times(case, batch, number, events - 1, ENDLESS) == [-1]
        # What cannot be better may be given fewer cycles than it takes, but as many as were asked about.
        for most in (truth, data.draw(st.integers(1, truth))):
            assert most <= tiling_times(case, batch, number, events, most)[0] <= truth
        assert tiling_times(case, batch, number, events, ENDLESS, times=2) == [truth, truth]


def small_machine(register_bits: int = 1 << 20) -> Accelerator:
    """Two PEs in a row over K or P, one buffer and registers for every operand; every part takes energy."""
    energy = {"read_energy_pj_per_bit": 0.5, "write_energy_pj_per_bit": 0.25}
    return Accelerator(
        name="machine", description="small", clock_mhz=1.0,
        memories=(
            Dram(bandwidth_bits_per_cycle=16, **energy),
            Buffer(name="buffer", keeps=OPERANDS, size_bits=1 << 20, may_bypass=OPERANDS, double_buffer=True, **energy),
            RegisterFile(name="registers", keeps=OPERANDS, size_bits=register_bits, double_buffer=True, **energy),
        ),
        grid=Grid(axes=(Axis(name="row", size=2, unroll=("K", "P")),), passing=MulticastPassing()),
        processing_element=FixedElement(energy_pj_per_cycle=1.0),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=1.0),
    )


def tiled(tile: dict[str, int], register: dict[str, int], unroll: dict[Dim, int], order: str,
          bypass: tuple[Operand, ...] = ()) -> Mapping:
    levels: list[dict[str, Any]] = [
        {"level": "dram", "order": tuple(order)}, {"level": "buffer", "order": tuple(order), "tile": tile},
        {"level": "register", "tile": register},
    ]
    return Mapping(levels=tuple(map(MappingLevel.model_validate, levels)), bypass=bypass,
                   spatial={"row": unroll} if unroll else {})


def test_register_tiles_are_fetched_once() -> None:
    """Of a dimension that is cut three times over: buffer tiles, register tiles of several elements, and two PEs."""
    machine, layer = small_machine(), Layer(name="layer", dims={"N": 3, "K": 11, "P": 7})
    for bypass in ((), ("weight",), ("output",)):
        mappings = [
            tiled({"N": 2, "K": k, "P": p}, {"K": register_k, "P": register_p}, unroll, "KPN", bypass)
            for k, p, register_k, register_p, unroll in itertools.product(
                (11, 5), (7, 4), (1, 3), (1, 2), ({"K": 2}, {"P": 2}))
        ]
        batch = MappingBatch.of(mappings, machine)
        found = bound_batch(layer, LayerPrecision(), machine, batch)
        assert found.is_valid.mean() > 0.5
        check(found, Case(layer, LayerPrecision(), machine, mappings[0]), batch, "bound")


def test_what_is_remembered_of_input_tiles_is_never_anothers() -> None:
    """So many pairs of tiles that they share places in the memo: the order of a batch changes nothing."""
    machine = small_machine()
    layer = Layer(name="layer", dims={"P": 12, "Q": 11, "R": 3, "S": 3}, stride=(1, 2), padding_begin=(1, 0))
    mappings = [
        tiled({"P": p, "Q": q, "R": r, "S": s}, {"P": held_p, "Q": held_q}, {}, "PQRS")
        for p, q, r, s, held_p, held_q in itertools.product(
            (12, 7, 5, 4, 3, 1), (11, 6, 4, 2), (3, 2, 1), (3, 2), (1, 2, 3), (1, 2))
    ]
    batch = MappingBatch.of(mappings, machine)
    mixed = np.random.default_rng(1).permutation(len(mappings))
    names = ("spatial", "buffer_tile", "register_tile", "dram_order", "buffer_order", "double_buffer")
    other = replace(batch, **{name: getattr(batch, name)[mixed] for name in names})
    one, two = (bound_batch(layer, LayerPrecision(), machine, each) for each in (batch, other))
    assert one.is_valid.sum() > 300
    np.testing.assert_array_equal(one.total_cycles[mixed], two.total_cycles)
    np.testing.assert_array_equal(one.total_energy_pj[mixed], two.total_energy_pj)
