"""A grid that is multicast along one axis stands between the multicast and the systolic one, for every mapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulator.accelerator import Accelerator, Buffer, Dram, Grid, MulticastPassing, Passing, SystolicPassing
from simulator.engine import simulate
from simulator.grid import AxisPassing
from simulator.result import LayerResult
from tests.properties.strategies import Case, cases


def with_grid(case: Case, grid: Grid) -> LayerResult:
    """Simulate a case on another grid; ports have no limits, and the DRAM has no rows."""
    memories = []
    for memory in case.accelerator.memories:
        if isinstance(memory, Dram):
            memory = memory.model_copy(update={"rows": None})
        elif isinstance(memory, Buffer):
            memory = memory.model_copy(
                update={"read_bandwidth_bits_per_cycle": None, "write_bandwidth_bits_per_cycle": None}
            )
        memories.append(memory)
    machine: Accelerator = case.accelerator.model_copy(update={"grid": grid, "memories": tuple(memories)})
    return simulate(case.layer, case.precision, machine, case.mapping)


def spelled(grid: Grid, *passings: AxisPassing | None, passing: Passing | None = None) -> Grid:
    """The grid with axes that say how they pass, without registers in adder trees."""
    axes = tuple(
        axis.model_copy(update={"passing": kind, "adder_tree_cycles": 0})
        for axis, kind in zip(grid.axes, passings, strict=True)
    )
    return grid.model_copy(update={"axes": axes, "passing": passing or grid.passing})


@given(st.sampled_from(("streaming", "weight", "input", "output")).flatmap(cases))
def test_a_mixed_grid_lies_between_multicast_and_systolic(case: Case) -> None:
    grid, passing = case.accelerator.grid, case.accelerator.grid.passing
    assert isinstance(passing, SystolicPassing)
    # What multicast rows cannot have; systolic ones are the slower for it.
    plain = passing.model_copy(update={"partial_sum_hop_cycles": 1, "drains_outputs": False})
    most = with_grid(case, spelled(grid, None, None))
    least = with_grid(case, spelled(grid, None, None, passing=MulticastPassing()))
    for mixed in (
        spelled(grid, "multicast", "systolic", passing=plain), spelled(grid, "systolic", "multicast"),
    ):
        result = with_grid(case, Grid.model_validate(mixed.model_dump()))
        assert least.total_cycles <= result.total_cycles <= most.total_cycles
        assert result.compute_cycles == most.compute_cycles
        assert result.traffic == most.traffic


@given(cases())
def test_axes_that_say_what_the_grid_says_change_nothing(case: Case) -> None:
    grid = spelled(case.accelerator.grid, *(None for _ in case.accelerator.grid.axes))
    kind: AxisPassing = grid.passing.kind
    same = Grid.model_validate(spelled(grid, *(kind for _ in grid.axes)).model_dump())
    assert with_grid(case, same) == with_grid(case, grid)
