"""The tables: fronts and baselines of an exploration, and one point layer by layer.

Rich tables, printed on a terminal or written to ``report.txt``; their numbers are those of ``frames`` and records.
"""

from __future__ import annotations

import math
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bitmosaic.explorations.assignment_proof import proofs_text
from bitmosaic.explorations.exploration import COST_UNITS, DEFAULT_ACCURACY_LOSS, CostAxis, Exploration, Point
from bitmosaic.explorations.rank_correlation import FEWEST_RANKED, correlations_text
from bitmosaic.explorations.records import BITS_A_KIB, LayerRow, VectorRow, rated_gradients
from bitmosaic.views.frames import summary_frame
from mapper.solution import Objective
from simulator.precision import LayerPrecision
from simulator.provenance import UNSTATED, weakest

REPORT_WIDTH = 150
_NAME_WIDTH = 14  # to which names of layers and mappings may shrink
OBJECTIVE_UNIT: dict[Objective, str] = {"latency": "cycles", "energy": "pJ", "edp": "pJ·cycles"}
CHEAPEST: dict[CostAxis, str] = {
    "latency": "the fastest point", "energy": "the point of least energy", "memory": "the point of least weight memory",
}
# Unit, factor from pJ, and the total in pJ from which the next one is used.
_ENERGY_UNITS = (("nJ", 1e-3, 1e9), ("µJ", 1e-6, 1e12), ("mJ", 1e-9, math.inf))


def new_table(title: str) -> Table:
    """An empty table in the house's style."""
    return Table(title=f"\n{title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def readable(table: Table) -> Table:
    """Let a narrow screen break headings and long names, but never cut a number or a short word."""
    for column in table.columns:
        words = [word for text in (column.header, *column.cells) for word in str(text).split()]
        widest = max(map(len, words))
        column.min_width = min(widest, _NAME_WIDTH) if column.overflow == "fold" else widest
    return table


def number_text(value: float) -> str:
    """A number with four significant digits or more, and an exponent only where it would be very long.

    >>> number_text(0.0027524), number_text(13841.9), number_text(1.39521919e16)
    ('0.002752', '13,842', '1.395e+16')
    """
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def points_table(exploration: Exploration) -> Table:
    """Baselines and points on either front, fastest first: cost, accuracy, and what the baseline costs more.

    Where memory was to be minimised, that of the weights too.
    """
    table = new_table(f"{exploration.settings.network} on {exploration.settings.accelerator}")
    has_accuracy = exploration.has_accuracy
    table.add_column("point")
    if has_accuracy:
        table.add_column("front")
    for heading in ("cycles", "latency (ms)", "energy (µJ)", "× faster", "× less energy"):
        table.add_column(heading, justify="right")
    by_memory = exploration.settings.minimise == "memory"
    if by_memory:
        table.add_column("weights (KiB)", justify="right")
    if has_accuracy:
        metric = exploration.settings.metric or "accuracy"
        table.add_column(f"{metric} (%)", justify="right")
    table.add_column("worst gap (%)", justify="right")
    for row in summary_frame(exploration).itertuples():
        cells = [
            row.point + (" (uniform)" if row.uniform else ""), *([row.fronts] if has_accuracy else []),
            f"{row.latency_cycles:,}", number_text(row.latency_ms), number_text(row.energy_uj),
            f"{row.times_faster:.2f}", f"{row.times_less_energy:.2f}",
            *([number_text(row.weight_kib)] if by_memory else []),
        ]
        if has_accuracy:
            cells.append("not measured" if math.isnan(row.accuracy_percent) else f"{row.accuracy_percent:.2f}")
        cells.append(f"{row.worst_gap_percent:.1f}")
        table.add_row(*cells, style="bold" if row.chosen else None)
    return readable(table)


def layers_table(point: Point, objective: Objective) -> Table:
    """One point layer by layer: precision, cycles by kind, utilisation, and the mapping's proof.

    Where time depends on values: what the values were, and the mean cycles of a step. On several tiles: the tile.
    """
    record = point.record
    placed = _has_tiles(point)
    by_value = any(row.value_source is not None for row in record.layers)
    table = new_table(f"Point {point.label}: cycles")
    table.add_column("layer", overflow="fold")
    table.add_column("precision")
    if placed:
        table.add_column("tile")
    for heading in ("cycles", "compute", "fill, drain", "waiting"):
        table.add_column(heading, justify="right")
    table.add_column("most for")
    if by_value:
        table.add_column("values")
        table.add_column("cycles a step", justify="right")
    for heading in ("PEs used (%)", f"bound ({OBJECTIVE_UNIT[objective]})", "gap (%)"):
        table.add_column(heading, justify="right")
    for row in record.layers:
        causes = sorted(row.stall_cycles.items(), key=lambda item: -item[1])
        cause = causes[0][0].replace("_", " ") if causes and causes[0][1] else ""
        table.add_row(
            row.layer, row.precision, *_tile_cell(row, placed), f"{row.total_cycles:,}", f"{row.compute_cycles:,}",
            f"{row.fill_drain_cycles:,}", f"{row.total_stall_cycles:,}", cause,
            *(_value_cells(row) if by_value else ()), f"{100 * row.pe_utilization:.1f}",
            number_text(row.lower_bound), f"{100 * row.gap:.1f}",
        )
    table.add_section()
    for vector in record.vector:
        table.add_row(f"{vector.operator} ×{vector.count}", "", *_tile_cell(vector, placed),
                      f"{vector.total_cycles:,}", f"{vector.compute_cycles:,}", "", f"{vector.stall_cycles:,}")
    table.add_section()
    waiting = sum(row.total_stall_cycles for row in record.layers) + sum(row.stall_cycles for row in record.vector)
    rows: list[LayerRow | VectorRow] = [*record.layers, *record.vector]
    table.add_row(
        "total", "", *([""] if placed else []), f"{record.total_cycles:,}",
        f"{sum(row.compute_cycles for row in rows):,}",
        f"{sum(row.fill_drain_cycles for row in record.layers):,}", f"{waiting:,}", style="bold",
    )
    return readable(table)


def _has_tiles(point: Point) -> bool:
    rows: list[LayerRow | VectorRow] = [*point.record.layers, *point.record.vector]
    return any(row.tile is not None for row in rows)


def _tile_cell(row: LayerRow | VectorRow, placed: bool) -> tuple[str, ...]:
    return (row.tile or "",) if placed else ()


def tiles_note(point: Point) -> str | None:
    """What to know of a point on several tiles; None where the machine has one."""
    if not _has_tiles(point):
        return None
    return (
        "One tile works at a time, with the whole DRAM channel; the others leak meanwhile (idle leakage). Operands "
        "pass between tiles through DRAM. Bounds and gaps hold over all tiles."
    )


def offers_table(point: Point, objective: Objective) -> Table:
    """What each tile would charge for each layer, or why it cannot run it; the tile chosen is marked."""
    table = new_table(f"Point {point.label}: tiles ({OBJECTIVE_UNIT[objective]}; cost, and bound where it is lower)")
    table.add_column("layer", overflow="fold")
    table.add_column("precision")
    rows = [row for row in point.record.layers if row.offers]
    names = list(dict.fromkeys(offer.tile for row in rows for offer in row.offers))
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for offer in row.offers:
            text = "cannot run it"
            if offer.cost is not None and offer.lower_bound is not None:
                text = number_text(offer.cost)
                if offer.status != "optimal":
                    text += f" ≥ {number_text(offer.lower_bound)}"
            cells.append(f"[bold]{text} *[/bold]" if offer.tile == row.tile else text)
        table.add_row(row.layer, row.precision, *cells)
    return readable(table)


def _value_cells(row: LayerRow) -> tuple[str, str]:
    mean = "" if row.mean_step_cycles is None else f"{row.mean_step_cycles:.2f}"
    return row.value_source or "", mean


def value_note(point: Point) -> str | None:
    """What to know of a point whose time depends on values; None where it does not."""
    sources = {row.value_source for row in point.record.layers} - {None}
    if not sources:
        return None
    return (
        f"The time of a step depends on values ({' and '.join(sorted(map(str, sources)))}). Mappings were searched "
        "for, and bounds and gaps proven, with every step at the mean of drawn values."
    )


def energy_table(point: Point) -> Table:
    """One point layer by layer: energy by component, in nJ, or in the µJ or mJ that its total asks for."""
    record = point.record
    placed = _has_tiles(point)
    rows: list[tuple[str, str, LayerRow | VectorRow]] = [(row.layer, row.precision, row) for row in record.layers]
    rows += [(f"{row.operator} ×{row.count}", "", row) for row in record.vector]
    sums: dict[str, float] = {}
    for _, _, row in rows:
        for name, energy in row.energy_pj.items():
            sums[name] = sums.get(name, 0.0) + energy
    components = [name for name, energy in sums.items() if energy > 0]
    unit, factor = next((unit, factor) for unit, factor, limit in _ENERGY_UNITS if record.energy_pj < limit)
    table = new_table(f"Point {point.label}: energy ({unit})")
    table.add_column("layer", overflow="fold")
    table.add_column("precision")
    if placed:
        table.add_column("tile")
    for heading in ("total", *components):
        table.add_column(heading.replace("_", " "), justify="right")
    for name, precision, row in rows:
        cells = [_energy(row.energy_pj.get(component, 0.0), factor) for component in components]
        table.add_row(name, precision, *_tile_cell(row, placed), _energy(row.total_energy_pj, factor), *cells)
    table.add_section()
    totals = (record.energy_pj, *(sums[name] for name in components))
    blank = [""] if placed else []
    table.add_row("total", "", *blank, *(_energy(total, factor) for total in totals), style="bold")
    if record.confidence:
        weakest_of_all = weakest(record.confidence.get(name) for name in components)
        trust = (weakest_of_all, *(record.confidence.get(name) for name in components))
        table.add_row("confidence", "", *blank, *(each or UNSTATED for each in trust), style="italic")
    return readable(table)


def energy_note(point: Point) -> str:
    """What a point's energies rest on and leave out, in a sentence or two; empty where it was not recorded."""
    record = point.record
    if not record.confidence:
        return ""
    note = "Confidence of an energy: that of the weakest number of the hardware description in it."
    return note + (f" Not modelled: {'; '.join(record.not_modelled)}." if record.not_modelled else "")


def _energy(energy_pj: float, factor: float) -> str:
    return f"{energy_pj * factor:,.1f}" if energy_pj else ""


def mappings_table(point: Point) -> Table:
    """The mapping of each layer of a point: buffer tile, register tile, unrolling, loop orders, bypass."""
    placed = _has_tiles(point)
    table = new_table(f"Point {point.label}: mappings")
    table.add_column("layer", overflow="fold")
    table.add_column("precision")
    if placed:
        table.add_column("tile")
    table.add_column("mapping (order: DRAM loops / buffer loops)", overflow="fold")
    table.add_column("proof")
    for row in point.record.layers:
        table.add_row(row.layer, row.precision, *_tile_cell(row, placed), row.mapping, row.status)
    return readable(table)


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
        notes.append(Text(choice_note(exploration, shown)))
    if exploration.settings.method is not None:
        notes.append(Text(method_note(exploration)))
    if exploration.harms:
        notes.append(Text(harm_note(exploration)))
    if proofs := proofs_text(point.record.proof for point in exploration.points):
        notes.append(Text(f"Assignments by integer program: {proofs} (least harm within their budgets, not accuracy)."))
    objective = exploration.settings.objective
    return Group(
        points_table(exploration), *notes, layers_table(shown, objective), energy_table(shown),
        *([Text(energy_note(shown))] if energy_note(shown) else []), mappings_table(shown),
        Text("Gap: the proven limit of what a better mapping could save, as a share of the simulated cost."),
    )


def harm_note(exploration: Exploration) -> str:
    """How layers were rated, why so, and how well the sums of harms order what was measured."""
    from workloads.sensitivity import spearman  # onnxruntime takes long to load, and not every table needs it

    settings = exploration.settings
    by_torch = rated_gradients(settings.sensitivity, settings.gradients) == "torch"
    note = f"Harms of layers: {settings.sensitivity}{', gradients by torch' if by_torch else ''}."
    if settings.sensitivity_note:
        note = f"Harms of layers: {settings.sensitivity}, since {settings.sensitivity_note}."
    if measured := _measured_note(exploration):
        note = f"{note} {measured}"
    pairs = [
        (exploration.predicted_harm(point), -point.record.accuracy.value)
        for point in exploration.points if point.record.accuracy is not None
    ]
    finite = [pair for pair in pairs if math.isfinite(pair[0])]
    if len(finite) < FEWEST_RANKED:
        return note
    correlation = spearman(*zip(*finite, strict=True))
    if math.isnan(correlation):
        return f"{note} All points are alike in harm or in {settings.metric}: how well harms rank them cannot be told."
    sums = f"Rank correlation of their sums with the loss of {settings.metric}"
    return f"{note} {sums}, {len(finite)} points: {correlation:.2f}."


def _measured_note(exploration: Exploration) -> str:
    """How well the ratings of single layers order what was measured of them; empty where they are that themselves."""
    if exploration.settings.sensitivity == "perturbation":
        return ""
    return f"Rank correlation with measured harm over layers: {correlations_text(exploration.correlations)}."


def method_note(exploration: Exploration) -> str:
    """What the named method is, in a sentence or two."""
    from bitmosaic.explorations.methods import METHODS

    settings = exploration.settings
    assert settings.method is not None
    method = METHODS[settings.method]
    weights = "" if method.selection == "channels" else f" Weights: {settings.quantiser}."
    if settings.flexiq is not None:
        width = f"{settings.flexiq.width} channel{'s' * (settings.flexiq.width > 1)}"
        weights = (f" Selection {settings.flexiq.selection}, effective bits {settings.flexiq.extraction}, units of "
                   f"{width}. {whole_note(exploration)}").rstrip()
    floating = ""
    if settings.seada is not None and settings.seada.identity:
        weights += f" Rules read with {settings.seada.label}."
    if settings.method == "seada":
        floating = " No layer stays in floating point: the machine states no floating_point_unit beside its grid."
    if settings.floating is not None:
        floating = (f" Layers in {settings.floating} stay in floating point on the machine's unit beside the grid, in "
                    "closed form: a low estimate.")
    return f"Method {method.name} ({method.source}): {method.summary}.{weights}{floating}"


def whole_note(exploration: Exploration) -> str:
    """That no ratio of FlexiQ splits a layer, as where units are wide or channels keep their places; else empty."""
    split = [
        LayerPrecision.parse(label).split for point in exploration.points if point.record.origin == "ratio"
        for label in point.record.assignment.values()
    ]
    shares = [each.share for each in split if each is not None]
    if not shares or min(shares) < 1:
        return ""
    return "No ratio splits a layer: each is lowered as a whole or not at all. --flexiq-width asks for narrower units."


def choice_note(exploration: Exploration, chosen: Point) -> str:
    """Why this point is shown: one sentence."""
    fp32 = exploration.fp32
    loss = 100.0 * DEFAULT_ACCURACY_LOSS
    if fp32 is None or chosen.record.accuracy is None:
        return f"Point {chosen.label} is shown below."
    cheapest = CHEAPEST[exploration.settings.minimise]
    asked = exploration.settings.accuracy_at_least
    best = f"the point of highest {fp32.metric}"
    rules = [f"{layer} in {label}" for layer, label in exploration.settings.kept.items()]
    if exploration.settings.layer_menus:
        rules.append(f"the menus of {len(exploration.settings.layer_menus)} layers kept")
    rules += [f"{', '.join(group)} in one precision" for group in exploration.settings.tied]
    if exploration.settings.weight_bits_limit is not None:
        rules.append(f"at most {exploration.settings.weight_bits_limit / BITS_A_KIB:,.4g} KiB of weights")
    rules += [f"at most {most:,.6g} {COST_UNITS[axis]}" for axis, most in exploration.settings.cost_limits.items()]
    among = f" among those with {' and '.join(rules)}" if rules else ""
    if exploration.seeks_accuracy and exploration.is_allowed(chosen):
        return f"Chosen below: {chosen.label}, {best}{among}."
    if asked is not None or among:
        floor = exploration.accuracy_floor or 0.0
        what = f"of at least {100 * floor:.2f} %{among}"
        if chosen.record.accuracy.value >= floor - 1e-12 and exploration.is_allowed(chosen):
            return f"Chosen below: {chosen.label}, {cheapest} {what}."
        return f"Chosen below: {chosen.label}, {best}; there is none {what}."
    if chosen.record.accuracy.value >= fp32.value - DEFAULT_ACCURACY_LOSS - 1e-12:
        return f"Chosen below: {chosen.label}, {cheapest} within {loss:.0f} % (absolute) of FP32."
    return f"Chosen below: {chosen.label}, {best}; none is within {loss:.0f} % (absolute) of FP32."


def report_text(exploration: Exploration, point: Point | None = None) -> str:
    """The summary as plain text, ``REPORT_WIDTH`` columns wide."""
    stream = StringIO()
    # Inside a notebook, rich would show the text there and write nothing to the stream.
    console = Console(
        file=stream, width=REPORT_WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(summary(exploration, point))
    return stream.getvalue()
