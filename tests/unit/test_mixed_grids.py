"""Grids that pass operands differently along their two axes: their cost by hand, and descriptions that make none."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.reference.machines import bare_machine
from simulator.accelerator import Accelerator, Axis, Grid, MulticastPassing, SystolicPassing
from simulator.engine import simulate
from simulator.interconnect import Interconnect, hops
from simulator.layer import Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from simulator.reference import simulate_reference

ROWS, COLUMNS = 3, 4
# Three folds of five vectors: C on the rows, K on the columns, P streams.
LAYER = Layer(name="layer", dims={"C": 9, "K": 4, "P": 5})
FOLDS, STEPS = 3, 5


def axes(
    rows: dict[str, Any], columns: dict[str, Any], unroll: tuple[Dim, Dim] = ("C", "K")
) -> tuple[Axis, Axis]:
    return (
        Axis(name="rows", size=ROWS, unroll=(unroll[0],), **rows),
        Axis(name="columns", size=COLUMNS, unroll=(unroll[1],), **columns),
    )


def machine(rows: dict[str, Any], columns: dict[str, Any], **flags: Any) -> Accelerator:
    """Weight-stationary, with a pipeline of 2 registers."""
    passing = SystolicPassing(stationary="weight", pipeline_cycles=2, **flags)
    return bare_machine(axes(rows, columns), passing, FixedElement(energy_pj_per_cycle=0.0), registers_keep="weight")


def mapping() -> Mapping:
    return Mapping(
        spatial={"rows": {"C": ROWS}, "columns": {"K": COLUMNS}},
        levels=(
            MappingLevel(level="dram", order=()),
            MappingLevel(level="buffer", tile={"C": 9, "K": 4, "P": 5}, order=("C", "P")),
            MappingLevel(level="register", tile={}),
        ),
    )


MULTICAST: dict[str, Any] = {"passing": "multicast"}
TREE: dict[str, Any] = {"passing": "multicast", "adder_tree_cycles": 2}


@pytest.mark.parametrize(
    ("rows", "columns", "flags", "occupied_and_tail"),
    [
        # Load R rows, five vectors, skew R·h − 1 and C − 1, two registers of the pipeline.
        ({}, {}, {"partial_sum_hop_cycles": 2}, FOLDS * (3 + STEPS + (3 * 2 - 1) + 3 + 2)),
        ({}, MULTICAST, {"partial_sum_hop_cycles": 2}, FOLDS * (3 + STEPS + (3 * 2 - 1) + 2)),
        # Weights come with the first vector, and sums leave through a tree.
        (MULTICAST, {}, {}, FOLDS * (STEPS + 3 + 2)),
        (TREE, {}, {}, FOLDS * (STEPS + 2 + 3 + 2)),
        (TREE, {}, {"fold_overlap": True}, FOLDS * STEPS + 2 + 3 + 2),
        (TREE, {}, {"fold_overlap": True, "stationary_preload": True}, FOLDS * STEPS + 2 + 3 + 2),
        ({}, TREE, {"fold_overlap": True, "stationary_preload": True}, 3 + FOLDS * STEPS + (3 - 1) + 2 + 2),
    ],
)
def test_cycles_of_a_stationary_weight_by_hand(
    rows: dict[str, Any], columns: dict[str, Any], flags: dict[str, Any], occupied_and_tail: int
) -> None:
    described = machine(rows, columns, **flags)
    rng = np.random.default_rng(3)
    weights = rng.integers(-128, 128, (1, 4, 9, 1, 1))
    inputs = rng.integers(-128, 128, (1, 1, 9, 5, 1))
    slow, outputs = simulate_reference(LAYER, LayerPrecision(), described, mapping(), weights, inputs)
    np.testing.assert_array_equal(outputs[0, 0, :, :, 0], weights[0, :, :, 0, 0] @ inputs[0, 0, :, :, 0])
    fast = simulate(LAYER, LayerPrecision(), described, mapping())
    for result in (slow, fast, simulate(LAYER, LayerPrecision(), described, mapping(), engine="bound")):
        assert result.compute_cycles == FOLDS * STEPS
        assert result.compute_cycles + result.fill_drain_cycles == occupied_and_tail, result.engine


@pytest.mark.parametrize(
    ("rows", "columns", "stationary", "expected"),
    [
        # Half of what is multicast in the mean, nothing beside a systolic axis.
        (MULTICAST, {}, "weight", {"weight": 2.0, "input": 2.0 + 4, "output": 2.0}),
        ({}, MULTICAST, "weight", {"weight": 2.0 + 2.5, "input": 2.5, "output": 3 + 2.5}),
        ({}, MULTICAST, None, {"weight": 3 + 2.5, "input": 2.5, "output": 3 + 2.5}),
        (MULTICAST, {}, "output", {"weight": 2.0, "input": 2.0 + 4, "output": 2.0}),
    ],
)
def test_hops_follow_each_axis(
    rows: dict[str, Any], columns: dict[str, Any], stationary: Operand | None, expected: dict[Operand, float]
) -> None:
    grid = Grid(
        axes=axes(rows, columns, ("K", "K")), passing=SystolicPassing(stationary=stationary),
        interconnect=Interconnect(energy_pj_per_bit_hop=1.0),
    )
    assert hops(grid) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "passing", "message"),
    [
        ({"passing": "systolic"}, {}, MulticastPassing(), "axes.rows.passing=systolic: the grid's"),
        (MULTICAST, MULTICAST, SystolicPassing(), "passing.kind=systolic: both axes say multicast"),
        ({"adder_tree_cycles": 1}, {}, SystolicPassing(), "axes.rows.adder_tree_cycles=1: only a multicast axis"),
        (MULTICAST, {}, SystolicPassing(partial_sum_hop_cycles=2), "passing.partial_sum_hop_cycles=2: sums do not hop"),
        (MULTICAST, {}, SystolicPassing(stationary="output", drains_outputs=True), "passing.drains_outputs=true"),
        ({}, TREE, SystolicPassing(stationary="output"), "axes.columns.adder_tree_cycles=2: nothing is added up"),
    ],
)
def test_descriptions_that_make_no_grid(
    rows: dict[str, Any], columns: dict[str, Any], passing: MulticastPassing | SystolicPassing, message: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Grid(axes=axes(rows, columns, ("K", "K")), passing=passing)


def test_a_grid_says_how_it_passes_operands() -> None:
    unrolled = ("K", "K")
    assert Grid(axes=axes({}, {}, unrolled), passing=SystolicPassing()).passing_text == "systolic"
    assert Grid(axes=axes({}, {}, unrolled), passing=MulticastPassing()).passing_text == "multicast"
    assert Grid(axes=axes({}, MULTICAST, unrolled), passing=SystolicPassing()).passing_text == "systolic × multicast"
