"""A run's timeline as a file that Perfetto (https://ui.perfetto.dev) and Chrome's ``about:tracing`` open.

The format is Chrome's Trace Event Format, JSON object form: complete events (``X``) for what lasts, counter events
(``C``) for what the buffers hold, metadata events (``M``) for names. One cycle is one microsecond there, as the format
knows no cycles. Files are gzipped unless their name ends in ``.json``; equal runs give equal files.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmosaic.explorations.baseline_cost import UniformRun
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem, closest
from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import LayerResult, VectorResult
from simulator.shown import Shown
from simulator.tiled import Machine
from simulator.trace import LayerTrace, count_slices, trace_layer

DEFAULT_MOST_SLICES = 1_000_000
PROCESS = 1
OPERATIONS, GRID, DRAM, VECTOR = 1, 2, 3, 4
_THREADS = {OPERATIONS: "operations", GRID: "grid", DRAM: "DRAM channel", VECTOR: "vector unit"}
# Transfers between two buffers may overlap: each kind of each outer buffer has a thread of its own, from here on.
_BUFFERS = 5
_BETWEEN_BUFFERS = ("load weight", "load input", "load partial sums", "write partial sums", "write output")
TraceEvent = dict[str, Any]
# Made once: json.dumps would make an encoder for each event.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class TraceSummary(Shown):
    """What a trace file holds.

    Attributes:
        path: the file.
        total_cycles: length of the timeline, in cycles.
        slices: slices of layers drawn (compute, waits, requests, tiles held).
        left_out: slices beyond the limit, by layer; layers that are drawn whole are not named.
    """

    path: Path
    total_cycles: int
    slices: int
    left_out: dict[str, int]


def write_trace(
    run: UniformRun, path: str | Path, most_slices: int = DEFAULT_MOST_SLICES, *, layers: Sequence[str] = ()
) -> TraceSummary:
    """Write the timeline of a network, its operations one after another; or of the named ``layers`` alone.

    ``most_slices`` bounds the file: the layers share it, and those that need less than their share leave the rest to
    the others. What does not fit is left out at a layer's end, where a slice on the track of operations says how much;
    so does the summary. A layer costs its events twice: once to count, once to write. One in closed form, on a
    floating-point unit, is a slice of operations alone.

    Raises ``ConfigurationError`` where the network has no layer of a name, ``OSError`` where the file cannot be
    written.
    """
    known = [layer.name for layer in run.network.layers]
    problems = [
        Problem("no such layer", where=run.network.name, path="layer", value=repr(name),
                did_you_mean=closest(name, known))
        for name in layers if name not in known
    ]
    if problems:
        raise ConfigurationError(problems)
    plans = {name: plan for name, plan in run.plans().items() if name in layers or not layers}
    operations = [
        result for result in run.result.operations
        if not layers or (isinstance(result, LayerResult) and result.layer in layers)
    ]
    wanted = {name: count_slices(plan, run.layer_values(name)) for name, plan in plans.items()}
    share = _fair_share(list(wanted.values()), most_slices)
    left_out = {name: count - share for name, count in wanted.items() if count > share}
    path = Path(path)

    def events() -> Iterator[TraceEvent]:
        yield from _names(run.accelerator)
        threads = {name: thread for thread, name in _buffer_threads(run.accelerator).items()}
        start = 0
        for result in operations:
            if isinstance(result, VectorResult):
                yield from _vector_events(result, run.accelerator, start)
            elif result.layer in run.closed_forms:
                yield _slice(
                    result.layer, OPERATIONS, start, result.total_cycles,
                    precision=run.assignment[result.layer].label, mapping=run.closed_forms[result.layer].mapping,
                    macs=result.macs,
                )
            else:
                name = result.layer
                yield from _layer_events(
                    result, plans[name], run.assignment[name],
                    trace_layer(plans[name], share, run.layer_values(name)), start, threads,
                )
            start += result.total_cycles

    notes = {
        "network": run.network.name, "accelerator": run.accelerator.name, "clock_mhz": run.accelerator.clock_mhz,
        "unit": "1 us is 1 cycle", "slices_left_out": sum(left_out.values()),
    }
    _write(path, events(), notes)
    drawn = sum(wanted.values()) - sum(left_out.values())
    return TraceSummary(path, sum(result.total_cycles for result in operations), drawn, left_out)


def _fair_share(wanted: Sequence[int], most: int) -> int:
    """The largest share with which all wishes, each cut to it, sum to at most ``most``."""
    rest, share = most, max(wanted, default=0)
    for place, count in enumerate(sorted(wanted)):
        if count * (len(wanted) - place) > rest:
            return rest // (len(wanted) - place)
        rest -= count
    return share


def _write(path: Path, events: Iterator[TraceEvent], notes: dict[str, Any]) -> None:
    """Write event by event: a trace is larger than what should be in memory at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw:
        # No name and no time in the header: equal traces are equal files.
        packed = raw if path.suffix == ".json" else gzip.GzipFile("", "wb", 6, raw, mtime=0)
        with io.TextIOWrapper(packed, encoding="utf-8") as text:
            text.write(f'{{"displayTimeUnit":"ms","otherData":{_encode(notes)},"traceEvents":[\n')
            for number, event in enumerate(events):
                text.write((",\n" if number else "") + _encode(event))
            text.write("\n]}\n")


def _names(accelerator: Machine) -> Iterator[TraceEvent]:
    yield _event("M", "process_name", 0, args={"name": f"{accelerator.name} (1 µs = 1 cycle)"})
    for thread, name in (_THREADS | _buffer_threads(accelerator)).items():
        yield _event("M", "thread_name", thread, args={"name": name})
        yield _event("M", "thread_sort_index", thread, args={"sort_index": thread})


def _buffer_threads(accelerator: Machine) -> dict[int, str]:
    """Threads of what moves between buffers, where the machine, or a tile of it, has several levels of them."""
    parts = {"": accelerator} if isinstance(accelerator, Accelerator) else {
        f"{name}.": accelerator.tile(name) for name in accelerator.tile_names
    }
    names = [
        f"{tile}{buffer.name}: {kind}" for tile, part in parts.items() if part.buffer_levels > 1
        for buffer in part.buffers for kind in _BETWEEN_BUFFERS
    ]
    return dict(enumerate(names, start=_BUFFERS))


def _event(phase: str, name: str, thread: int, **fields: object) -> TraceEvent:
    return {"ph": phase, "name": name, "pid": PROCESS, "tid": thread, **fields}


def _slice(name: str, thread: int, start: int, cycles: int, **args: object) -> TraceEvent:
    return _event("X", name, thread, cat=_THREADS.get(thread, "buffers"), ts=start, dur=cycles, args=args)


def _tile(result: LayerResult | VectorResult) -> dict[str, object]:
    return {} if result.tile is None else {"tile": result.tile}


def _layer_events(
    result: LayerResult, plan: Plan, precision: LayerPrecision, trace: LayerTrace, start: int,
    buffer_threads: Mapping[str, int],
) -> Iterator[TraceEvent]:
    yield _slice(
        result.layer, OPERATIONS, start, trace.total_cycles, precision=precision.label, **_tile(result),
        accumulator=str(plan.precision.accumulator), output=str(plan.precision.output), loops=plan.layer.describe(),
        mapping=plan.mapping.describe(), macs=result.macs, passes=result.tile_count,
        pe_utilization_percent=round(100.0 * result.pe_utilization, 3),
    )
    changes: dict[tuple[str, int], dict[Operand, int]] = defaultdict(lambda: defaultdict(int))
    tile = "" if result.tile is None else f"{result.tile}."
    end = 0  # of what the grid is drawn to do
    for piece in trace.slices():
        if piece.track == "held":
            operand: Operand = piece.name  # type: ignore[assignment]
            memory = f"{tile}{piece.memory}"
            changes[memory, piece.start][operand] += piece.bits
            changes[memory, piece.start + piece.cycles][operand] -= piece.bits
            continue
        fields: dict[str, object] = {"pass": piece.tile}
        thread = GRID
        if piece.track == "grid":
            fields |= {"memory": piece.memory} if piece.memory else {}
        else:
            thread = DRAM if piece.track == "dram" else buffer_threads[f"{tile}{piece.memory}: {piece.name}"]
            fields |= {"bits": piece.bits}
        yield _slice(piece.name, thread, start + piece.start, piece.cycles, **fields)
        if piece.track == "grid":
            end = piece.start + piece.cycles
    if trace.left_out:
        # Inside the layer's own slice, so it nests there; never of no length, which would not be seen.
        end = min(end, trace.total_cycles - 1)
        yield _slice(f"{trace.left_out:,} slices left out", OPERATIONS, start + end, trace.total_cycles - end)
    yield from _counter_events(changes, start)


def _counter_events(
    changes: dict[tuple[str, int], dict[Operand, int]], start: int
) -> Iterator[TraceEvent]:
    """Levels from changes: one event where a memory's content changes, with the bits of each operand in it."""
    level: dict[str, dict[Operand, int]] = defaultdict(dict)
    for (name, _), change in changes.items():
        for operand in OPERANDS:
            if operand in change:
                level[name].setdefault(operand, 0)
    for (name, time), change in sorted(changes.items()):
        for operand, bits in change.items():
            level[name][operand] += bits
        if any(change.values()):
            yield _event("C", f"{name} (bits)", 0, ts=start + time, args=dict(level[name]))


def _vector_events(result: VectorResult, accelerator: Machine, start: int) -> Iterator[TraceEvent]:
    """A vector operation: what it reads comes a latency after its request, while its transfer holds the channel.

    The model knows how long the transfer takes and not when; it is drawn from the start.
    """
    if not result.total_cycles:
        return
    yield _slice(result.operation, OPERATIONS, start, result.total_cycles, operator=result.operator, **_tile(result))
    read, written = sum(row.read_bits for row in result.traffic), sum(row.write_bits for row in result.traffic)
    latency = accelerator.dram.latency_cycles if read else 0
    after = result.total_cycles - latency - result.compute_cycles
    for name, thread, begin, cycles, bits in (
        ("wait: dram latency", VECTOR, 0, latency, {}),
        ("compute", VECTOR, latency, result.compute_cycles, {}),
        ("wait: dram transfer", VECTOR, latency + result.compute_cycles, after, {}),
        ("vector operation", DRAM, 0, result.dram_busy_cycles, {"read_bits": read, "written_bits": written}),
    ):
        if cycles:
            yield _slice(name, thread, start + begin, cycles, **bits)
