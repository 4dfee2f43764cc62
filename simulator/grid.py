"""The grid of processing elements: its axes, and how operands and results travel along each of them.

What the choices cost in cycles is said in ``docs/simulator.md``, "The grid's time".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simulator.interconnect import Interconnect
from simulator.layer import REDUCTION_DIMS, RELEVANT_DIMS, Dim, Frozen, Operand

LANES = "lanes"
AxisPassing = Literal["multicast", "systolic"]


class Axis(Frozen):
    """One direction of the grid: its size and the loop dimensions that may be laid along it.

    A read serves all PEs along an axis whose dimension does not matter to the operand (multicast), and outputs
    are added up along an axis that carries reduced dimensions.

    Attributes:
        passing: how operands and results travel along it; None: as the grid's ``passing`` says for all axes.
        adder_tree_cycles: pipeline registers of the adder tree along a multicast axis, whatever a mapping adds there.
    """

    name: str
    size: int = Field(ge=1)
    unroll: tuple[Dim, ...] = Field(min_length=1)
    passing: AxisPassing | None = None
    adder_tree_cycles: int = Field(default=0, ge=0)


class MulticastPassing(Frozen):
    """All PEs receive their operands in the same cycle: no fill, no skew."""

    kind: Literal["multicast"] = "multicast"


class SystolicPassing(Frozen):
    """Operands hop from PE to PE. The first axis is the rows, the second the columns.

    One of the two may be multicast (``Axis.passing``): operands then reach all PEs along it in the same cycle, and an
    adder tree takes the sums of all of them.

    Attributes:
        stationary: operand that stays in the PEs during a fold; None: all stream.
        fold_overlap: the next fold enters directly behind the last one, so that skew shows only at the end.
        stationary_preload: the next fold's stationary operand loads behind the one in use.
        partial_sum_hop_cycles: registers that a partial sum passes in each row (weight- and input-stationary).
        drains_outputs: outputs leave row by row after a fold (output-stationary).
        pipeline_cycles: further registers between the edges of the array.
    """

    kind: Literal["systolic"] = "systolic"
    stationary: Operand | None = None
    fold_overlap: bool = False
    stationary_preload: bool = False
    partial_sum_hop_cycles: int = Field(default=1, ge=1)
    drains_outputs: bool = False
    pipeline_cycles: int = Field(default=0, ge=0)


Passing = Annotated[MulticastPassing | SystolicPassing, Field(discriminator="kind")]


class Grid(Frozen):
    """Named axes of PEs, and how operands travel along them.

    ``passing`` holds for all axes that do not say their own. ``lane_unroll`` are the dimensions that may be laid on the
    lanes inside a PE. All lanes of a PE add up into one sum, so these are reduced dimensions. ``interconnect``: energy
    of the hops; None: not modelled.
    """

    axes: tuple[Axis, ...] = Field(min_length=1)
    passing: Passing
    lane_unroll: tuple[Dim, ...] = ("C", "R", "S")
    interconnect: Interconnect | None = None

    @model_validator(mode="after")
    def _check(self) -> Grid:
        names = [axis.name for axis in self.axes]
        if LANES in names:
            raise ValueError(f"axes: the name {LANES!r} is kept for the lanes inside a PE")
        if len(set(names)) != len(names):
            raise ValueError(f"axes: names must differ, got {names}")
        for dim in self.lane_unroll:
            if dim not in REDUCTION_DIMS:
                raise ValueError(f"lane_unroll={dim}: the lanes of a PE add up, so only C, R, S can lie on them")
        for axis, kind in zip(self.axes, self.axis_passings, strict=True):
            if kind == "systolic" and axis.adder_tree_cycles:
                raise ValueError(f"axes.{axis.name}.adder_tree_cycles={axis.adder_tree_cycles}: only a multicast axis "
                                 "has an adder tree")
        if isinstance(self.passing, SystolicPassing):
            self._check_systolic(self.passing)
            return self
        for axis in self.axes:
            if axis.passing == "systolic":
                raise ValueError(f"axes.{axis.name}.passing=systolic: the grid's passing.kind is multicast; with a "
                                 "systolic axis it is systolic, and the other axis says passing=multicast")
        return self

    def _check_systolic(self, passing: SystolicPassing) -> None:
        """Raise ``ValueError`` where a systolic or mixed grid is none."""
        if len(self.axes) != 2:
            raise ValueError(f"passing: a systolic grid has two axes, got {len(self.axes)}")
        stationary = passing.stationary
        for axis in self.axes if stationary else ():
            assert stationary is not None
            streamed = sorted(set(axis.unroll) - RELEVANT_DIMS[stationary])
            if streamed:
                raise ValueError(
                    f"axes.{axis.name}.unroll={streamed}: these stream through a {stationary}-stationary array"
                )
        if "systolic" not in self.axis_passings:
            raise ValueError("passing.kind=systolic: both axes say multicast; then the kind is multicast")
        if self.axis_passings[0] == "multicast":
            if passing.partial_sum_hop_cycles != 1:
                raise ValueError(f"passing.partial_sum_hop_cycles={passing.partial_sum_hop_cycles}: sums do not hop "
                                 f"along {self.axes[0].name}, which is multicast; see its adder_tree_cycles")
            if passing.drains_outputs:
                raise ValueError(f"passing.drains_outputs=true: outputs do not hop along {self.axes[0].name}, which is "
                                 "multicast")
        for axis in self.axes:
            if stationary == "output" and axis.adder_tree_cycles:
                raise ValueError(f"axes.{axis.name}.adder_tree_cycles={axis.adder_tree_cycles}: nothing is added up "
                                 "between the PEs of an output-stationary array")

    @property
    def axis_passings(self) -> tuple[AxisPassing, ...]:
        """How operands travel along each axis."""
        return tuple(axis.passing or self.passing.kind for axis in self.axes)

    @property
    def passing_text(self) -> str:
        """How operands travel, in a word; of a mixed grid a word an axis, as in ``systolic × multicast``."""
        return " × ".join(dict.fromkeys(self.axis_passings))

    @property
    def adder_tree_cycles(self) -> int:
        """Cycles that results take through the adder trees of all axes."""
        return sum(axis.adder_tree_cycles for axis in self.axes)

    @property
    def hands_sums_down(self) -> bool:
        """Whether the sums of a step travel along the rows at once, and are not kept in the PEs."""
        return isinstance(self.passing, SystolicPassing) and self.passing.stationary != "output"

    @property
    def adds_columns_as_trees(self) -> bool:
        """Whether an adder tree takes the sums of a step along the rows, and no chain of PEs."""
        return self.hands_sums_down and self.axis_passings[0] == "multicast"

    @property
    def pe_count(self) -> int:
        """Processing elements in the grid."""
        count = 1
        for axis in self.axes:
            count *= axis.size
        return count
