"""The loop nest unrolled: events, runs of tiles in each memory, the transfers in their order, the steps of a pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from simulator.accelerator import Accelerator, Buffer, RegisterFile, SystolicPassing
from simulator.layer import DIMS, OPERANDS, REDUCTION_DIMS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.reference.geometry import (
    Box,
    Element,
    Layout,
    Position,
    channels_by_place,
    input_element,
    output_element,
    tiles,
    walk,
    weight_element,
)


@dataclass(frozen=True)
class Place:
    """A memory that an operand passes between DRAM and grid.

    Attributes:
        number: 0 for the outermost.
        level: which buffer tile it holds, counted from 1; one more than the buffers have for registers.
        copies: tiles of the operand that it may hold at once.
    """

    operand: Operand
    number: int
    level: int
    memory: Buffer | RegisterFile = field(compare=False)
    copies: int


@dataclass(frozen=True)
class Run:
    """Consecutive events between two refills of a place.

    ``fresh``: no earlier run had this tile (an output run then starts from zero). ``finished``: the last event of an
    output run adds its last products. ``parent``: number of the run in the next outer place, 0 at the outermost.
    """

    place: Place
    number: int
    tile: tuple[int, ...]
    elements: frozenset[Element]
    box: Box
    first_event: int
    last_event: int
    fresh: bool
    finished: bool
    parent: int

    @property
    def operand(self) -> Operand:
        """Whose tile it is."""
        return self.place.operand


@dataclass(frozen=True)
class Event:
    """One pass of the grid: the part of the loop nest it covers, the buffer loops left inside it, the number of the
    run in each place of each operand."""

    index: int
    box: Box
    loops: tuple[Dim, ...]
    runs: dict[Operand, tuple[int, ...]]


@dataclass(frozen=True)
class Request:
    """A transfer between a place and the next outer one, or, without a run, of the parameters."""

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

    def __init__(
        self, layer: Layer, precision: LayerPrecision, accelerator: Accelerator, mapping: Mapping
    ) -> None:
        self.layer = layer
        channels = channels_by_place(layer, precision, accelerator)
        self.layout = Layout.of(accelerator, mapping, channels)
        self._extent = {dim: layer.extent(dim) for dim in DIMS} | {"C": len(channels)}
        passing = accelerator.grid.passing
        self.stationary = passing.stationary if isinstance(passing, SystolicPassing) else None
        # Row by row, before the fold; multicast along the rows it reaches all PEs with the fold's first step.
        self.loads_stationary = (
            self.stationary in ("weight", "input") and accelerator.grid.axis_passings[0] == "systolic"
        )
        self.kept = {operand for operand in OPERANDS if accelerator.registers_of(operand) is not None}
        self.places = {operand: _places(operand, accelerator, mapping) for operand in OPERANDS}
        self.bypass = tuple(
            operand for operand in OPERANDS if isinstance(self.places[operand][0].memory, RegisterFile)
        )
        self._register_tile = {
            dim: mapping.level("register").tile.get(dim, 1) * self.layout.held[dim] for dim in DIMS
        }
        self._tiles = [{dim: level.tile.get(dim, 1) for dim in DIMS} for level in mapping.buffer_levels]
        self._loops: list[tuple[Dim, int]] = []
        around = self._extent
        for number, (level, inside) in enumerate(
            zip(mapping.levels, [*self._tiles, self._register_tile], strict=False)
        ):
            nominal = {dim: tiles(range(around[dim]), inside[dim]) for dim in DIMS}
            self._loops += [(dim, number) for dim in _real_loops(level.order, nominal)]
            around = inside
        self.events: list[Event] = []
        self.runs: dict[Operand, list[list[Run]]] = {op: [[] for _ in self.places[op]] for op in OPERANDS}
        self._fetches: dict[tuple[Operand | range, ...], Fetch] = {}
        self._shares: dict[tuple[Position, Dim, range], list[list[int]]] = {}
        self._unroll()

    def run(self, operand: Operand, event: int, place: int = -1) -> Run:
        """Run of an operand that an event belongs to; of the innermost place where none is named."""
        return self.runs[operand][place][self.events[event].runs[operand][place]]

    def parent(self, run: Run) -> Run | None:
        """Run of the next outer place that a run is a part of; None where that is DRAM."""
        number = run.place.number
        return self.runs[run.operand][number - 1][run.parent] if number else None

    def before(self, run: Run) -> Run | None:
        """Run that has to give up its room before this one may come: the last, or the last but one."""
        number = run.number - run.place.copies
        return self.runs[run.operand][run.place.number][number] if number >= 0 else None

    def children(self, run: Run) -> list[Run]:
        """Runs of the next inner place that are parts of a run."""
        inner = run.place.number + 1
        return [child for child in self.runs[run.operand][inner] if child.parent == run.number]

    def is_innermost(self, place: Place) -> bool:
        """Whether the grid works on what lies there."""
        return place.number == len(self.places[place.operand]) - 1

    def holds_sums(self, place: Place) -> bool:
        """Whether partial sums ever lie in a place of the outputs, rather than finished ones alone."""
        inner = self.runs["output"][place.number + 1 :]
        return not inner or any(not run.finished for run in inner[0])

    def _unroll(self) -> None:
        depth = self._event_loop_count()
        loops, inside = self._loops[:depth], tuple(dim for dim, _ in self._loops[depth:])
        buffers = len(self._tiles)
        open_runs: dict[Place, tuple[tuple[int, ...], tuple[int, ...], Box, int, int]] = {}
        last_boxes: list[Box] = []
        for numbers, boxes in self._walk_events(loops):
            index = len(self.events)
            runs: dict[Operand, tuple[int, ...]] = {}
            for operand in OPERANDS:
                for place in self.places[operand]:
                    mine = [number for number, (_, level) in zip(numbers, loops, strict=True) if level < place.level]
                    above = tuple(dim for dim, level in loops if level < place.level)
                    # Registers that bypassing operands use are refilled at each event; no tiles are compared.
                    each = place.level > buffers and any(level == buffers for _, level in loops)
                    program = tuple(mine if each else mine[: _depth(operand, above)])
                    if place in open_runs and open_runs[place][0] != program:
                        self._close(place, open_runs.pop(place), index - 1, last_boxes[place.level])
                    if place not in open_runs:
                        relevant = zip(mine, above, strict=True)
                        tile = tuple(number for number, dim in relevant if dim in RELEVANT_DIMS[operand])
                        parent = len(self.runs[operand][place.number - 1]) if place.number else 0
                        open_runs[place] = program, tile, boxes[place.level], index, parent
                runs[operand] = tuple(len(found) for found in self.runs[operand])
            self.events.append(Event(index, boxes[-1], inside, runs))
            last_boxes = boxes
        for place, values in open_runs.items():
            self._close(place, values, len(self.events) - 1, last_boxes[place.level])

    def _walk_events(self, loops: list[tuple[Dim, int]]) -> Iterator[tuple[tuple[int, ...], list[Box]]]:
        """Run the event loops. Yields their trip numbers, and the box of each level from the layer to the pass."""
        layer: Box = {dim: range(self._extent[dim]) for dim in DIMS}
        inside = [*self._tiles, self._register_tile]

        def descend(
            level: int, box: Box, numbers: tuple[int, ...], boxes: list[Box]
        ) -> Iterator[tuple[tuple[int, ...], list[Box]]]:
            boxes = [*boxes, box]
            if level == len(inside):
                yield numbers, boxes
                return
            mine = tuple(dim for dim, at in loops if at == level)
            parts = {dim: tiles(box[dim], inside[level][dim]) for dim in DIMS}
            # What is no event loop below the buffers is walked inside the pass.
            whole = level == len(self._tiles)
            for trips in walk(mine, parts):
                part = {
                    dim: parts[dim][trips[dim]] if dim in trips else box[dim] if whole else parts[dim][0]
                    for dim in DIMS
                }
                yield from descend(level + 1, part, (*numbers, *trips.values()), boxes)

        yield from descend(0, layer, (), [])

    def _event_loop_count(self) -> int:
        """Loops over events: those around the innermost buffer tile, and those that a bypassing operand needs."""
        outer = sum(level < len(self._tiles) for _, level in self._loops)
        inner = tuple(dim for dim, level in self._loops if level == len(self._tiles))
        return outer + max((_depth(operand, inner) for operand in self.bypass), default=0)

    def _close(
        self, place: Place, values: tuple[tuple[int, ...], tuple[int, ...], Box, int, int], last_event: int,
        last_box: Box,
    ) -> None:
        """End a run. ``last_box``: the tile of its level at its last event; of outputs it may have gone further along
        the reduction than at the first."""
        _, tile, box, first_event, parent = values
        runs = self.runs[place.operand][place.number]
        finished = all(last_box[dim].stop == self._extent[dim] for dim in REDUCTION_DIMS)
        elements = self.layout.box_elements(self.layer, place.operand, box)
        fresh = all(run.tile != tile for run in runs)
        runs.append(
            Run(place, len(runs), tile, elements, box, first_event, last_event, fresh, finished, parent)
        )

    def in_order(self) -> Iterator[Request | Event]:
        """Everything that uses ports, in program order: transfers, and the passes of the grid between them."""
        yield Request("parameters")
        yield from self._loads(0)
        for event in self.events:
            yield event
            last = event.index == len(self.events) - 1
            if not last:
                yield from self._loads(event.index + 1)
            yield from self._outputs(event.index, last)

    def _loads(self, event: int) -> Iterator[Request]:
        operands: tuple[Operand, ...] = ("weight", "input")
        for operand in operands:
            for place in self.places[operand]:
                run = self.run(operand, event, place.number)
                if run.first_event == event:
                    yield Request("load", run)

    def _outputs(self, event: int, last: bool) -> Iterator[Request]:
        """What comes between the last pass of output runs and the first of the next ones."""
        ended = [run for place in self.places["output"]
                 if (run := self.run("output", event, place.number)).last_event == event]
        following = [] if last else [self.run("output", event + 1, run.place.number) for run in ended]
        sums = [run for run in following if not run.fresh]
        ahead = [run for run in sums if self.is_ahead(run)]
        yield from (Request("partial_sums", run) for run in ahead)
        yield from (Request("write_back", run) for run in reversed(ended))
        yield from (Request("partial_sums", run) for run in sums if run not in ahead)

    def is_ahead(self, run: Run) -> bool:
        """Whether an output run takes its room, and loads, before the run before it is written back.

        It needs a second slot, another tile, and a tile outside that does not itself come later.
        """
        before = self.runs["output"][run.place.number][run.number - 1]
        if run.place.copies == 1 or before.tile == run.tile:
            return False
        parent = self.parent(run)
        return parent is None or parent.first_event < run.first_event or self.is_ahead(parent)

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
        """The stationary weight or input does not come with its first step, but before, where it hops to its PEs."""
        if self.loads_stationary:
            assert self.stationary is not None
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
                points = layout.points({dim: share[dim][numbers[dim]] for dim in DIMS})
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
        return Fetch(self.layout.box_elements(self.layer, operand, box), by_pe)


def _places(operand: Operand, accelerator: Accelerator, mapping: Mapping) -> list[Place]:
    """Memories that an operand passes, outermost first: its buffers, or where it bypasses them all its registers."""
    found: list[Place] = []
    for buffer in accelerator.buffers_of(operand):
        level = accelerator.level_of(buffer)
        if not mapping.bypasses(operand, level):
            copies = 2 if mapping.doubles(operand, level) else 1
            found.append(Place(operand, len(found), level, buffer, copies))
    if not found:
        file = accelerator.registers_of(operand)
        assert file is not None
        level = accelerator.buffer_levels + 1
        found.append(Place(operand, 0, level, file, 2 if mapping.doubles(operand, level) else 1))
    return found


def _real_loops(order: tuple[Dim, ...], trips: dict[Dim, list[range]]) -> tuple[Dim, ...]:
    """Loops of more than one trip, in their order; every one of them must stand in the order."""
    missing = [dim for dim in DIMS if len(trips[dim]) > 1 and dim not in order]
    assert not missing, f"loops missing in the order: {missing}"
    return tuple(dim for dim in order if len(trips[dim]) > 1)


def _depth(operand: Operand, loops: tuple[Dim, ...]) -> int:
    """Loops from the outermost down to the innermost one that is relevant to an operand."""
    return max((place + 1 for place, dim in enumerate(loops) if dim in RELEVANT_DIMS[operand]), default=0)
