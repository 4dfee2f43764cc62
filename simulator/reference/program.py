"""The loop nest unrolled: events, runs of equal tiles, the DRAM requests in their order, the steps of a pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from simulator.accelerator import Accelerator, SystolicPassing
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.reference.geometry import (
    Box,
    Element,
    Layout,
    Position,
    box_elements,
    input_element,
    output_element,
    tiles,
    walk,
    weight_element,
)


@dataclass(frozen=True)
class Run:
    """Consecutive events that use the same tile of an operand.

    ``fresh``: no earlier run had this tile (an output run then starts from zero).
    """

    operand: Operand
    number: int
    tile: tuple[int, ...]
    elements: frozenset[Element]
    box: Box
    first_event: int
    last_event: int
    fresh: bool


@dataclass(frozen=True)
class Event:
    """One pass of the grid: the part of the loop nest it covers, and the buffer loops left inside it."""

    index: int
    box: Box
    loops: tuple[Dim, ...]
    runs: dict[Operand, int]


@dataclass(frozen=True)
class Request:
    """One entry in the queue of the DRAM channel."""

    kind: Literal["parameters", "load", "partial_sums", "write_back"]
    run: Run | None = None


@dataclass(frozen=True)
class PeWork:
    """What one PE does in one step: the products of its lanes, all added to one output."""

    output: Element
    weights: tuple[Element, ...]
    inputs: tuple[Element | None, ...]


@dataclass(frozen=True)
class Fetch:
    """Elements that the grid asks its memory for, each once, and who among the PEs wants which."""

    wanted: frozenset[Element]
    by_pe: dict[Position, frozenset[Element]]


@dataclass(eq=False)
class Step:
    """One step of the whole grid. Compared by identity: it is also the token that travels through the array.

    ``opens`` and ``closes`` say whether a visit to the outputs in ``outputs`` begins and ends with this step.
    """

    event: int
    work: dict[Position, PeWork]
    fetches: dict[Operand, Fetch]
    outputs: Fetch
    opens: bool
    closes: bool = False
    fold_first: bool = False
    fold_last: bool = False
    event_last: bool = False


@dataclass(frozen=True)
class Fold:
    """The steps that share one tile of the stationary operand; ``stationary`` is what has to be brought in."""

    steps: list[Step] = field(default_factory=list)
    stationary: Fetch | None = None


class Program:
    """A layer under a mapping, unrolled."""

    def __init__(self, layer: Layer, accelerator: Accelerator, mapping: Mapping) -> None:
        self.layer = layer
        self.layout = Layout.of(accelerator, mapping)
        self.bypass = mapping.bypass
        self.double_buffer = mapping.double_buffer
        passing = accelerator.grid.passing
        self.stationary = passing.stationary if isinstance(passing, SystolicPassing) else None
        self.kept = {operand for operand in OPERANDS if accelerator.registers_of(operand) is not None}
        self._buffer_tile = {dim: mapping.level("buffer").tile.get(dim, 1) for dim in DIMS}
        self._register_tile = {
            dim: mapping.level("register").tile.get(dim, 1) * self.layout.held[dim] for dim in DIMS
        }
        whole = {dim: range(layer.extent(dim)) for dim in DIMS}
        self._dram_tiles = {dim: tiles(whole[dim], self._buffer_tile[dim]) for dim in DIMS}
        self._dram_loops = _real_loops(mapping.level("dram").order, self._dram_tiles)
        nominal = {dim: tiles(range(self._buffer_tile[dim]), self._register_tile[dim]) for dim in DIMS}
        self._buffer_loops = _real_loops(mapping.level("buffer").order, nominal)
        self.events: list[Event] = []
        self.runs: dict[Operand, list[Run]] = {operand: [] for operand in OPERANDS}
        self._fetches: dict[tuple[Operand | range, ...], Fetch] = {}
        self._shares: dict[tuple[Position, Dim, range], list[list[int]]] = {}
        self._unroll()

    def copies(self, operand: Operand) -> int:
        """Tiles of an operand that may be on chip at once."""
        return 2 if operand in self.double_buffer else 1

    def run(self, operand: Operand, event: int) -> Run:
        """Run of an operand that an event belongs to."""
        return self.runs[operand][self.events[event].runs[operand]]

    def _unroll(self) -> None:
        depth = self._event_loops()
        event_loops, inner_loops = self._buffer_loops[:depth], self._buffer_loops[depth:]
        open_runs: dict[Operand, tuple[tuple[int, ...], Box, int]] = {}
        for outer in walk(self._dram_loops, self._dram_tiles):
            tile = {dim: self._dram_tiles[dim][outer.get(dim, 0)] for dim in DIMS}
            parts = {dim: tiles(tile[dim], self._register_tile[dim]) for dim in DIMS}
            for inner in walk(event_loops, parts):
                box = {dim: parts[dim][inner[dim]] if dim in inner else tile[dim] for dim in DIMS}
                index = len(self.events)
                for operand in OPERANDS:
                    key = self._tile_of(operand, outer, inner)
                    # The program refills bypassing registers at each event and compares no tiles.
                    ends = bool(event_loops) and operand in self.bypass
                    if operand in open_runs and (ends or open_runs[operand][0] != key):
                        self._close(operand, open_runs.pop(operand), index - 1)
                    if operand not in open_runs:
                        open_runs[operand] = (key, box if operand in self.bypass else tile, index)
                runs = {operand: len(self.runs[operand]) for operand in OPERANDS}
                self.events.append(Event(index, box, inner_loops, runs))
        for operand in OPERANDS:
            self._close(operand, open_runs[operand], len(self.events) - 1)

    def _event_loops(self) -> int:
        """How many buffer loops, from the outermost, are event loops because an operand bypasses."""
        depth = 0
        for operand in self.bypass:
            for position, dim in enumerate(self._buffer_loops):
                if dim in RELEVANT_DIMS[operand]:
                    depth = max(depth, position + 1)
        return depth

    def _tile_of(self, operand: Operand, outer: dict[Dim, int], inner: dict[Dim, int]) -> tuple[int, ...]:
        loops = [outer, inner] if operand in self.bypass else [outer]
        return tuple(
            number for trips in loops for dim, number in trips.items() if dim in RELEVANT_DIMS[operand]
        )

    def _close(self, operand: Operand, opened: tuple[tuple[int, ...], Box, int], last_event: int) -> None:
        key, box, first_event = opened
        earlier = self.runs[operand]
        fresh = all(run.tile != key for run in earlier)
        touched = box_elements(self.layer, operand, box)
        earlier.append(Run(operand, len(earlier), key, touched, box, first_event, last_event, fresh))

    def requests(self) -> Iterator[Request]:
        """Everything the DRAM channel is asked for, in order; some may turn out to move nothing."""
        yield Request("parameters")
        yield from self._loads(0)
        for event in self.events:
            last = event.index == len(self.events) - 1
            if not last:
                yield from self._loads(event.index + 1)
            ended = self.run("output", event.index)
            if ended.last_event != event.index:
                continue
            write_back = [Request("write_back", ended)]
            partial_sums = []
            ahead = False
            if not last:
                following = self.run("output", event.index + 1)
                ahead = "output" in self.double_buffer and following.tile != ended.tile
                if not following.fresh:
                    partial_sums = [Request("partial_sums", following)]
            yield from partial_sums + write_back if ahead else write_back + partial_sums

    def _loads(self, event: int) -> Iterator[Request]:
        operands: tuple[Operand, ...] = ("weight", "input")
        for operand in operands:
            run = self.run(operand, event)
            if run.first_event == event:
                yield Request("load", run)

    def folds(self, event: Event) -> list[Fold]:
        """Unroll one pass into folds and steps."""
        folds: list[Fold] = []
        parts = {dim: tiles(event.box[dim], self._register_tile[dim]) for dim in DIMS}
        depths = {operand: _depth(operand, event.loops) for operand in OPERANDS}
        last_visit: dict[Operand, tuple[int, ...]] = {}
        for trips in walk(event.loops, parts):
            numbers = tuple(trips.values())
            box = {dim: parts[dim][trips.get(dim, 0)] for dim in DIMS}
            arrivals = {
                operand for operand in OPERANDS if last_visit.get(operand) != numbers[: depths[operand]]
            }
            last_visit.update({operand: numbers[: depths[operand]] for operand in OPERANDS})
            steps = list(self._steps(event.index, box, arrivals))
            if not folds or (self.stationary and self.stationary in arrivals):
                folds.append(Fold(stationary=self._take_stationary(steps)))
            folds[-1].steps.extend(steps)
        everything = [step for fold in folds for step in fold.steps]
        for step, following in itertools.pairwise(everything):
            step.closes = following.opens
        everything[-1].closes = everything[-1].event_last = True
        for fold in folds:
            fold.steps[0].fold_first = fold.steps[-1].fold_last = True
        return folds

    def _take_stationary(self, steps: list[Step]) -> Fetch | None:
        """The stationary weight or input does not come with its first step, but before."""
        if self.stationary in ("weight", "input"):
            assert self.stationary in self.kept, "a stationary operand needs a register file"
            return steps[0].fetches.pop(self.stationary)
        return None

    def _steps(self, event: int, box: Box, arrivals: set[Operand]) -> Iterator[Step]:
        """Walk a register tile. ``arrivals``: operands that it holds and its predecessor did not."""
        layout, layer = self.layout, self.layer
        shares = {
            position: {dim: self._share(position, dim, box[dim]) for dim in DIMS} for position in layout.place
        }
        rounds = {dim: tiles(box[dim], layout.held[dim]) for dim in DIMS}
        first = True
        for numbers in walk(DIMS, rounds):
            now = {dim: rounds[dim][numbers[dim]] for dim in DIMS}
            work = {}
            for position, share in shares.items():
                points = list(itertools.product(*(share[dim][numbers[dim]] for dim in DIMS)))
                if points:
                    work[position] = PeWork(
                        output_element(points[0]),
                        tuple(weight_element(point) for point in points),
                        tuple(input_element(layer, point) for point in points),
                    )
            fetched = {
                operand: self._fetch(operand, box if operand in self.kept else now)
                for operand in OPERANDS
                if operand not in self.kept or (first and operand in arrivals)
            }
            opens = "output" in fetched
            outputs = fetched.pop("output", None) or self._fetch("output", box)
            yield Step(event, work, fetched, outputs, opens)
            first = False

    def _share(self, position: Position, dim: Dim, tile: range) -> list[list[int]]:
        key = (position, dim, tile)
        if key not in self._shares:
            self._shares[key] = self.layout.share(position, dim, tile)
        return self._shares[key]

    def _fetch(self, operand: Operand, box: Box) -> Fetch:
        key = (operand, *(box[dim] for dim in DIMS if dim in RELEVANT_DIMS[operand]))
        if key not in self._fetches:
            self._fetches[key] = self._new_fetch(operand, box)
        return self._fetches[key]

    def _new_fetch(self, operand: Operand, box: Box) -> Fetch:
        by_pe = {place: self.layout.pe_elements(self.layer, operand, place, box) for place in self.layout.place}
        return Fetch(box_elements(self.layer, operand, box), by_pe)


def _real_loops(order: tuple[Dim, ...], trips: dict[Dim, list[range]]) -> tuple[Dim, ...]:
    """Loops of more than one trip, in their order; every one of them must stand in the order."""
    missing = [dim for dim in DIMS if len(trips[dim]) > 1 and dim not in order]
    assert not missing, f"loops missing in the order: {missing}"
    return tuple(dim for dim in order if len(trips[dim]) > 1)


def _depth(operand: Operand, loops: tuple[Dim, ...]) -> int:
    """Loops from the outermost down to the innermost one that is relevant to an operand."""
    return max((place + 1 for place, dim in enumerate(loops) if dim in RELEVANT_DIMS[operand]), default=0)
