"""Test bench for the RTL: clocks a circuit, and asks the simulator about the same work.

Time is counted in one way everywhere. In cycle 0 the first operand stands at the circuit's ports. A result that
is first seen in its register in cycle n has taken n cycles: n clock edges lie between the two. The simulator says
the same of a grid: operands enter in its first compute (or fill) cycle, and the results are there when its last
compute and drain cycles have passed. So n is compared with ``compute_cycles + fill_drain_cycles``; the buffers of
the machine hold everything, and what the DRAM takes (a few cycles, counted as stalls) is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyrtl

from benchmarks.reference.machines import bare_machine, grid_cycles, one_pass
from simulator.accelerator import Accelerator, Axis, MulticastPassing
from simulator.engine import simulate
from simulator.formats import Format
from simulator.layer import Dim, Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import ProcessingElement
from simulator.reference import simulate_reference
from simulator.values import LayerValues

IntArray = npt.NDArray[np.int64]

# A circuit that has come to a halt would otherwise keep the tests waiting.
MOST_CYCLES = 100_000


# ---- numbers ------------------------------------------------------------------------------------------------


def pack(codes: Iterable[int], bits: int) -> int:
    """Lay integers side by side, the first one lowest, each in two's complement of ``bits``."""
    return sum((int(code) & ((1 << bits) - 1)) << (place * bits) for place, code in enumerate(codes))


def as_signed(code: int, bits: int) -> int:
    """Read two's complement."""
    return code - (1 << bits) if code >> (bits - 1) else code


def random_codes(rng: np.random.Generator, number_format: Format, shape: tuple[int, ...]) -> IntArray:
    """Codes over a format's whole range; about a fourth of them at its ends, where signs go wrong."""
    low, high = number_format.integer_range
    codes = rng.integers(low, high, size=shape, endpoint=True)
    ends = rng.choice([low, high], size=shape)
    return np.where(rng.random(shape) < 0.25, ends, codes).astype(np.int64)


# ---- clock --------------------------------------------------------------------------------------------------


class Clock:
    """A circuit under a clock. ``cycle`` passes one; ``seen`` then reads what an output showed during it."""

    def __init__(
        self, block: pyrtl.Block, memories: Mapping[pyrtl.MemBlock, Mapping[int, int]] | None = None
    ) -> None:
        # Compiles the circuit to Python, and so needs no C compiler.
        contents = {memory: dict(words) for memory, words in (memories or {}).items()}
        self._simulation = pyrtl.FastSimulation(tracer=None, block=block, memory_value_map=contents)
        self._idle = {wire.name: 0 for wire in block.wirevector_subset(pyrtl.Input)}
        self.inputs = frozenset(self._idle)
        self.width = {wire.name: len(wire) for wire in block.wirevector_subset(pyrtl.Output)}

    def cycle(self, ports: Mapping[str, int]) -> None:
        """Hold the given values at the inputs for a cycle, and 0 at all others."""
        self._simulation.step(self._idle | dict(ports))

    def seen(self, output: str) -> int:
        """Value that an output had in the last cycle."""
        return int(self._simulation.inspect(output))


@dataclass(frozen=True)
class Results:
    """What came out of a circuit, and in which cycle the last of it did."""

    values: list[int]
    cycles: int


def run_dot_products(clock: Clock, settings: Mapping[str, int], steps: list[dict[str, int]]) -> Results:
    """Feed a unit step after step, as fast as it takes them, and collect its sums. It must be idle, and is after.

    A unit takes the operands at its ports while ``start`` is 1, and says by ``ready`` that this cycle is the last
    of a step. ``opens`` and ``closes`` mark the first and the last step of a sum; ``done`` says that ``sum`` holds one.
    """
    expected = sum(step["closes"] for step in steps)
    waiting, values = list(reversed(steps)), []
    for cycle in range(MOST_CYCLES):
        clock.cycle({**settings, **waiting[-1], "start": 1} if waiting else settings)
        if waiting and clock.seen("ready"):
            waiting.pop()
        if clock.seen("done"):
            values.append(as_signed(clock.seen("sum"), clock.width["sum"]))
            if len(values) == expected:
                return Results(values, cycle)
    raise AssertionError(f"{len(values)} of {expected} sums after {MOST_CYCLES} cycles")


# ---- the simulator's word -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What the simulator says: cycles of the grid by ``fast``, outputs (P, K) by the functional engine."""

    cycles: int
    outputs: IntArray


def predict(
    machine: Accelerator, precision: LayerPrecision, weights: IntArray, inputs: IntArray,
    spatial: dict[str, dict[Dim, int]], order: tuple[Dim, ...],
) -> Prediction:
    """Simulate ``inputs`` (P, C) times ``weights`` (K, C), transposed, as one buffer tile walked in ``order``."""
    layer = Layer(name="product", dims={"K": len(weights), "P": len(inputs), "C": weights.shape[1]})
    mapping = one_pass(layer, spatial, order)
    operands = weights[np.newaxis, :, :, np.newaxis, np.newaxis], inputs.T[np.newaxis, np.newaxis, :, :, np.newaxis]
    values = LayerValues(*operands, source="recorded")
    fast = simulate(layer, precision, machine, mapping, engine="fast", values=values)
    _, outputs = simulate_reference(layer, precision, machine, mapping, *operands)
    return Prediction(cycles=grid_cycles(fast), outputs=outputs[0, 0, :, :, 0].T)


def predict_on_one_unit(
    element: ProcessingElement, precision: LayerPrecision, weights: IntArray, inputs: IntArray
) -> Prediction:
    """Simulate a matrix product on a single PE: its steps follow each other, and its pipeline shows at the end."""
    machine = bare_machine((Axis(name="units", size=1, unroll=("K",)),), MulticastPassing(), element)
    return predict(
        machine, precision, weights, inputs, {"lanes": {"C": element.lanes(precision)}}, ("P", "K", "C")
    )


def dot_product_steps(weights: IntArray, inputs: IntArray, lanes: int) -> list[dict[str, IntArray | int]]:
    """Cut the products of every output into steps of ``lanes``, in the order P, K, C; lanes left over get zeros."""
    padding = -weights.shape[1] % lanes
    weights, inputs = (np.pad(matrix, ((0, 0), (0, padding))) for matrix in (weights, inputs))
    starts = range(0, weights.shape[1], lanes)
    return [
        {
            "weights": weight_row[start : start + lanes], "inputs": input_row[start : start + lanes],
            "opens": int(start == 0), "closes": int(start == starts[-1]),
        }
        for input_row, weight_row in itertools.product(inputs, weights)
        for start in starts
    ]
