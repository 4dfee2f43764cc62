"""Sums in floating point that are long in every direction: lanes, PEs along both axes, steps, visits, spills.

The machines of ``strategies.cases`` seldom add more than two values in any one place, and two values add up alike in
either order.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.accelerator import (
    LANES,
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
from simulator.floating import decode
from simulator.formats import Format
from simulator.layer import OPERANDS, Dim, Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FloatingPointElement
from simulator.reference import simulate_reference
from tests.properties.element_strategies import precisions, random_codes
from tests.properties.float_oracle import Arithmetic
from tests.properties.strategies import DATAFLOWS, HUGE, Case, Dataflow, share_of_examples
from tests.properties.test_reference_values import check_values

# Along rows and columns; what is stationary allows its own dimensions only.
UNROLL: dict[Dataflow, tuple[Dim, Dim]] = {
    "multicast": ("C", "R"), "streaming": ("C", "R"), "weight": ("C", "R"), "input": ("C", "N"), "output": ("K", "P"),
}


@st.composite
def narrow_elements(draw: st.DrawFn) -> FloatingPointElement:
    """Elements whose sums round nearly always: an accumulator no wider than the operands."""
    operand = draw(st.sampled_from(("fp16", "bf16")))
    return FloatingPointElement(
        operand_formats=(operand,), accumulator_format=operand, lane_count=draw(st.integers(1, 6)),
        lane_order=draw(st.sampled_from(("tree", "chain"))), subnormals=draw(st.sampled_from(("kept", "flushed"))),
        energy_pj_per_cycle=0.0, pipeline_cycles=draw(st.integers(0, 2)),
    )


@st.composite
def long_sums(draw: st.DrawFn, dataflow: Dataflow) -> Case:
    """A layer whose every output is the sum of many products, spread over all that adds."""
    element = draw(narrow_elements())
    rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 4))
    first, second = UNROLL[dataflow]
    spatial: dict[str, dict[Dim, int]] = {"rows": {first: rows}, "columns": {second: columns}, LANES: {"S": 2}}
    if element.lane_count < 2:
        spatial[LANES] = {}
    elif element.lane_count >= 4:
        spatial[LANES]["C"] = element.lane_count // 2
    dims: dict[Dim, int] = {
        "N": draw(st.integers(1, 2)), "K": draw(st.integers(1, 3)), "C": draw(st.integers(5, 14)),
        "P": draw(st.integers(1, 2)), "R": draw(st.integers(1, 4)), "S": draw(st.integers(1, 3)),
    }
    held = {dim: math.prod(factors.get(dim, 1) for factors in spatial.values()) for dim in dims}
    tile = {dim: min(size, held[dim] * draw(st.integers(1, 3))) for dim, size in dims.items()}
    registers = tuple(op for op in OPERANDS if draw(st.booleans()) or op == dataflow)
    # Whatever is stationary has its loops outermost; the others come in any order.
    inner = draw(st.permutations(tuple(dims)))
    if dataflow in OPERANDS:
        own = {"weight": "KCRS", "input": "NCPRS", "output": "NKP"}[dataflow]
        inner = sorted(inner, key=lambda dim: dim not in own)
    memories = (
        Dram(bandwidth_bits_per_cycle=4096, read_energy_pj_per_bit=0, write_energy_pj_per_bit=0),
        Buffer(name="buffer", keeps=OPERANDS, size_bits=HUGE, read_energy_pj_per_bit=0, write_energy_pj_per_bit=0),
        *(RegisterFile(name=f"{operand}_registers", keeps=(operand,), size_bits=HUGE, read_energy_pj_per_bit=0,
                       write_energy_pj_per_bit=0) for operand in registers),
    )
    passing = MulticastPassing() if dataflow == "multicast" else SystolicPassing(
        stationary=None if dataflow == "streaming" else dataflow, fold_overlap=draw(st.booleans())
    )
    multicast: list[Literal["multicast"] | None] = [None, None]
    if dataflow != "multicast" and draw(st.booleans()):
        multicast[draw(st.integers(0, 1))] = "multicast"
    axes = (
        Axis(name="rows", size=rows, unroll=(first,), passing=multicast[0]),
        Axis(name="columns", size=columns, unroll=(second,), passing=multicast[1]),
    )
    return Case(
        Layer(name="layer", dims=dims),
        draw(precisions(element)).model_copy(update={"output": Format("fp32")}),
        Accelerator(
            name="machine", description="drawn", clock_mhz=1.0, memories=memories, processing_element=element,
            grid=Grid(axes=axes, passing=passing), vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0),
        ),
        Mapping(
            spatial=spatial,
            levels=(
                MappingLevel(level="dram", order=tuple(draw(st.permutations(tuple(dims))))),
                MappingLevel(level="buffer", tile=tile, order=tuple(inner)),
                MappingLevel(level="register", tile={}),
            ),
        ),
        draw(st.integers(0, 1 << 16)),
    )


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_long_sums_add_in_the_documented_order(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(long_sums(dataflow))
    def check(case: Case) -> None:
        slow, outputs = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), case.scales()
        )
        check_values(outputs, case)
        # The fast engine checks the mapping.
        assert simulate(case.layer, case.precision, case.accelerator, case.mapping).total_cycles == slow.total_cycles

    check()


@given(narrow_elements(), st.integers(1, 17), st.integers(0, 1 << 16))
def test_lanes_add_in_their_order(element: FloatingPointElement, products: int, seed: int) -> None:
    name = element.operand_formats[0]
    formats = LayerPrecision(weight=name, input=name, accumulator=name, output=name)
    rng, arithmetic = np.random.default_rng(seed), Arithmetic(element)
    weights, inputs = (random_codes(rng, Format(name), (3, products)) for _ in range(2))
    sums = decode(element.dot(weights, inputs, formats), Format(name))
    with np.errstate(all="ignore"):
        for row in range(3):
            operands = zip(weights[row], inputs[row], strict=True)
            terms = [arithmetic.product(*(arithmetic.operand(int(code), name) for code in pair)) for pair in operands]
            np.testing.assert_array_equal(sums[row], float(arithmetic.over_lanes(terms)))
