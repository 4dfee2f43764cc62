"""The outputs of a floating-point layer, added up in the order of docs/simulator.md ("Values").

Written from that page, and independent of the engines: loops over the mapping, and the arithmetic of ``ml_dtypes``
and NumPy's own types in place of the simulator's. Nothing here knows of events, buffers or cycles.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from simulator.accelerator import LANES, SystolicPassing
from simulator.layer import DIMS, RELEVANT_DIMS, Dim
from simulator.processing_elements import DualPrecisionElement
from simulator.processing_elements.floating_base import FloatingElementBase
from simulator.scales import GroupScales
from tests.properties.strategies import Case

IntArray = npt.NDArray[np.int64]
Place = tuple[int, ...]
TYPES: dict[str, Any] = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e4m3_ieee": ml_dtypes.float8_e4m3, "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32,
}


def expanded_weights(
    case: Case, weights: IntArray, scales: GroupScales, arithmetic: Arithmetic
) -> dict[tuple[int, ...], float]:
    """Every weight as it is multiplied; groups are counted through each output channel, weight by weight."""
    element, name = case.accelerator.processing_element, case.precision.expanded_weight
    size = 0 if case.layer.weight_is_activation else case.precision.weight_group
    assert isinstance(element, DualPrecisionElement) and name is not None
    values = {}
    for g, k in itertools.product(range(weights.shape[0]), range(weights.shape[1])):
        for place, index in enumerate(np.ndindex(weights.shape[2:])):
            group = (g, k, place // size if size > 0 else 0) if size else (0, 0, 0)
            code, scale, zero = int(weights[g, k][index]), float(scales.scales[group]), int(scales.zeros[group])
            value = expanded(code, scale, zero, name, element.expansion_limit)
            values[g, k, *index] = float(arithmetic.flushed(value, name))
    return values


class Arithmetic:
    """Numbers of the accumulator's type, and what the element does with them."""

    def __init__(self, element: FloatingElementBase) -> None:
        self.element = element
        self.type = TYPES[element.accumulator_format]

    def operand(self, code: int, name: str) -> float:
        stored = np.array(code, dtype=f"u{np.dtype(TYPES[name]).itemsize}").view(TYPES[name])[()]
        return float(self.flushed(stored, name))

    def product(self, weight: float, activation: float) -> Any:
        """A product of two operands is exact in a Python float; it is rounded once."""
        exact = weight * activation
        value = nearest_bf16(exact) if self.type is ml_dtypes.bfloat16 else self.type(exact)
        return self.flushed(value, self.element.accumulator_format)

    def add(self, one: Any, other: Any) -> Any:
        return self.flushed(one + other, self.element.accumulator_format)

    def over_lanes(self, products: list[Any]) -> Any:
        if self.element.lane_order == "chain":
            total = products[0]
            for product in products[1:]:
                total = self.add(total, product)
            return total
        while len(products) > 1:
            pairs = [self.add(*products[i : i + 2]) for i in range(0, len(products) - 1, 2)]
            products = pairs + (products[-1:] if len(products) % 2 else [])
        return products[0]

    def output_code(self, total: Any, name: str) -> int | str:
        """The bits of a finished sum in the output's type; any NaN is just that."""
        limits: Any = ml_dtypes.finfo(TYPES[name])
        value = total.astype(TYPES[name])
        if self.element.output_overflow == "saturated" and abs(float(total)) > float(limits.max):
            value = np.copysign(float(limits.max), float(total)).astype(np.float32).astype(TYPES[name])
        value = self.flushed(value, name)
        if np.isnan(value):
            return "NaN"
        return int(np.asarray(value).view(f"u{np.dtype(TYPES[name]).itemsize}"))

    def flushed(self, value: Any, name: str) -> Any:
        smallest = float(ml_dtypes.finfo(TYPES[name]).smallest_normal)
        if self.element.subnormals == "flushed" and abs(float(value)) < smallest:
            return np.asarray(math.copysign(0.0, float(value))).astype(TYPES[name])[()]
        return value


@cache
def _bf16_values() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint16]]:
    """Non-negative finite values in ascending order, and their codes."""
    codes = np.arange(0x7F80, dtype=np.uint16)
    return codes.view(ml_dtypes.bfloat16).astype(np.float64), codes


@cache
def _magnitudes(name: str) -> list[float]:
    """Every finite magnitude of a format of at most 16 bits in ascending order: the place of each is its code."""
    bits = 8 * np.dtype(TYPES[name]).itemsize
    values = np.arange(1 << (bits - 1), dtype=f"u{bits // 8}").view(TYPES[name]).astype(np.float64)
    return [float(value) for value in values if np.isfinite(value)]


def expanded(weight: int, scale: float, zero: int, name: str, limit: float | None) -> float:
    """A stored weight as it is multiplied: the exact ``scale · (weight − zero)``, clipped, then rounded once."""
    exact = Fraction(scale) * (weight - zero)
    most = Fraction(float(ml_dtypes.finfo(TYPES[name]).max) if limit is None else limit)
    sign = -1.0 if math.copysign(1.0, scale) * (-1 if weight < zero else 1) < 0 else 1.0
    magnitude = min(abs(exact), most)
    if name == "fp32":
        return math.copysign(float(np.float32(float(magnitude))), sign)
    known = _magnitudes(name)
    above = bisect_left(known, magnitude)
    codes = range(max(0, above - 1), min(len(known), above + 1))
    nearest = min(codes, key=lambda code: (abs(Fraction(known[code]) - magnitude), code % 2))
    return math.copysign(known[nearest], sign)


def nearest_bf16(value: float) -> Any:
    """Look up the nearest bfloat16: a cast from float64 may round twice."""
    if not math.isfinite(value):
        return ml_dtypes.bfloat16(value)
    values, codes = _bf16_values()
    above = int(np.searchsorted(values, abs(value)))
    # The step above the largest finite value would be 2^128, and stands for infinity.
    candidates = [(Fraction(float(values[i])), int(codes[i])) for i in (above - 1, above) if 0 <= i < len(values)]
    if above == len(values):
        candidates.append((Fraction(2) ** 128, 0x7F80))
    code = min(candidates, key=lambda pair: (abs(pair[0] - Fraction(abs(value))), pair[1] % 2))[1]
    sign = 0x8000 if math.copysign(1.0, value) < 0 else 0
    return np.array(code | sign, dtype=np.uint16).view(ml_dtypes.bfloat16)[()]


class Order:
    """A layer's products in the order in which a mapping lets the machine add them."""

    def __init__(self, case: Case) -> None:
        self.case, self.layer, mapping = case, case.layer, case.mapping
        machine = case.accelerator
        self.keeps_outputs = any("output" in file.keeps for file in machine.register_files)
        self.lanes = {dim: mapping.spatial.get(LANES, {}).get(dim, 1) for dim in DIMS}
        self.held = {dim: math.prod(factors.get(dim, 1) for factors in mapping.spatial.values()) for dim in DIMS}
        register, buffer = mapping.level("register").tile, mapping.level("buffer")
        self.in_registers = {dim: register.get(dim, 1) * self.held[dim] for dim in DIMS}
        self.in_buffer = {dim: buffer.tile.get(dim, 1) for dim in DIMS}
        self.places = list(itertools.product(*(range(axis.size) for axis in machine.grid.axes)))
        # Every level above the innermost buffer tile: the tile that it cuts out, in which order.
        self.outer = [
            ({dim: inside.tile.get(dim, 1) for dim in DIMS}, self._complete(level.order))
            for level, inside in zip(mapping.levels, mapping.buffer_levels, strict=False)
        ]
        inner = [dim for dim in buffer.order if self.in_buffer[dim] > self.in_registers[dim]]
        self.buffer_order = tuple(inner)
        # A visit ends where the loops down to the innermost one that matters go on: that of the outputs, or of an
        # operand that bypasses its buffer.
        matters = [dims for name, dims in RELEVANT_DIMS.items() if name == "output" or name in mapping.bypass]
        self.visit_depth = max(
            (depth + 1 for depth, dim in enumerate(inner) if any(dim in dims for dims in matters)), default=0
        )

    def _complete(self, order: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return order + tuple(dim for dim in DIMS if dim not in order)

    def visits(self) -> Iterator[list[dict[Dim, range]]]:
        """The steps of each visit: what the whole grid works on at once."""
        whole = {dim: range(self.layer.extent(dim)) for dim in DIMS}
        for tile in self._buffer_tiles(whole, 0):
            steps: list[dict[Dim, range]] = []
            last: tuple[int, ...] | None = None
            order = self.buffer_order + tuple(dim for dim in DIMS if dim not in self.buffer_order)
            for box in self._cut(tile, self.in_registers, order):
                key = tuple(box[dim].start for dim in self.buffer_order[: self.visit_depth])
                for step in self._cut(box, self.held, DIMS):
                    if steps and (key != last or not self.keeps_outputs):
                        yield steps
                        steps = []
                    steps.append(step)
                    last = key
            yield steps

    def _buffer_tiles(self, box: dict[Dim, range], level: int) -> Iterator[dict[Dim, range]]:
        """Innermost buffer tiles of what a level hands out, in order."""
        if level == len(self.outer):
            yield box
            return
        for tile in self._cut(box, *self.outer[level]):
            yield from self._buffer_tiles(tile, level + 1)

    @staticmethod
    def _cut(
        whole: dict[Dim, range], extent: dict[Dim, int], order: tuple[Dim, ...]
    ) -> Iterator[dict[Dim, range]]:
        """Tiles of at most an extent, the last dimension of the order fastest."""
        parts = [
            [range(begin, min(begin + extent[dim], whole[dim].stop)) for begin in whole[dim][:: extent[dim]]]
            for dim in order
        ]
        for chosen in itertools.product(*parts):
            yield dict(zip(order, chosen, strict=True))

    def products(self, step: dict[Dim, range], place: Place) -> list[tuple[int, ...]]:
        """Products of a PE in a step, in the order of its lanes; none where the PE is idle or not used."""
        numbers = dict.fromkeys(DIMS, 0)
        for axis, position in zip(self.case.accelerator.grid.axes, place, strict=True):
            for dim, factor in self.case.mapping.spatial.get(axis.name, {}).items():
                position, digit = divmod(position, factor)
                numbers[dim] = numbers[dim] * factor + digit
            if position:
                return []
        mine = []
        for dim in DIMS:
            begin = step[dim].start + numbers[dim] * self.lanes[dim]
            mine.append(range(begin, min(begin + self.lanes[dim], step[dim].stop)))
        return list(itertools.product(*mine))


@np.errstate(all="ignore")
def ordered_outputs(
    case: Case, weights: IntArray, inputs: IntArray, scales: GroupScales | None = None
) -> npt.NDArray[Any]:
    """Output codes of shape (G, N, K, P, Q), NaN as text."""
    element, layer, order = case.accelerator.processing_element, case.layer, Order(case)
    assert isinstance(element, FloatingElementBase)
    arithmetic, lanes = Arithmetic(element), element.lanes(case.precision)
    precision = case.precision
    input_values = {index: arithmetic.operand(int(code), precision.input) for index, code in np.ndenumerate(inputs)}
    if scales is None:
        weight_values = {i: arithmetic.operand(int(code), precision.weight) for i, code in np.ndenumerate(weights)}
    else:
        weight_values = expanded_weights(case, weights, scales, arithmetic)
    zero = arithmetic.product(0.0, 0.0)
    grid = case.accelerator.grid
    hands_down = isinstance(grid.passing, SystolicPassing) and grid.passing.stationary != "output"
    as_tree = hands_down and grid.axes[0].passing == "multicast"
    totals: dict[tuple[int, ...], Any] = {}

    def step_sum(points: list[tuple[int, ...]]) -> tuple[tuple[int, ...], Any]:
        found = []
        for g, n, k, c, p, q, r, s in points:
            row = p * layer.stride[0] + r * layer.dilation[0] - layer.padding_begin[0]
            column = q * layer.stride[1] + s * layer.dilation[1] - layer.padding_begin[1]
            found.append(arithmetic.product(weight_values[g, k, c, r, s],
                                            input_values.get((g, n, c, row, column), 0.0)))
            output = (g, n, k, p, q)
        return output, arithmetic.over_lanes(found + [zero] * (lanes - len(found)))

    def group_sum(values: list[Any]) -> Any:
        if as_tree and len(values) > 1:
            pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
            return group_sum([arithmetic.add(*pair) if len(pair) == 2 else pair[0] for pair in pairs])
        total, *others = values
        for value in others:
            total = arithmetic.add(total, value)
        return total

    for steps in order.visits():
        # Sums by output and, within it, by what adds up apart: a PE, or a column in a step.
        apart: dict[tuple[tuple[int, ...], Any], list[Any]] = defaultdict(list)
        for number, step in enumerate(steps):
            for place in order.places:
                points = order.products(step, place)
                if points:
                    output, value = step_sum(points)
                    apart[output, (number, place[1]) if hands_down else place].append(value)
        for output, part in sorted(apart):
            totals[output] = arithmetic.add(totals.get(output, zero), group_sum(apart[output, part]))
    codes = np.empty([layer.extent(dim) for dim in ("G", "N", "K", "P", "Q")], dtype=object)
    for output, total in totals.items():
        codes[output] = arithmetic.output_code(total, case.precision.output)
    return codes
