"""The mapper against plain oracles: its cost model against the bound engine, its optimum against trying everything."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapper.build_mapping import build_mapping
from mapper.build_models import build_cost_models
from mapper.candidates import build_blocks, row_problem
from mapper.cost_model import CostModel
from mapper.descent import Candidate, kernel_input, may_double
from mapper.devices import SearchDevices
from mapper.front import map_front
from mapper.incumbent import Incumbent
from mapper.pareto import pareto_front
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, Objective, Prover, SearchBudget, objective_cost
from mapper.variants import variants
from simulator.accelerator import (
    Accelerator,
    Axis,
    Buffer,
    Dram,
    Grid,
    MulticastPassing,
    RegisterFile,
    SystolicPassing,
    VectorUnit,
)
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError
from simulator.kernels import choice_cost, enumerate_choices
from simulator.layer import DIMS, OPERANDS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from simulator.result import LayerResult
from tests.properties.strategies import HUGE, Case, cases, grids, partitions, subsets

MOST_CHOICES = 1500
MOST_DEEP_CHOICES = 1200  # of rows and variants, of which most are no mapping of their own
UNUSED = tuple(MappingLevel(level=level) for level in ("dram", "buffer", "buffer", "register"))  # of a drawn case
# Each of these examples runs a search or many simulations: a fraction of the profile's number will do.
# Most cases have too many mappings to try them all, and are passed by.
few_examples = settings(
    max_examples=max(5, settings().max_examples // 12),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],
)

deep_examples = settings(few_examples, max_examples=max(3, settings().max_examples // 16))


def models_of(case: Case) -> list[CostModel]:
    return build_cost_models(case.layer, case.precision, case.accelerator)


def double_bufferings(model: CostModel) -> list[tuple[str, ...]]:
    allowed = [operand for operand, may in zip(OPERANDS, may_double(model), strict=True) if may]
    return [chosen for count in range(len(allowed) + 1) for chosen in itertools.combinations(allowed, count)]


def model_cost(model: CostModel, objective: Objective, rows: tuple[int, ...], doubled: tuple[str, ...]) -> float:
    """Closed-form cost of one choice by the kernel; inf where it does not fit."""
    data = kernel_input(model, objective)
    value = data.coefficient.copy()
    used = np.ones(len(model.axis_sizes), dtype=np.int64)
    for begin, row in zip(data.block_start[:-1], rows, strict=True):
        value *= data.factors[begin + row]
        used *= data.axis_use[begin + row]
    if (used > data.axis_size).any():
        return math.inf
    by_mask = np.empty(choice_cost.MASKS)
    choice_cost.choice_cost(data, value, choice_cost.new_scratch(data), by_mask)
    return float(by_mask[sum(1 << OPERANDS.index(operand) for operand in doubled)])


def same_tiling(one: CostModel, rows: tuple[int, ...], other: CostModel) -> tuple[int, ...] | None:
    """Rows of another variant's model with the same tiles and unrolling; None where it has them not."""
    found = []
    for block, row, theirs in zip(one.blocks, rows, other.blocks, strict=True):
        same = np.ones(theirs.size, dtype=np.bool_)
        for mine, choice in zip(block.choices, theirs.choices, strict=True):
            same &= (choice.buffer_tiles == mine.buffer_tiles[row]).all(axis=1)
            same &= choice.register_tile == mine.register_tile[row]
            same &= (choice.axis_factors == mine.axis_factors[row]).all(axis=1)
        if not same.any():
            return None
        found.append(int(np.argmax(same)))
    return tuple(found)


def least_cost(
    models: list[CostModel], model: CostModel, objective: Objective, rows: tuple[int, ...], doubled: tuple[str, ...]
) -> float:
    """Least closed-form cost of a tiling over the variants with the same bypass.

    A loop order may happen to hold more than its variant says, where loops have one trip: another variant says it.
    """
    costs = []
    for other in models:
        theirs = same_tiling(model, rows, other)
        if theirs is not None and other.variant.places == model.variant.places:
            costs.append(model_cost(other, objective, theirs, doubled))
    return min(costs)


def program_of(case: Case, mapping: Mapping) -> tuple[object, ...]:
    """What the simulator walks over: two mappings with equal programs are the same one."""
    plan = Plan(case.layer, case.precision, case.accelerator, mapping)
    return plan.event_loops, plan.buffer_loops, mapping.double_buffer, [lvl.double_buffer for lvl in mapping.levels]


def energy_of_program(
    case: Case, models: list[CostModel], model: CostModel, rows: tuple[int, ...], mapping: Mapping
) -> float:
    """Least closed-form energy without leakage over the variants to which a mapping, with the tiling of ``rows``,
    belongs."""
    program, costs = program_of(case, mapping), []
    for other in models:
        theirs = same_tiling(model, rows, other)
        if theirs is None or other.variant.places != model.variant.places:
            continue
        energy = model_cost(replace(other, leakage_pj_per_cycle=0.0), "energy", theirs, ())
        for twin in build_mapping(other, Candidate(theirs, mapping.double_buffer, 0.0), case.accelerator):
            if not math.isinf(energy) and program_of(case, twin) == program:
                costs.append(energy)
                break
    return min(costs)


@few_examples
@given(cases(max_levels=2), st.data())
def test_the_cost_model_is_the_bound_engine(case: Case, data: st.DataObject) -> None:
    check_cost_model(case, data)


def check_cost_model(case: Case, data: st.DataObject) -> None:
    """The closed form of a drawn choice against the bound engine's cycles and energy of its mappings."""
    models = models_of(case)
    place = data.draw(st.integers(0, len(models) - 1))
    model = models[place]
    rows = tuple(data.draw(st.integers(0, block.size - 1)) for block in model.blocks)
    doubled = data.draw(st.sampled_from(double_bufferings(model)))
    latency = model_cost(model, "latency", rows, doubled)
    mappings = build_mapping(model, Candidate(rows, doubled, 0.0), case.accelerator)
    if math.isinf(latency):
        if not math.isinf(least_cost(models, model, "latency", rows, doubled)):
            return  # fits where a buffer gets no sums, which another variant says
        for mapping in mappings:
            with pytest.raises(MappingError):
                simulate(case.layer, case.precision, case.accelerator, mapping)
        return
    tight, leakage = [replace(each, leakage_pj_per_cycle=0.0) for each in models], model.leakage_pj_per_cycle
    energy = model_cost(tight[place], "energy", rows, ())
    with_leakage = energy + leakage * latency
    # Without leakage, energy is asked for with the empty set of double-buffered operands alone.
    assert model_cost(model, "energy", rows, doubled if leakage else ()) == pytest.approx(with_leakage, rel=1e-12)
    assert model_cost(model, "edp", rows, doubled) == pytest.approx(latency * with_leakage, rel=1e-12)
    least_latency = least_cost(models, model, "latency", rows, doubled)
    least_energy = least_cost(tight, tight[place], "energy", rows, ())
    for mapping in mappings:
        result = simulate(case.layer, case.precision, case.accelerator, mapping, engine="bound")
        # The engine rounds each transfer up to whole cycles, and knows of more waits.
        assert least_latency <= result.total_cycles + 1e-6
        leaked = result.energy_pj.get("leakage", 0.0)
        assert leaked == pytest.approx(leakage * result.total_cycles)
        moved = result.total_energy_pj - leaked
        slack = 1e-9 + 1e-9 * result.total_energy_pj
        assert least_energy - slack <= moved <= energy + slack
        assert moved == pytest.approx(energy_of_program(case, models, model, rows, mapping), rel=1e-9, abs=1e-9)


@few_examples
@given(cases(max_levels=2), st.data(), st.sampled_from(OBJECTIVES))
def test_batches_cost_what_the_simulator_says(case: Case, data: st.DataObject, objective: Objective) -> None:
    check_batches(case, data, objective)


def check_batches(case: Case, data: st.DataObject, objective: Objective) -> None:
    """Many choices simulated at once against each of their mappings."""
    models = models_of(case)
    model = models[data.draw(st.integers(0, len(models) - 1))]
    most = 40 if case.accelerator.buffer_levels == 1 else 5
    rows, masks, _, _, _ = enumerate_choices(kernel_input(model, objective), np.inf, most, 1 << 20)
    assume(len(rows))
    incumbent = Incumbent(case.layer, case.precision, case.accelerator, objective, target_gap=0.0)
    assert incumbent.consider_many(model, rows, masks).all()
    is_closed_form = objective == "energy" and model.leakage_pj_per_cycle == 0  # costs energies without simulating
    simulated, batch = [], []
    for chosen, mask in zip(rows, masks, strict=True):
        doubled = tuple(operand for i, operand in enumerate(OPERANDS) if (int(mask) >> i) & 1)
        # Cycles of a batch are walked; energy is the variant's form, which is more where another one is the exact one.
        energy = model_cost(replace(model, leakage_pj_per_cycle=0.0), "energy", tuple(chosen.tolist()), ())
        for mapping in build_mapping(model, Candidate(tuple(chosen.tolist()), doubled, 0.0), case.accelerator):
            result = simulate(case.layer, case.precision, case.accelerator, mapping)
            cycles, with_leakage = result.total_cycles, energy + model.leakage_pj_per_cycle * result.total_cycles
            batch.append({"latency": cycles, "energy": with_leakage, "edp": cycles * with_leakage}[objective])
            simulated.append(objective_cost(result, objective))
            if batch[-1] > simulated[-1] * (1 + 1e-9) and is_closed_form:
                # Loops of one trip: another variant says what this mapping costs.
                tight = [replace(each, leakage_pj_per_cycle=0.0) for each in models]
                said = energy_of_program(case, tight, model, tuple(chosen.tolist()), mapping)
                assert simulated[-1] == pytest.approx(said, rel=1e-9)
    of_batch = incumbent.cost
    if case.accelerator.buffer_levels > 1 and is_closed_form:
        assert min(simulated) <= of_batch <= min(batch) * (1 + 1e-12)
    else:
        expected = batch if case.accelerator.buffer_levels == 1 else simulated
        assert of_batch == pytest.approx(min(expected), rel=1e-12)
    # The mapping itself is simulated when it is asked for.
    assert incumbent.mapping is not None
    own = simulate(case.layer, case.precision, case.accelerator, incumbent.mapping)
    assert incumbent.cost == objective_cost(own, objective) <= of_batch * (1 + 1e-12)
    assert incumbent.cost >= min(simulated)


def tiles_of(mapping: Mapping) -> list[dict[Dim, int]]:
    return [level.tile for level in mapping.levels]


@st.composite
def deep_cases(draw: st.DrawFn) -> Case:
    """Machines with two levels of buffers, so small that all mappings of a tiny layer can be tried."""
    energies, bits = st.sampled_from((0.0, 0.125, 2.0)), st.sampled_from((24, 40, 64, 120, 400, 4000))

    def room() -> dict[str, Any]:
        return {
            "size_bits": draw(bits),
            "read_energy_pj_per_bit": draw(energies), "write_energy_pj_per_bit": draw(energies),
        }

    def buffer(level: int, number: int, keeps: tuple[Operand, ...]) -> Buffer:
        # Only what lies on the other level too may bypass: what would bypass both has many more mappings.
        passing = tuple(op for op in keeps if everywhere and level == 1 and draw(st.integers(0, 5)) == 0)
        limit = {"read_bandwidth_bits_per_cycle": 24} if draw(st.integers(0, 3)) == 0 else {}
        return Buffer(
            name=f"buffer{level}{number}", level=level, keeps=keeps, may_bypass=passing,
            double_buffer=draw(st.booleans()), latency_cycles=draw(st.integers(0, 2)), **room(), **limit,
        )

    outer = draw(subsets(OPERANDS, min_size=1))
    everywhere = draw(st.booleans())
    inner = OPERANDS if everywhere else tuple(op for op in OPERANDS if op not in outer or draw(st.booleans()))
    assume(inner)
    buffers = [
        buffer(level, number, keeps) for level, kept in ((1, outer), (2, inner))
        for number, keeps in enumerate(draw(partitions(kept)))
    ]
    kept = draw(subsets(OPERANDS))
    files = [RegisterFile(name="registers", keeps=kept, **{**room(), "size_bits": HUGE})] if kept else []
    dataflow = draw(st.sampled_from(("multicast", "streaming")))
    grid = draw(grids(dataflow))
    grid = grid.model_copy(update={"axes": tuple(axis.model_copy(update={"size": 2}) for axis in grid.axes)})
    machine = Accelerator(
        name="machine", description="two levels", clock_mhz=1.0, grid=grid,
        memories=(
            Dram(bandwidth_bits_per_cycle=draw(st.sampled_from((8, 64))), latency_cycles=draw(st.integers(0, 4)),
                 background_mw=draw(st.sampled_from((None, 0.01))), read_energy_pj_per_bit=draw(energies),
                 write_energy_pj_per_bit=draw(energies)),
            *buffers, *files,
        ),
        processing_element=FixedElement(energy_pj_per_cycle=0.5),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )
    dims = draw(st.lists(st.sampled_from(DIMS), min_size=1, max_size=2, unique=True))
    layer = Layer(name="layer", dims={dim: draw(st.integers(2, 3)) for dim in dims})
    return Case(layer, LayerPrecision(), machine, Mapping(levels=UNUSED))


def every_result(case: Case) -> list[LayerResult]:
    """Simulate every mapping of the space, one by one."""
    found = []
    choices = math.prod(block.size for block in build_blocks(row_problem(case.layer, case.precision, case.accelerator)))
    deep = case.accelerator.buffer_levels > 1
    if deep:
        assume(choices * len(variants(case.accelerator, case.precision)) <= MOST_DEEP_CHOICES)
    models = models_of(case)
    assume(deep or choices * len(models) * 4 <= MOST_CHOICES)
    seen = set()
    for model in models:
        for rows in itertools.product(*(range(block.size) for block in model.blocks)):
            for doubled in double_bufferings(model):
                for mapping in build_mapping(model, Candidate(rows, doubled, 0.0), case.accelerator):
                    try:
                        # With several levels many variants give the same mapping, but for loops of one trip.
                        program = (mapping.levels[-1], repr(mapping.spatial), tiles_of(mapping), model.variant.places,
                                   program_of(case, mapping)) if deep else mapping
                        if repr(program) in seen:
                            continue
                        seen.add(repr(program))
                        found.append(simulate(case.layer, case.precision, case.accelerator, mapping))
                    except MappingError:
                        continue
    return found


def best_of_everything(case: Case) -> dict[Objective, float]:
    """The least cost of each objective; inf where nothing fits."""
    found = every_result(case)
    return {
        objective: min((objective_cost(result, objective) for result in found), default=math.inf)
        for objective in OBJECTIVES
    }


@pytest.mark.parametrize("prover", ["enumeration", "cp_sat"])
def test_the_search_finds_and_proves_the_optimum(prover: Prover) -> None:
    @few_examples
    @given(cases(max_macs=60, max_levels=1))
    def check(case: Case) -> None:
        for objective, best in best_of_everything(case).items():
            check_search(case, objective, best, SearchBudget(cpu_seconds=20 if prover == "enumeration" else 5,
                                                             prover=prover))

    check()


@pytest.mark.parametrize("prover", ["enumeration", "auto", "cp_sat"])
def test_with_two_levels_of_buffers_too(prover: Prover) -> None:
    @deep_examples
    @given(deep_cases())
    def check(case: Case) -> None:
        for objective, best in best_of_everything(case).items():
            budget = SearchBudget(cpu_seconds=20 if prover == "enumeration" else 0.3, prover=prover)
            check_search(case, objective, best, budget)

    check()


@few_examples
@given(cases(max_macs=60, max_levels=1), st.data())
def test_without_its_devices_and_with_any_hint_too(case: Case, data: st.DataObject) -> None:
    """Each device only saves time. The drawn mapping is the hint: it fits, and may lie outside the space."""
    names = [field.name for field in fields(SearchDevices)]
    devices = SearchDevices(**dict.fromkeys(data.draw(st.sets(st.sampled_from(names))), False))
    budget = SearchBudget(cpu_seconds=20, prover="enumeration")
    drawn = simulate(case.layer, case.precision, case.accelerator, case.mapping)
    for objective, best in best_of_everything(case).items():
        if math.isinf(best):
            continue
        hint = data.draw(st.sampled_from([None, case.mapping]))
        least = best if hint is None or not devices.hints else min(best, objective_cost(drawn, objective))
        found = map_layer(
            case.layer, case.precision, case.accelerator, objective, budget=budget, hint=hint, devices=devices
        )
        assert found.status == "optimal" and found.lower_bound <= best * (1 + 1e-9)
        assert found.cost == pytest.approx(least, rel=3e-6)


@settings(deep_examples, max_examples=max(3, settings().max_examples // 48))  # a front is some ten searches
@given(deep_cases(), st.data())
def test_limits_and_fronts_hold_with_two_levels_of_buffers_too(case: Case, data: st.DataObject) -> None:
    found = every_result(case)
    assume(found)
    costs = np.array([[result.total_cycles, result.total_energy_pj] for result in found])
    budget = SearchBudget(cpu_seconds=20, prover="enumeration")
    limit = int(data.draw(st.sampled_from(sorted(set(costs[:, 0]))))) + data.draw(st.integers(0, 1))
    solution = map_layer(
        case.layer, case.precision, case.accelerator, "energy", budget=budget, latency_limit_cycles=limit
    )
    assert solution.status == "optimal" and solution.result.total_cycles <= limit
    assert solution.cost == pytest.approx(min(costs[costs[:, 0] <= limit, 1]), rel=3e-6)
    front = map_front(case.layer, case.precision, case.accelerator, budget=budget)
    assert front.complete and front.space == solution.space
    expected = [tuple(point) for point in costs[pareto_front(costs)].tolist()]
    got = [(point.latency_cycles, point.energy_pj) for point in front.points]
    # Energies that a proof cannot tell apart may be missing on either side.
    for points, others in ((got, expected), (expected, got)):
        for cycles, energy in points:
            assert any(c <= cycles and e <= energy * (1 + 3e-6) for c, e in others)


def check_search(case: Case, objective: Objective, best: float, budget: SearchBudget) -> None:
    """The search says optimal only of the optimum, and bounds it from below; enumeration always ends on such cases."""
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            map_layer(case.layer, case.precision, case.accelerator, objective, budget=budget)
        return
    found = map_layer(case.layer, case.precision, case.accelerator, objective, budget=budget)
    assert found.lower_bound <= best * (1 + 1e-9)
    if budget.prover == "enumeration":
        assert found.status == "optimal"
    if found.status == "optimal":
        assert found.cost == pytest.approx(best, rel=3e-6)
    again = simulate(case.layer, case.precision, case.accelerator, found.mapping)
    assert objective_cost(again, objective) == found.cost


def test_loads_behind_a_pass_are_not_counted_for_each_of_its_folds() -> None:
    """An input-stationary grid that preloads, and outputs that bypass: loops over C and R are folds within a pass."""
    energy = {"read_energy_pj_per_bit": 0.0, "write_energy_pj_per_bit": 0.0}
    memories = (
        Dram(bandwidth_bits_per_cycle=256, latency_cycles=4, **energy),
        Buffer(name="buffer", keeps=OPERANDS, size_bits=HUGE, may_bypass=("output",), **energy),
        RegisterFile(name="registers", keeps=OPERANDS, size_bits=HUGE, **energy),
    )
    grid = Grid(
        axes=(Axis(name="rows", size=3, unroll=("C", "P")), Axis(name="columns", size=1, unroll=("C",))),
        passing=SystolicPassing(stationary="input", fold_overlap=True, stationary_preload=True),
    )
    machine = Accelerator(
        name="machine", description="preloads", clock_mhz=1.0, memories=memories, grid=grid,
        processing_element=FixedElement(energy_pj_per_cycle=0.0),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )
    layer = Layer(name="layer", dims={"K": 2, "C": 4, "P": 6, "R": 3})
    tried = 0
    models = build_cost_models(layer, LayerPrecision(), machine)
    for model in models:
        rows, masks, costs, _, _ = enumerate_choices(kernel_input(model, "latency"), np.inf, 200, 1 << 20)
        for chosen, mask, cost in zip(rows, masks, costs, strict=True):
            choice = tuple(chosen.tolist())
            doubled = tuple(operand for i, operand in enumerate(OPERANDS) if (int(mask) >> i) & 1)
            for mapping in build_mapping(model, Candidate(choice, doubled, 0.0), machine):
                tried += bool(mapping.bypass)
                most = simulate(layer, LayerPrecision(), machine, mapping).total_cycles + 1e-6
                # Where loops make one trip a mapping may hold more than its variant says: another variant says it.
                assert cost <= most or least_cost(models, model, "latency", choice, doubled) <= most
    assert tried > 100


def test_outputs_that_are_finished_inside_may_fit_where_sums_do_not() -> None:
    """The outer buffer of 40 bits holds two finished outputs, and no two sums: those stay in the inner one."""
    free = {"read_energy_pj_per_bit": 0.0, "write_energy_pj_per_bit": 0.0}
    machine = Accelerator(
        name="machine", description="a small buffer of outputs", clock_mhz=1.0,
        memories=(
            Dram(bandwidth_bits_per_cycle=64, latency_cycles=3, **free),
            Buffer(name="weights", keeps=("weight",), level=1, size_bits=400, **free),
            Buffer(name="outputs", keeps=("output",), level=1, size_bits=40, **free),
            Buffer(name="operands", keeps=("weight", "input"), level=2, size_bits=24, double_buffer=True, **free),
            Buffer(name="sums", keeps=("output",), level=2, size_bits=120, double_buffer=True, **free),
        ),
        grid=Grid(axes=(Axis(name="rows", size=2, unroll=("R",)),), passing=MulticastPassing()),
        processing_element=FixedElement(energy_pj_per_cycle=0.0),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )
    layer = Layer(name="layer", dims={"G": 2, "C": 4})
    whole = Mapping(levels=(
        MappingLevel(level="dram"), MappingLevel(level="buffer", tile={"G": 2, "C": 4}, order=("G", "C")),
        MappingLevel(level="buffer"), MappingLevel(level="register"),
    ), double_buffer=("input",))
    known = simulate(layer, LayerPrecision(), machine, whole).total_cycles
    found = map_layer(layer, LayerPrecision(), machine, budget=SearchBudget(cpu_seconds=20, prover="enumeration"))
    assert found.status == "optimal" and found.cost <= known
