"""Searches for layers that are split by channel, against the plain oracles of layers that are whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapper.candidates import build_blocks, row_problem
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, Objective, SearchBudget
from mapper.split_channels import split_channels
from simulator.engine import simulate
from simulator.precision import LayerPrecision
from tests.properties.strategies import Case, cases
from tests.properties.test_constrained_search import check_constrained, check_front, check_limit
from tests.properties.test_mapper_optimal import (
    best_of_everything,
    check_batches,
    check_cost_model,
    check_search,
    deep_cases,
)

BUDGET = SearchBudget(cpu_seconds=20, prover="enumeration")
few_examples = settings(
    max_examples=max(4, settings().max_examples // 25),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],
)
fewer_examples = settings(few_examples, max_examples=max(2, settings().max_examples // 50))  # all mappings of each


@few_examples
@given(cases(max_levels=2, split=True), st.data())
def test_the_cost_model_is_the_bound_engine(case: Case, data: st.DataObject) -> None:
    check_cost_model(case, data)


@few_examples
@given(cases(max_levels=2, split=True), st.data(), st.sampled_from(OBJECTIVES))
def test_batches_cost_what_the_simulator_says(case: Case, data: st.DataObject, objective: Objective) -> None:
    check_batches(case, data, objective)


@few_examples
@given(cases(max_levels=1, max_macs=4000, split=True), st.data())
def test_columns_of_channels_are_what_a_plan_counts(case: Case, data: st.DataObject) -> None:
    """Row by row, for the buffer tiles and unrolling of a drawn row, of a machine in which everything fits."""
    split = split_channels(case.layer, case.precision, case.accelerator)
    assume(split is not None)
    block = build_blocks(row_problem(case.layer, case.precision, case.accelerator), dominance=False)[3]
    choice = block.choices[0]
    row = data.draw(st.integers(0, block.size - 1))
    tile, unroll = int(choice.buffer_tile[row]), int(choice.unroll[row])
    lanes, places = int(choice.axis_factors[row, -1]), split.places
    bits = {operand: [places.bits(at, at + 1, *pair) for at in range(places.count)]
            for operand, pair in zip(("weight", "input"), split.element_bits, strict=True)}
    tiles = [range(at, min(at + tile, places.count)) for at in range(0, places.count, tile)]
    steps = [own[at : at + unroll] for own in tiles for at in range(0, len(own), unroll)]
    pes = [step[at : at + lanes] for step in steps for at in range(0, len(step), lanes)]

    def cycles(covered: range) -> int:
        return split.step_cycles[all(place < places.narrow_places for place in covered)]

    of_step = {place: cycles(step) for step in steps for place in step}
    wide = [own for own in pes if any(place >= places.narrow_places for place in own)]
    expected = {
        "steps": len(steps), "steps_cycles": sum(map(cycles, steps)), "active": len(pes),
        "wide_cycles": sum(of_step[own[0]] for own in wide),
        "narrow_cycles": sum(of_step[own[0]] for own in pes if own not in wide),
        "last_steps_cycles": sum(cycles(step) for step in steps if step[0] >= tiles[-1][0]),
    }
    for operand, each in bits.items():
        held = [sum(each[place] for place in own) for own in tiles]
        expected[f"tile1_{operand}"], expected[f"first1_{operand}"] = max(held), held[0]
        together = min(int(choice.register_tile[row]) * lanes, tile)
        expected[f"register_{operand}"] = min(together * max(each), max(held))
    assert {name: int(block.columns[f"{name}_C"][row]) for name in expected} == expected


@fewer_examples
@given(cases(max_macs=24, max_levels=1, split=True), st.sampled_from(OBJECTIVES))
def test_the_search_finds_and_proves_the_optimum(case: Case, objective: Objective) -> None:
    check_search(case, objective, best_of_everything(case)[objective], BUDGET)


@fewer_examples
@given(cases(max_macs=24, max_levels=1, split=True), st.sampled_from(OBJECTIVES))
def test_so_does_cp_sat(case: Case, objective: Objective) -> None:
    budget = SearchBudget(cpu_seconds=1, prover="cp_sat")
    check_search(case, objective, best_of_everything(case)[objective], budget)


@fewer_examples
@given(deep_cases(), st.sampled_from((1, 2, 3)), st.sampled_from(OBJECTIVES))
def test_with_two_levels_of_buffers_too(case: Case, narrow: int, objective: Objective) -> None:
    layer = case.layer.model_copy(update={"dims": {**case.layer.dims, "C": 4}})
    split = LayerPrecision.parse(f"w8a8/w4a2@{narrow / 4}")
    case = replace(case, layer=layer, precision=split)
    check_search(case, objective, best_of_everything(case)[objective], BUDGET)


@fewer_examples
@given(cases(max_macs=24, max_levels=1, split=True), st.data(), st.sampled_from(OBJECTIVES))
def test_within_constraints_too(case: Case, data: st.DataObject, objective: Objective) -> None:
    check_constrained(case, data, objective)


@fewer_examples
@given(cases(max_macs=24, max_levels=1, split=True), st.data())
def test_within_limits_too(case: Case, data: st.DataObject) -> None:
    check_limit(case, data)


@fewer_examples
@given(cases(max_macs=24, max_levels=1, split=True))
def test_fronts_too(case: Case) -> None:
    check_front(case)


@few_examples
@given(cases(max_levels=1, kinds=("fixed", "bit_serial"), split=True, share=1.0), st.sampled_from(OBJECTIVES))
def test_the_ends_of_the_split_are_searched_as_whole_layers(case: Case, objective: Objective) -> None:
    """Nothing narrow, and, where a place is a channel, everything."""
    nothing = case.precision.model_copy(update={"split": case.precision.split.model_copy(update={"share": 0.0})})
    for split, whole in ((nothing, case.precision.wide), (case.precision, case.precision.narrow)):
        found, expected = (
            map_layer(case.layer, precision, case.accelerator, objective, budget=BUDGET) for precision in (split, whole)
        )
        assert found.precision == split and found.status == expected.status == "optimal"
        assert found.cost == pytest.approx(expected.cost, rel=3e-6)
    assert simulate(case.layer, case.precision, case.accelerator, found.mapping) == found.result
