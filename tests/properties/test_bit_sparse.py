"""Processing elements whose time depends on values: the engines agree, values are right, fewer bits are no slower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.accelerator import (
    Accelerator,
    Axis,
    Buffer,
    Dram,
    Grid,
    MulticastPassing,
    RegisterFile,
    VectorUnit,
)
from simulator.engine import simulate
from simulator.fast import simulate_fast
from simulator.layer import OPERANDS, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSparseElement
from simulator.reference import simulate_reference
from simulator.result import STALL_CAUSES, LayerResult
from simulator.trace import trace_layer
from simulator.values import LayerValues
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples
from tests.properties.test_engines_agree import moved
from tests.properties.test_reference_values import numpy_outputs

W8A8 = LayerPrecision.parse("w8a8")
IntArray = npt.NDArray[np.int64]
fewer = settings(max_examples=max(1, settings().max_examples // 3))


def sparse_cases(dataflow: Dataflow | None = None, max_macs: int = 500) -> st.SearchStrategy[Case]:
    return cases(dataflow, max_macs=max_macs, kinds=("bit_sparse",))


def sparse_operands(case: Case) -> tuple[IntArray, IntArray]:
    """Codes of a case, of which some are thinned out: full-range codes alone would leave nothing to skip."""
    rng = np.random.default_rng(case.seed + 1)
    thinned = []
    for codes in case.operands():
        choice = rng.random()
        if choice < 0.3:
            codes = codes // (1 << int(rng.integers(1, 6)))
        elif choice < 0.6:
            codes = np.where(rng.random(codes.shape) < 0.7, 0, codes)
        thinned.append(codes)
    return thinned[0], thinned[1]


def values_of(operands: tuple[IntArray, IntArray]) -> LayerValues:
    return LayerValues(*operands, source="statistical")


def fast(case: Case, operands: tuple[IntArray, IntArray]) -> LayerResult:
    return simulate(case.layer, case.precision, case.accelerator, case.mapping, values=values_of(operands))


def with_element(case: Case, **changes: object) -> Case:
    element = case.accelerator.processing_element
    assert isinstance(element, BitSparseElement)
    changed = BitSparseElement(**(element.model_dump() | changes))
    return replace(case, accelerator=case.accelerator.model_copy(update={"processing_element": changed}))


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_fast_equals_reference_and_values_equal_numpy(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(sparse_cases(dataflow))
    def check(case: Case) -> None:
        operands = sparse_operands(case)
        quick = fast(case, operands)
        slow, outputs = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *operands
        )
        np.testing.assert_array_equal(outputs, numpy_outputs(case.layer, *operands))
        assert quick.total_cycles == slow.total_cycles
        assert quick.compute_cycles == slow.compute_cycles
        assert quick.fill_drain_cycles == slow.fill_drain_cycles
        assert quick.stall_cycles == slow.stall_cycles
        assert quick.dram_busy_cycles == slow.dram_busy_cycles
        assert quick.active_pe_cycles == slow.active_pe_cycles
        assert quick.tile_count == slow.tile_count
        assert moved(quick) == moved(slow)
        assert quick.energy_pj == pytest.approx(slow.energy_pj, rel=1e-9)
        assert quick.pe_utilization == pytest.approx(slow.pe_utilization, rel=1e-9)
        assert quick.mean_step_cycles == pytest.approx(slow.mean_step_cycles, rel=1e-9)
        assert 0 < quick.pe_utilization <= 1
        assert quick.value_source == "statistical"

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_bound_is_below_fast_and_no_bits_skipped_above(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(sparse_cases(dataflow, max_macs=4000))
    def check(case: Case) -> None:
        operands = sparse_operands(case)
        quick = fast(case, operands)
        below = simulate(case.layer, case.precision, case.accelerator, case.mapping, engine="bound")
        static = with_element(case, skipping="none", first_stage_bits=None)
        above = simulate(static.layer, static.precision, static.accelerator, static.mapping)
        for less, more in ((below, quick), (quick, above)):
            assert less.total_cycles <= more.total_cycles
            assert less.compute_cycles <= more.compute_cycles
            assert less.active_pe_cycles <= more.active_pe_cycles
            assert less.total_energy_pj <= more.total_energy_pj * (1 + 1e-12)
            assert moved(less) == moved(more)
            assert less.tile_count == more.tile_count

    check()


@fewer
@given(sparse_cases(max_macs=4000))
def test_all_zeros_take_what_the_bound_assumes(case: Case) -> None:
    weights, inputs = case.operands()
    nothing = fast(case, (0 * weights, 0 * inputs))
    below = simulate(case.layer, case.precision, case.accelerator, case.mapping, engine="bound")
    assert nothing.compute_cycles == below.compute_cycles
    assert nothing.active_pe_cycles == below.active_pe_cycles
    assert nothing.total_cycles >= below.total_cycles


@fewer
@given(sparse_cases(max_macs=4000), st.integers(0, 1 << 16))
def test_clearing_bits_is_never_slower(case: Case, seed: int) -> None:
    """Cleared bits are those that the unit holds: of the absolute value, or of the two's complement.

    With two-stage shifting too: what is left to send stays a subset, turn by turn. Only the leading bits of a two's
    complement can get more, where a negative number turns positive.
    """
    element = case.accelerator.processing_element
    assert isinstance(element, BitSparseElement)
    magnitude = element.encoding == "sign_magnitude"
    if element.skipping == "leading_bits" and not magnitude:
        case = with_element(case, skipping="zero_columns")
    rng = np.random.default_rng(seed)
    full = sparse_operands(case)
    cleared = []
    for codes, number_format in zip(full, (case.precision.weight, case.precision.input), strict=True):
        keep = rng.integers(1 << number_format.bits, size=codes.shape)
        if magnitude:
            cleared.append(np.sign(codes) * (np.abs(codes) & keep))
        else:
            pattern = codes & keep & ((1 << number_format.bits) - 1)
            top = 1 << (number_format.bits - 1)
            wraps = number_format.is_signed & (pattern >= top)
            cleared.append(np.where(wraps, pattern - 2 * top, pattern))
    assert fast(case, (cleared[0], cleared[1])).compute_cycles <= fast(case, full).compute_cycles


@fewer
@given(sparse_cases(max_macs=4000))
def test_a_longer_reach_of_the_shifters_is_never_slower(case: Case) -> None:
    """By every turn each lane has sent at least as many bits; with all the reach only the slowest lane counts."""
    operands = sparse_operands(case)
    times = []
    for stage in (0, 1, 2, 4):
        staged = with_element(
            case, skipping="zero_bits", first_stage_bits=stage, sign_cycles=0, group_size=None
        )
        times.append(fast(staged, operands).compute_cycles)
    free = with_element(case, skipping="zero_bits", first_stage_bits=None, sign_cycles=0, group_size=None)
    assert times == sorted(times, reverse=True)
    if len(free.accelerator.processing_element.skipped_operands) == 1:  # type: ignore[union-attr]
        # 2^4 places are more than any operand here has.
        assert times[-1] == fast(free, operands).compute_cycles


@fewer
@given(sparse_cases(max_macs=1000))
def test_the_timeline_adds_up(case: Case) -> None:
    operands = sparse_operands(case)
    plan = Plan(case.layer, case.precision, case.accelerator, case.mapping)
    result = simulate_fast(plan, values_of(operands))
    trace = trace_layer(plan, 10**9, values_of(operands))
    now, spent = 0, dict.fromkeys(("compute", "fill and drain", *STALL_CAUSES), 0)
    for piece in trace.slices():
        if piece.track == "grid":
            assert piece.start == now
            now += piece.cycles
            spent[piece.name.removeprefix("wait: ").replace(" ", "_") if "wait" in piece.name else piece.name] += (
                piece.cycles
            )
    assert now == trace.total_cycles == result.total_cycles
    assert spent["compute"] == result.compute_cycles
    assert spent["fill and drain"] == result.fill_drain_cycles
    assert all(spent[cause] == result.stall_cycles[cause] for cause in STALL_CAUSES)


@pytest.mark.parametrize("bypass", ["weight", "input"])
@pytest.mark.parametrize("seed", range(6))
def test_passes_of_a_bypassing_operand_take_their_own_steps(bypass: Operand, seed: int) -> None:
    """Events are register tiles of several steps here, which drawn mappings seldom have: none of the tiles divide."""
    rng = np.random.default_rng([seed, bypass == "input"])
    layer = Layer(name="layer", dims={"K": 13, "C": 11, "P": 12})
    element = BitSparseElement(
        energy_pj_per_cycle=1.0, serial_operands=("weight", "input"), skipped_operands=("weight", "input"),
        skipping=("zero_bits", "zero_columns", "leading_bits")[seed % 3], lane_count=2,
    )
    memories = (
        Dram(bandwidth_bits_per_cycle=64, read_energy_pj_per_bit=1.0, write_energy_pj_per_bit=1.0),
        Buffer(name="buffer", keeps=OPERANDS, size_bits=1 << 20, read_energy_pj_per_bit=0.0,
               write_energy_pj_per_bit=0.0, may_bypass=(bypass,)),
        RegisterFile(name="registers", keeps=OPERANDS, size_bits=1 << 20, read_energy_pj_per_bit=0.0,
                     write_energy_pj_per_bit=0.0),
    )
    machine = Accelerator(
        name="machine", description="bypasses", clock_mhz=1.0, memories=memories, processing_element=element,
        grid=Grid(axes=(Axis(name="axis", size=2, unroll=("K", "P")),), passing=MulticastPassing()),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )
    own, other = ("K", "P") if bypass == "weight" else ("P", "K")
    mapping = Mapping(
        spatial={"axis": {own: 2}, "lanes": {"C": 2}},
        levels=(
            MappingLevel(level="dram", order=("K", "C", "P")),
            MappingLevel(level="buffer", tile={own: 11, "C": 9, other: 5}, order=(own, "C", other)),
            MappingLevel(level="register", tile={own: 2, "C": 2}),
        ),
        bypass=(bypass,),
    )
    plan = Plan(layer, W8A8, machine, mapping)
    assert len(plan.buffer_event_loops) == 2 and plan.register_tile.max() == 2
    # Values of many magnitudes, so that steps differ.
    weights, inputs = (
        rng.integers(-128, 128, size=shape) >> rng.integers(0, 8, size=shape)
        for shape in ((1, 13, 11, 1, 1), (1, 1, 11, 12, 1))
    )
    case = Case(layer, W8A8, machine, mapping)
    quick = fast(case, (weights, inputs))
    slow, outputs = simulate_reference(layer, W8A8, machine, mapping, weights, inputs)
    np.testing.assert_array_equal(outputs, numpy_outputs(layer, weights, inputs))
    assert quick.total_cycles == slow.total_cycles and quick.compute_cycles == slow.compute_cycles
    assert quick.stall_cycles == slow.stall_cycles and quick.active_pe_cycles == slow.active_pe_cycles
