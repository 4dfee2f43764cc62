"""What each result is as a frame, and what a notebook shows of it: one line, one table, and a figure where it helps.

``simulator.shown`` finds the two functions here when a result is first shown.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from bitmosaic.explorations.assignment_file import AssignmentFile
from bitmosaic.explorations.baseline_cost import UniformRun
from bitmosaic.explorations.comparison import Comparison
from bitmosaic.explorations.comparison_report import comparison_frame, plot_comparison
from bitmosaic.explorations.exploration import Exploration, Point
from bitmosaic.views.frames import point_frame, points_frame
from bitmosaic.views.front_plots import plot_pareto
from bitmosaic.views.hardware_report import tiles_frame
from bitmosaic.views.notebook import exploration_html, picture, point_html
from bitmosaic.views.result_frames import (
    accuracy_frame,
    assignment_file_frame,
    assignment_frame,
    batch_frame,
    mapping_frame,
    mapping_front_frame,
    network_result_frame,
    operation_results_frame,
    sensitivity_frame,
    trace_frame,
)
from bitmosaic.views.subject_frames import memories_frame, operations_frame, rates_frame, solutions_frame
from bitmosaic.views.text_tables import number_text
from bitmosaic.views.timeline import TraceSummary
from mapper.assignment import Assignment
from mapper.front import MappingFront
from mapper.solution import MappingSolution
from simulator.accelerator import Accelerator
from simulator.batch import BatchResult
from simulator.errors import PrecisionError
from simulator.mapping import Mapping
from simulator.result import LayerResult, NetworkResult, VectorResult
from simulator.tiled import TiledAccelerator
from workloads.accuracy import AccuracyResult
from workloads.network import Network
from workloads.sensitivity import Sensitivity

MOST_ROWS = 40  # of a table in a notebook; the frame has them all
_UNITS = {"latency": "cycles", "energy": "pJ", "edp": "pJ·cycles"}


class View(NamedTuple):
    """How one type is shown: its frame, and its HTML; None: a caption, the frame as a table, and a figure if any."""

    frame: Callable[[Any], pd.DataFrame]
    caption: Callable[[Any], str]
    figure: Callable[[Any], Figure | None] | None = None
    html: Callable[[Any], str] | None = None


def _cost_line(name: str, cycles: int, energy_pj: float) -> str:
    return f"{name}: {cycles:,} cycles, {number_text(energy_pj * 1e-6)} µJ"


def _solution_line(found: MappingSolution) -> str:
    unit = _UNITS[found.objective]
    return (
        f"{found.layer.name} in {found.precision.label}, mapped for {found.objective}: {number_text(found.cost)} {unit}"
        f"; nothing in the searched space costs less than {number_text(found.lower_bound)} {unit} "
        f"({found.status}, gap {100 * found.gap:.1f} %)"
    )


def _network_line(result: NetworkResult) -> str:
    line = _cost_line(f"{result.network} on {result.accelerator}", result.total_cycles, result.total_energy_pj)
    left_out = f"; not modelled: {', '.join(result.not_modelled)}" if result.not_modelled else ""
    return f"{line}, {number_text(result.latency_ms)} ms{left_out}"


def _front_line(front: MappingFront) -> str:
    state = "complete and proven" if front.complete else "not complete"
    return f"{front.layer.name} in {front.precision.label}: {len(front.points)} points of latency and energy, {state}"


def _front_figure(front: MappingFront) -> Figure | None:
    if len(front.points) < 2:
        return None
    return plot_pareto(mapping_front_frame(front), {"latency_cycles": "min", "energy_uj": "min"})


def _machine_line(machine: Accelerator) -> str:
    return f"{machine.name}: {machine.description}; {machine.clock_mhz:g} MHz, {_area(machine.area_mm2)}"


def _area(area_mm2: float | None) -> str:
    return "area not modelled" if area_mm2 is None else f"{number_text(area_mm2)} mm²"


def _machine_html(machine: Accelerator) -> str:
    parts = [_paragraph(_machine_line(machine)), _table(memories_frame(machine))]
    with suppress(PrecisionError):  # it runs none of the usual precisions: there is no menu to show rates of
        parts.append(_table(rates_frame(machine)))
    return "\n".join(parts)


def _assignment_line(found: Assignment) -> str:
    return (
        f"Least {found.minimised.replace('_', ' ')} ({found.status}, gap {100 * found.gap:.2g} %): cost "
        f"{number_text(found.cost)}, harm {number_text(found.harm)}, {found.weight_bits:,} bits of weights"
    )


def _comparison_line(comparison: Comparison) -> str:
    settings = comparison.settings
    return (
        f"{settings.network} on {settings.accelerator}: FP32 {settings.metric} {100 * settings.fp32:.2f} % on "
        f"{settings.examples} examples"
        + "".join(f"; {name} left out, {reason}" for name, reason in settings.skipped.items())
    )


_VIEWS: dict[type, View] = {
    LayerResult: View(
        lambda result: operation_results_frame([result]),
        lambda result: _cost_line(result.layer, result.total_cycles, result.total_energy_pj),
    ),
    VectorResult: View(
        lambda result: operation_results_frame([result]),
        lambda result: _cost_line(result.operation, result.total_cycles, result.total_energy_pj),
    ),
    NetworkResult: View(network_result_frame, _network_line),
    MappingSolution: View(lambda found: solutions_frame([found]), _solution_line),
    MappingFront: View(mapping_front_frame, _front_line, _front_figure),
    Mapping: View(mapping_frame, Mapping.describe),
    Accelerator: View(memories_frame, _machine_line, html=_machine_html),
    TiledAccelerator: View(
        tiles_frame, lambda machine: f"{machine.name}: {machine.description}; {machine.clock_mhz:g} MHz, "
        f"{_area(machine.area_mm2)}",
    ),
    Network: View(
        operations_frame, lambda network: f"{network.name}: {network.macs:,} MACs, {network.weight_count:,} weights",
    ),
    Assignment: View(assignment_frame, _assignment_line),
    AssignmentFile: View(
        assignment_file_frame,
        lambda found: f"{found.network} on {found.hardware}: weights by {found.quantiser}, mapped for {found.objective}"
    ),
    Sensitivity: View(
        sensitivity_frame, lambda rated: f"Harm of each layer in each precision, by {rated.method}"
    ),
    AccuracyResult: View(
        accuracy_frame, lambda result: f"{result.metric} {100 * result.value:.2f} % on {result.count} examples"
    ),
    BatchResult: View(
        batch_frame, lambda result: f"{len(result.is_valid):,} mappings, {int(result.is_valid.sum()):,} of them valid"
    ),
    TraceSummary: View(
        trace_frame, lambda summary: f"{summary.path.name}: {summary.total_cycles:,} cycles, {summary.slices:,} slices"
    ),
    Point: View(point_frame, lambda point: f"Point {point.label}", html=point_html),
    UniformRun: View(
        lambda run: point_frame(run.point()), lambda run: _network_line(run.result),
        html=lambda run: point_html(run.point()),
    ),
    Exploration: View(
        points_frame, lambda found: f"{found.settings.network} on {found.settings.accelerator}", html=exploration_html
    ),
    Comparison: View(comparison_frame, _comparison_line, plot_comparison),
}


def _view(result: Any) -> View:
    """The view of a result's type, or of the nearest type that it is derived from."""
    return next(_VIEWS[base] for base in type(result).__mro__ if base in _VIEWS)


def result_frame(result: Any) -> pd.DataFrame:
    """Return a result as a frame with units in its column names."""
    return _view(result).frame(result)


def result_html(result: Any) -> str:
    """Return what a notebook shows of a result."""
    view = _view(result)
    if view.html is not None:
        return view.html(result)
    parts = [_paragraph(view.caption(result)), _table(view.frame(result))]
    figure = view.figure(result) if view.figure is not None else None
    return "\n".join(parts if figure is None else [*parts, picture(figure)])


def result_text(result: Any) -> str:
    """Return what IPython shows of a result on a terminal: a line, and the frame as wide as it fits."""
    view = _view(result)
    return f"{view.caption(result)}\n{view.frame(result)}"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(frame: pd.DataFrame) -> str:
    """A frame as an HTML table: columns in which nothing stands are left out, and rows after the first ones."""
    kept = [name for name in frame if not _is_empty(frame[name])]
    shown = frame.loc[:, kept].head(MOST_ROWS)
    text = shown.to_html(
        index=frame.index.name is not None, border=0, na_rep="", float_format=number_text, justify="left",
    )
    more = len(frame) - len(shown)
    return str(text) + (_paragraph(f"… and {more:,} more rows: to_frame() has them all") if more else "")


def _is_empty(column: pd.Series) -> bool:
    """Whether a column says nothing: text or numbers that are missing, empty or 0 in every row."""
    return bool(len(column) and all(value is None or value == "" or value == 0 or value != value
                                    for value in column.astype(object).where(column.notna(), None)))
