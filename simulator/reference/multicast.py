"""A multicast grid: every PE receives its operands in the cycle in which they leave the buffer."""

from __future__ import annotations

from simulator.accelerator import Grid as GridDescription
from simulator.processing_elements import ProcessingElementBase
from simulator.reference.geometry import Position
from simulator.reference.grid import Activity, DelayLine, Grid
from simulator.reference.memories import Memories, Values
from simulator.reference.program import Step

Results = dict[Position, tuple[Step, Values]]


class MulticastGrid(Grid):
    """All PEs in step. Each adds up in its own accumulators, behind its pipeline, during a visit."""

    def __init__(
        self, element: ProcessingElementBase, memories: Memories, description: GridDescription
    ) -> None:
        super().__init__(element, memories, list(memories.program.layout.place))
        self._pipeline: DelayLine[Results] = DelayLine(
            element.pipeline_cycles + description.adder_tree_cycles
        )
        self._waiting: list[Step] = []
        self._in_flight = 0

    def _prepare(self) -> None:
        assert len(self._folds) == 1
        self._waiting = list(self._folds[0].steps)

    def cycle(self) -> Activity | None:
        """Pass one cycle."""
        if not self.occupied and not self._in_flight:
            return None
        activity: Activity | None = "compute" if self.occupied else None
        ended: Results | None = None
        if self.occupied:
            if all(state.step is None for state in self.pes.values()):
                step = self._waiting.pop(0)
                self._in_flight += 1
                payload = self._payload(step)
                for position, state in self.pes.items():
                    self._begin(state, position, step, payload)
            ended = self._work_a_cycle() or None
            if ended and not self._waiting:
                self.occupied = False
        arrived = self._pipeline.advance(ended)
        if arrived:
            self._in_flight -= 1
            self._accumulate(arrived)
        return activity

    def _accumulate(self, arrived: Results) -> None:
        """Add to each PE's accumulators; at the end of a visit add up those of all PEs."""
        step = next(iter(arrived.values()))[0]
        self.memories.note_products(step)
        for position, (_, values) in arrived.items():
            self._add(self.pes[position].accumulators, values)
        results = [state.take_accumulators() for state in self.pes.values()] if step.closes else []
        self._arrive(step, results, opens=step.opens)
