"""Batches of mappings cost what single simulations cost, and are valid where those are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.batch import BatchResult, MappingBatch, bound_batch, simulate_batch
from simulator.engine import simulate
from simulator.errors import MappingError
from simulator.layer import DIMS
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples

CHANGED = 12


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
