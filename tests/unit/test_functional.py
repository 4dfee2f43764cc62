"""The functional mode at its borders: large layers, wide operands, wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bitmosaic
from simulator import kernels
from simulator.errors import PrecisionError
from simulator.floating import decode
from simulator.formats import Format
from simulator.layer import Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from tests.properties.test_reference_values import numpy_outputs
from tests.unit.test_floating_point import element as floating_element

LAYER = Layer(name="layer", dims={"K": 33, "C": 40, "P": 21, "Q": 15, "R": 3, "S": 3}, padding_begin=(1, 1),
              input_size=(21, 15))


def machine(element: Any) -> bitmosaic.Accelerator:
    """A small grid with buffers large enough for everything."""
    preset = bitmosaic.open_accelerator("bit_fusion")
    memories = [preset.dram]
    memories += [buffer.model_copy(update={"size_bits": 1 << 40}) for buffer in preset.buffers]
    return preset.model_copy(update={"processing_element": element, "memories": tuple(memories)})


def mapping(layer: Layer) -> Mapping:
    """Everything in the buffers, nothing unrolled."""
    dims = tuple(dim for dim, extent in layer.dims.items() if extent > 1)
    levels = (MappingLevel(level="dram"), MappingLevel(level="buffer", tile=layer.dims, order=dims),
              MappingLevel(level="register"))
    return Mapping(levels=levels)


def operands(layer: Layer, low: int, high: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    extent = layer.extent
    weights = rng.integers(low, high, (extent("G"), extent("K"), extent("C"), extent("R"), extent("S")), endpoint=True)
    shape = (extent("G"), extent("N"), extent("C"), *layer.stored_input_size)
    return weights, rng.integers(low, high, shape, endpoint=True)


@pytest.mark.parametrize("bits", [8, 15, 16, 24])
def test_integer_layers_of_every_width(bits: int) -> None:
    """8 bits add up in int32, 15 bits in int32 a few at a time or in int64, wider ones in int64."""
    formats = LayerPrecision(weight=f"int{bits}", input=f"int{bits}")
    fixed = FixedElement(operand_bits=32, energy_pj_per_cycle=0.0)
    for values in (Format(f"int{bits}").integer_range, (-5, 3)):
        weights, inputs = operands(LAYER, *values)
        outputs = bitmosaic.compute_layer(LAYER, formats, machine(fixed), mapping(LAYER), weights, inputs)
        np.testing.assert_array_equal(outputs, numpy_outputs(LAYER, weights, inputs))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_short_sums_in_int32_add_up_in_int64(chunk: int) -> None:
    rng = np.random.default_rng(1)
    weights, rows = (rng.integers(-2000, 2000, (count, 50)).astype(np.int16) for count in (5, 23))
    outputs = np.empty((5, 23), dtype=np.int64)
    kernels.narrow_products(weights, rows, chunk, outputs)
    np.testing.assert_array_equal(outputs, weights.astype(np.int64) @ rows.T.astype(np.int64))


def test_sums_in_int32_do_not_overflow() -> None:
    """The largest product 255 · 255 as often as int32 holds it, and once more."""
    layer = Layer(name="long", dims={"C": (1 << 31) // 255**2 + 2})
    formats = LayerPrecision(weight="uint8", input="uint8")
    fixed = FixedElement(energy_pj_per_cycle=0.0)
    weights, inputs = operands(layer, 255, 255)
    outputs = bitmosaic.compute_layer(layer, formats, machine(fixed), mapping(layer), weights, inputs)
    assert outputs.item() == layer.extent("C") * 255**2 > 1 << 31


def test_sums_beyond_64_bits_are_refused() -> None:
    layer = Layer(name="wide", dims={"C": 4})
    formats = LayerPrecision(weight="uint32", input="uint32")
    fixed = FixedElement(operand_bits=32, energy_pj_per_cycle=0.0)
    weights, inputs = operands(layer, (1 << 32) - 1, (1 << 32) - 1)
    with pytest.raises(PrecisionError, match=r"wide: weights=up to 4294967295, inputs up to .*, 4 products: sums"):
        bitmosaic.compute_layer(layer, formats, machine(fixed), mapping(layer), weights, inputs)


@pytest.mark.parametrize("dims", [{"K": 300, "C": 7, "P": 3}, {"K": 3, "C": 7, "P": 300}])
def test_wide_outputs_in_floating_point(dims: dict[Any, int]) -> None:
    """More outputs than are added up side by side, along either direction."""
    layer = Layer(name="wide", dims=dims)
    formats = LayerPrecision.parse("fp32")
    rng = np.random.default_rng(2)
    real = [rng.normal(size=shape).astype(np.float32) for shape in (
        (1, layer.extent("K"), 7, 1, 1), (1, 1, 7, layer.extent("P"), 1))]
    weights, inputs = (values.view(np.uint32).astype(np.int64) for values in real)
    outputs = bitmosaic.compute_layer(layer, formats, machine(floating_element()), mapping(layer), weights, inputs)
    expected = np.zeros((layer.extent("K"), layer.extent("P")), dtype=np.float32)
    for c in range(7):
        expected += real[0][0, :, c, 0] * real[1][0, 0, c, :, 0]
    np.testing.assert_array_equal(decode(outputs[0, 0, :, :, 0], Format("fp32")), expected.astype(np.float64))


@pytest.mark.parametrize(("change", "message"), [
    ({"weights": np.zeros((1, 2, 3, 1, 1), dtype=np.int64)}, r"weights=\(1, 2, 3, 1, 1\): has another shape"),
    ({"inputs": np.full((1, 1, 4, 5, 1), -129)}, r"inputs=-129: is no code of int8 \(allowed: -128 … 127\)"),
    ({"weights": np.full((1, 2, 4, 1, 1), 300)}, "weights=300: is no code of int8"),
])
def test_wrong_operands_are_named(change: dict[str, Any], message: str) -> None:
    layer = Layer(name="layer", dims={"K": 2, "C": 4, "P": 5})
    weights, inputs = operands(layer, -1, 1)
    given = {"weights": weights, "inputs": inputs, **change}
    with pytest.raises(PrecisionError, match=message):
        bitmosaic.compute_layer(layer, LayerPrecision(), machine(FixedElement(energy_pj_per_cycle=0.0)), mapping(layer),
                                **given)
