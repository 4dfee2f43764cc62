"""What a conversion carries: a machine, a layer, its precision, a nest, and what was lost or assumed on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.counting_rules.loop_nest import LoopNest, Machine
from simulator.errors import MappingError, Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision


@dataclass(frozen=True)
class Design:
    """Parts of a design as they are found in another tool's files, or made for them; None: not given.

    Attributes:
        tool: whose files it is from, as people write it.
        nest: a mapping of the layer. Without ``stores`` it has loops in order, and does not say in which memories.
        clock_mhz: None where the tool counts cycles alone.
        energies_known: False where the machine's energies are zeros because the files give none.
        notes: what was lost or assumed, a sentence each.
    """

    tool: str
    machine: Machine | None = None
    layer: Layer | None = None
    precision: LayerPrecision | None = None
    nest: LoopNest | None = None
    clock_mhz: float | None = None
    energies_known: bool = True
    notes: tuple[str, ...] = ()

    def check_perfect(self, tool: str) -> None:
        """Raise ``MappingError`` where the loops of a dimension leave a smaller last tile, which a tool has not."""
        if self.nest is not None and self.nest.ragged:
            raise MappingError([
                Problem(f"its tiles do not divide the layer's {1 if self.layer is None else self.layer.extent(dim)}: "
                        f"{tool} has perfect factors only", path=f"mapping.{dim}") for dim in self.nest.ragged
            ])

    def with_notes(self, *notes: str) -> Design:
        """The same design with more notes; one that is there already is not repeated."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note not in self.notes)))
