"""Hypothesis strategies for processing elements, the precisions that they take, and codes of their operands."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from simulator.channel_split import ChannelSplit
from simulator.floating import FLOAT_TYPES
from simulator.formats import FLOAT_BITS, Format
from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements import (
    BitFusionElement,
    BitSerialElement,
    BitSparseElement,
    DualPrecisionElement,
    FixedElement,
    FloatingPointElement,
    PrecisionEnergy,
    ProcessingElement,
)
from simulator.processing_elements.floating_base import FloatingElementBase

Kind = Literal["fixed", "bit_fusion", "bit_serial", "floating_point", "bit_sparse", "dual_precision"]
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != "bit_sparse")
"""The kinds whose time does not depend on values."""
INTEGER_KINDS: tuple[Kind, ...] = ("fixed", "bit_fusion", "bit_serial")
"""The kinds that take layers split by channel."""


def random_codes(rng: np.random.Generator, number_format: Format, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Random codes of a format.

    Floating-point codes are mostly of values near each other, whose sums round; else finite ones of any magnitude, or
    now and then any code at all, infinities and NaN too.
    """
    if number_format.is_integer:
        return rng.integers(*number_format.integer_range, size=shape, endpoint=True)
    codes = rng.integers(1 << number_format.bits, size=shape)
    store = f"u{number_format.bits // 8}"
    choice = rng.random()
    if choice < 0.7:
        near = rng.normal(size=shape) * 2.0 ** rng.integers(-6, 4)
        return near.astype(np.float32).astype(FLOAT_TYPES[number_format]).view(store).astype(np.int64)
    if choice < 0.9:
        with np.errstate(invalid="ignore"):
            values = codes.astype(store).view(FLOAT_TYPES[number_format]).astype(np.float64)
        return np.where(np.isfinite(values), codes, 1)
    return codes


@st.composite
def precision_energies(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[PrecisionEnergy, ...]:
    """Energies of up to three pairs of formats."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=3, unique=True))
    return tuple(
        PrecisionEnergy(
            weight=Format(weight), input=Format(activation),
            energy_pj_per_cycle=draw(st.sampled_from((0.0, 0.125, 3.0))),
        )
        for weight, activation in pairs
    )


@st.composite
def processing_elements(draw: st.DrawFn, max_lanes: int = 4, kinds: tuple[Kind, ...] = KINDS) -> ProcessingElement:
    """PEs of all kinds with their parameters."""
    common = {
        "energy_pj_per_cycle": draw(st.sampled_from((0.0, 0.25, 1.5))),
        "pipeline_cycles": draw(st.integers(0, 3)),
        "leakage_mw": draw(st.sampled_from((None, None, 0.5))),
    }
    kind = draw(st.sampled_from(kinds))
    names = tuple(FLOAT_BITS) if kind == "floating_point" else ("int2", "int4", "int8", "int16")
    common["energy_by_precision"] = draw(precision_energies(names))
    if kind == "fixed":
        return FixedElement(
            operand_bits=draw(st.sampled_from((4, 8, 16))), lane_count=draw(st.integers(1, max_lanes)), **common
        )
    if kind == "bit_fusion":
        max_bits = draw(st.sampled_from((2, 4, 8)))
        min_bits = draw(st.sampled_from([bits for bits in (1, 2, 4, 8) if bits <= max_bits]))
        return BitFusionElement(max_bits=max_bits, min_bits=min_bits, **common)
    if kind in ("floating_point", "dual_precision"):
        names = draw(st.lists(st.sampled_from(tuple(FLOAT_BITS)), min_size=1, max_size=3, unique=True))
        common |= {
            "operand_formats": tuple(names),
            "lane_count": draw(st.integers(1, max_lanes + 2)),
            "lanes_double_at_half_width": draw(st.booleans()),
            "step_cycles": draw(st.integers(1, 3)),
            "accumulator_format": draw(st.sampled_from(("fp32", "fp16", "bf16"))),
            "lane_order": draw(st.sampled_from(("tree", "chain"))),
            "subnormals": draw(st.sampled_from(("kept", "flushed"))),
            "output_overflow": draw(st.sampled_from(("infinity", "saturated"))),
        }
        if kind == "floating_point":
            return FloatingPointElement(**common)
        return DualPrecisionElement(
            max_weight_bits=draw(st.sampled_from((3, 4, 8))),
            expansion_limit=draw(st.sampled_from((None, 224.0, 3.0))),
            expansion_energy_pj_per_weight=draw(st.sampled_from((None, 0.0, 0.75))),
            **common,
        )
    serial = draw(st.sampled_from((("weight",), ("input",), ("weight", "input"))))
    if kind == "bit_sparse":
        return draw(bit_sparse_elements(serial, max_lanes + 2, common))
    return BitSerialElement(
        serial_operands=serial,
        lane_count=draw(st.integers(1, max_lanes)),
        digit_bits=draw(st.integers(1, 3)),
        width_rounding=draw(st.sampled_from(("none", "power_of_two"))),
        min_bits=draw(st.integers(1, 3)),
        max_bits=8,
        **common,
    )


@st.composite
def bit_sparse_elements(
    draw: st.DrawFn, serial: tuple[str, ...], max_lanes: int, common: dict[str, float | int]
) -> BitSparseElement:
    """PEs whose time depends on values, in all their variants."""
    skipping = draw(st.sampled_from(("zero_bits", "zero_columns", "leading_bits")))
    encoding = draw(st.sampled_from(("twos_complement", "sign_magnitude")))
    stage = draw(st.sampled_from((None, 0, 1, 2))) if skipping == "zero_bits" else None
    may_send_signs = encoding == "sign_magnitude" and stage is None
    return BitSparseElement(
        serial_operands=serial,
        skipped_operands=draw(st.sampled_from([chosen for chosen in (serial, serial[:1], serial[1:]) if chosen])),
        skipping=skipping,
        encoding=encoding,
        sign_cycles=draw(st.integers(0, 1)) if may_send_signs else 0,
        group_size=draw(st.sampled_from((None, 1, 2, 3))),
        first_stage_bits=stage,
        overlapped_cycles=draw(st.sampled_from((0, 0, 1))),
        min_step_cycles=draw(st.sampled_from((1, 1, 2))),
        lane_count=draw(st.integers(1, max_lanes)),
        max_bits=8,
        **common,
    )


@st.composite
def split_precisions(draw: st.DrawFn, element: ProcessingElement, share: float | None = None) -> LayerPrecision:
    """Precisions whose channels are split, on a PE that computes with integers; ``share``: None for any."""
    precision = draw(precisions(element))

    def narrow(operand: Operand, wide: Format) -> Format:
        widths = [bits for bits in element.allowed_bits(operand) if bits <= wide.bits]  # type: ignore[union-attr]
        return Format(f"{draw(st.sampled_from(('int', 'uint')))}{draw(st.sampled_from(widths))}")

    split = ChannelSplit(
        share=draw(st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0)) | st.floats(0.0, 1.0)) if share is None else share,
        channel_group=draw(st.sampled_from((1, 1, 2, 3, 4))),
        weight=narrow("weight", precision.weight), input=narrow("input", precision.input),
    )
    return precision.model_copy(update={"split": split})


@st.composite
def precisions(draw: st.DrawFn, element: ProcessingElement) -> LayerPrecision:
    """Precisions that a PE takes."""
    scaling = {"weight_group": draw(st.sampled_from((-1, 0, 2, 5))), "scale_bits": draw(st.sampled_from((0, 16)))}
    if isinstance(element, FloatingElementBase):
        weight, activation = (Format(draw(st.sampled_from(element.operand_formats))) for _ in range(2))
        if isinstance(element, DualPrecisionElement) and draw(st.integers(0, 3)) > 0:
            scaling |= {"expanded_weight": weight, "zero_bits": draw(st.sampled_from((0, 4)))}
            weight = Format(f"{draw(st.sampled_from(('int', 'uint')))}{draw(st.integers(2, element.max_weight_bits))}")
        return LayerPrecision(
            weight=weight, input=activation, accumulator=Format(element.accumulator_format),
            output=Format(draw(st.sampled_from(tuple(FLOAT_BITS)))), **scaling,
        )

    def operand_format(operand: Operand) -> Format:
        bits = draw(st.sampled_from([bits for bits in element.allowed_bits(operand) if bits <= 10]))
        return Format(f"{draw(st.sampled_from(('int', 'uint')))}{bits}")

    return LayerPrecision(
        weight=operand_format("weight"),
        input=operand_format("input"),
        accumulator=Format(f"int{draw(st.sampled_from((12, 24, 32)))}"),
        output=Format(f"int{draw(st.integers(1, 16))}"),
        **scaling,
    )
