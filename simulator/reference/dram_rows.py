"""Rows of the DRAM, element by element: which are open, and how long a request waits for those that are not."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Dram, DramRows
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.reference.program import Request


class OpenRows:
    """Banks with open pages. Tensors lie behind one another, each from a new row on."""

    def __init__(self, dram: Dram, layer: Layer, precision: LayerPrecision) -> None:
        self._rows: DramRows | None = dram.rows
        extent = layer.extent
        outputs = tuple(extent(dim) for dim in ("G", "N", "K", "P", "Q"))
        self._parameter_bits = precision.parameter_bits(layer)
        weights = np.full([extent(dim) for dim in ("G", "K", "C", "R", "S")], precision.weight.bits)
        inputs = np.full([extent("G"), extent("N"), extent("C"), *layer.stored_input_size], precision.input.bits)
        if precision.split is not None:
            narrow = precision.split.channels(layer)
            weights[:, :, :narrow], inputs[:, :, :narrow] = precision.split.weight.bits, precision.split.input.bits
        # Bits of every element of each tensor, in the order in which the tensors lie.
        self._bits: dict[str, npt.NDArray[np.int64]] = {
            "weight": weights, "input": inputs, "finished": np.full(outputs, precision.output.bits),
            "sums": np.full(outputs, precision.accumulator.bits),
        }
        self._open: dict[int, int] = {}
        self._refreshes = 0

    def is_refresh_due(self, now: int) -> bool:
        """Whether the channel has to rest before it does anything else."""
        rows = self._rows
        return (
            rows is not None
            and rows.refresh_interval_cycles is not None
            and now >= (self._refreshes + 1) * rows.refresh_interval_cycles
        )

    def refresh(self) -> int:
        """Close all rows. Returns for how many cycles the channel rests."""
        assert self._rows is not None
        self._refreshes += 1
        self._open = {}
        return self._rows.refresh_cycles

    def wait_cycles(self, request: Request) -> int:
        """Visit a request's elements in the order of their addresses; cycles for the rows that were not open."""
        if self._rows is None:
            return 0
        waited = 0
        for row in self._visited_rows(request, self._rows.row_bits):
            bank = row % self._rows.banks
            if self._open.get(bank) != row:
                waited += self._rows.activate_cycles + (self._rows.precharge_cycles if bank in self._open else 0)
                self._open[bank] = row
        return waited

    def _visited_rows(self, request: Request, row_bits: int) -> list[int]:
        if request.run is None:
            return [bit // row_bits for bit in range(self._parameter_bits)]
        tensor: str = request.run.operand
        if tensor == "output":
            tensor = "finished" if request.kind == "write_back" and request.run.finished else "sums"
        first = -(-self._parameter_bits // row_bits)
        for other in itertools.takewhile(lambda name: name != tensor, self._bits):
            first += -(-int(self._bits[other].sum()) // row_bits)
        bits = self._bits[tensor]
        begins = (bits.cumsum() - bits.ravel()).reshape(bits.shape)
        return [first + begin // row_bits for begin in sorted(int(begins[element]) for element in request.run.elements)]
