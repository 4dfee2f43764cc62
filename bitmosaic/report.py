"""The tables: fronts and baselines of an exploration, and one point layer by layer.

Rich tables, printed on a terminal or written to ``report.txt``; their numbers are those of ``frames`` and records.
"""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bitmosaic.exploration import DEFAULT_ACCURACY_LOSS, Exploration, Point
from bitmosaic.records import LayerRow, VectorRow
from mapper.solution import Objective

REPORT_WIDTH = 150
OBJECTIVE_UNIT: dict[Objective, str] = {"latency": "cycles", "energy": "pJ", "edp": "pJ·cycles"}


def points_table(exploration: Exploration) -> Table:
    """Baselines and points on either front, fastest first: cost, accuracy, and what the baseline costs more."""
    table = Table(title=f"{exploration.settings.network} on {exploration.settings.accelerator}", title_justify="left")
    has_accuracy = exploration.has_accuracy
    table.add_column("point")
    table.add_column("front")
    for heading in ("cycles", "latency (ms)", "energy (µJ)", "× faster", "× less energy"):
        table.add_column(heading, justify="right")
    if has_accuracy:
        metric = exploration.settings.metric or "accuracy"
        table.add_column(f"{metric} (%)", justify="right")
    table.add_column("worst gap (%)", justify="right")
    fronts = {axis: {point.label for point in exploration.front(axis)} for axis in ("latency", "energy")}
    baseline = exploration.points[0].record if exploration.points else None
    shown = [
        point for point in exploration.points
        if point.is_uniform or point.label in fronts["latency"] | fronts["energy"]
    ]
    chosen = exploration.chosen()
    for point in sorted(shown, key=lambda point: (point.record.total_cycles, point.record.energy_pj)):
        record = point.record
        assert baseline is not None
        names = [axis for axis in ("latency", "energy") if point.label in fronts[axis]]
        cells = [
            point.label + (" (uniform)" if point.is_uniform else ""), ", ".join(names),
            f"{record.total_cycles:,}", f"{record.latency_ms:.4g}", f"{record.energy_uj:.4g}",
            f"{baseline.total_cycles / record.total_cycles:.2f}", f"{baseline.energy_pj / record.energy_pj:.2f}",
        ]
        if has_accuracy:
            cells.append("not measured" if record.accuracy is None else f"{record.accuracy_percent:.2f}")
        cells.append(f"{100 * record.worst_gap:.1f}")
        is_chosen = chosen is not None and chosen.label == point.label
        table.add_row(*cells, style="bold" if is_chosen else None)
    return table


def layers_table(point: Point, objective: Objective) -> Table:
    """One point layer by layer: precision, cycles by kind, utilisation, and the mapping's proof."""
    record = point.record
    table = Table(title=f"Point {point.label}: cycles", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("precision", no_wrap=True)
    for heading in ("cycles", "compute", "fill, drain", "waiting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("most for", no_wrap=True)
    for heading in ("PEs used (%)", f"bound ({OBJECTIVE_UNIT[objective]})", "gap (%)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record.layers:
        causes = sorted(row.stall_cycles.items(), key=lambda item: -item[1])
        cause = causes[0][0].replace("_", " ") if causes and causes[0][1] else ""
        table.add_row(
            row.layer, row.precision, f"{row.total_cycles:,}", f"{row.compute_cycles:,}", f"{row.fill_drain_cycles:,}",
            f"{row.total_stall_cycles:,}", cause, f"{100 * row.pe_utilization:.1f}", f"{row.lower_bound:,.0f}",
            f"{100 * row.gap:.1f}",
        )
    table.add_section()
    for vector in record.vector:
        table.add_row(f"{vector.operator} ×{vector.count}", "", f"{vector.total_cycles:,}",
                      f"{vector.compute_cycles:,}", "", f"{vector.stall_cycles:,}")
    table.add_section()
    waiting = sum(row.total_stall_cycles for row in record.layers) + sum(row.stall_cycles for row in record.vector)
    rows: list[LayerRow | VectorRow] = [*record.layers, *record.vector]
    table.add_row(
        "total", "", f"{record.total_cycles:,}", f"{sum(row.compute_cycles for row in rows):,}",
        f"{sum(row.fill_drain_cycles for row in record.layers):,}", f"{waiting:,}", style="bold",
    )
    return table


def energy_table(point: Point) -> Table:
    """One point layer by layer: energy by component, in nJ."""
    record = point.record
    rows: list[tuple[str, str, LayerRow | VectorRow]] = [(row.layer, row.precision, row) for row in record.layers]
    rows += [(f"{row.operator} ×{row.count}", "", row) for row in record.vector]
    sums: dict[str, float] = {}
    for _, _, row in rows:
        for name, energy in row.energy_pj.items():
            sums[name] = sums.get(name, 0.0) + energy
    components = [name for name, energy in sums.items() if energy > 0]
    table = Table(title=f"Point {point.label}: energy (nJ)", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("precision", no_wrap=True)
    for heading in ("total", *components):
        table.add_column(heading.replace("_", " "), justify="right")
    for name, precision, row in rows:
        cells = [_nanojoules(row.energy_pj.get(component, 0.0)) for component in components]
        table.add_row(name, precision, _nanojoules(row.total_energy_pj), *cells)
    table.add_section()
    table.add_row("total", "", _nanojoules(record.energy_pj), *(_nanojoules(sums[name]) for name in components),
                  style="bold")
    return table


def _nanojoules(energy_pj: float) -> str:
    return f"{energy_pj * 1e-3:,.1f}" if energy_pj else ""


def mappings_table(point: Point) -> Table:
    """The mapping of each layer of a point: buffer tile, register tile, unrolling, loop orders, bypass."""
    table = Table(title=f"Point {point.label}: mappings", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("precision")
    table.add_column("mapping (order: DRAM loops / buffer loops)", overflow="fold")
    table.add_column("proof")
    for row in point.record.layers:
        table.add_row(row.layer, row.precision, row.mapping, row.status)
    return table


def summary(exploration: Exploration, point: Point | None = None) -> RenderableType:
    """All tables of an exploration; the layer tables are of ``point``, by default the chosen one."""
    notes: list[RenderableType] = []
    if not exploration.has_accuracy:
        notes.append(Text(
            f"{exploration.settings.network} has a cost only: no accuracy was measured (it has no trained weights, "
            "or no data were given with --inputs)."
        ))
    elif exploration.fp32 is not None:
        fp32 = exploration.fp32
        notes.append(Text(f"FP32 {fp32.metric}: {100 * fp32.value:.2f} % on {fp32.count} examples."))
    if not exploration.points:
        return Group(*notes, Text("No point has been scored yet."))
    shown = point or exploration.chosen()
    assert shown is not None
    if point is None and exploration.has_accuracy:
        notes.append(Text(_choice_note(exploration, shown)))
    objective = exploration.settings.objective
    return Group(
        points_table(exploration), *notes, layers_table(shown, objective), energy_table(shown),
        mappings_table(shown),
        Text("Gap: the proven limit of what a better mapping could save, as a share of the simulated cost."),
    )


def _choice_note(exploration: Exploration, chosen: Point) -> str:
    fp32 = exploration.fp32
    loss = 100.0 * DEFAULT_ACCURACY_LOSS
    if fp32 is None or chosen.record.accuracy is None:
        return f"Point {chosen.label} is shown below."
    if chosen.record.accuracy.value >= fp32.value - DEFAULT_ACCURACY_LOSS - 1e-12:
        return f"Chosen below: {chosen.label}, the fastest point within {loss:.0f} % (absolute) of FP32."
    return f"Chosen below: {chosen.label}, the most accurate point; none is within {loss:.0f} % (absolute) of FP32."


def report_text(exploration: Exploration, point: Point | None = None) -> str:
    """The summary as plain text, ``REPORT_WIDTH`` columns wide."""
    stream = StringIO()
    console = Console(file=stream, width=REPORT_WIDTH, color_system=None, force_terminal=False)
    console.print(summary(exploration, point))
    return stream.getvalue()
