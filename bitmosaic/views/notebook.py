"""How explorations and their points show themselves in a notebook: the tables of ``frames`` and the fronts, as HTML."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bitmosaic.explorations.exploration import Exploration, Point
from bitmosaic.views.frames import summary_frame
from bitmosaic.views.plots import plot_costs, plot_front
from bitmosaic.views.text_tables import choice_note, number_text

_HEADINGS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "point": ("point", escape),
    "fronts": ("front", escape),
    "latency_cycles": ("cycles", "{:,}".format),
    "latency_ms": ("latency (ms)", number_text),
    "energy_uj": ("energy (µJ)", number_text),
    "times_faster": ("× faster", "{:.2f}".format),
    "times_less_energy": ("× less energy", "{:.2f}".format),
    "accuracy_percent": ("accuracy (%)", "{:.2f}".format),  # or the task's metric
    "worst_gap_percent": ("worst gap (%)", "{:.1f}".format),
    "name": ("layer", escape),
    "precision": ("precision", escape),
    "total_cycles": ("cycles", "{:,}".format),
    "compute_cycles": ("compute", "{:,}".format),
    "fill_drain_cycles": ("fill, drain", "{:,}".format),
    "waiting_cycles": ("waiting", "{:,}".format),
    "gap_percent": ("gap (%)", "{:.1f}".format),
    "mapping": ("mapping", escape),
}


def exploration_html(exploration: Exploration) -> str:
    """Baselines and front points as a table, why one is chosen, and both fronts as pictures.

    Of a network without a measured accuracy the picture is latency against energy.
    """
    settings = exploration.settings
    parts = [f"<h4>{escape(settings.network)} on {escape(settings.accelerator)}</h4>"]
    if not exploration.points:
        return parts[0] + "<p>No point has been scored yet.</p>"
    frame = summary_frame(exploration)
    frame["point"] += frame["uniform"].map({True: " (uniform)", False: ""})
    columns = [name for name in frame if name in _HEADINGS]
    figures: list[Figure] = [plot_costs(exploration)]
    if exploration.fp32 is None:
        columns.remove("accuracy_percent")
        parts.append("<p>Cost only: no accuracy was measured.</p>")
    else:
        fp32 = exploration.fp32
        note = f"FP32 {fp32.metric}: {100 * fp32.value:.2f} % on {fp32.count} examples."
        chosen = exploration.chosen()
        if chosen is not None:
            note += f" {choice_note(exploration, chosen)}"
        parts.append(f"<p>{escape(note)}</p>")
        if frame["accuracy_percent"].notna().any():
            figures = [plot_front(exploration, "latency"), plot_front(exploration, "energy")]
    parts.append(_table(frame[columns], frame["chosen"], settings.metric or "accuracy"))
    return "\n".join([*parts, *map(picture, figures)])


def point_html(point: Point) -> str:
    """A point's cost, and its layers: precision, cycles by kind, energy, gap and mapping."""
    record = point.record
    rows = [
        {
            "name": row.layer, "precision": row.precision, "total_cycles": row.total_cycles,
            "compute_cycles": row.compute_cycles, "fill_drain_cycles": row.fill_drain_cycles,
            "waiting_cycles": row.total_stall_cycles, "energy_uj": row.total_energy_pj * 1e-6,
            "gap_percent": 100.0 * row.gap, "mapping": row.mapping,
        }
        for row in record.layers
    ]
    text = (
        f"Point {point.label}: {record.total_cycles:,} cycles, {number_text(record.latency_ms)} ms, "
        f"{number_text(record.energy_uj)} µJ"
    )
    if record.accuracy is not None:
        text += f", {record.accuracy.metric} {record.accuracy_percent:.2f} %"
    frame = pd.DataFrame(rows)
    vector = sum(row.total_cycles for row in record.vector)
    note = f"Vector operations: {vector:,} cycles of the total." if record.vector else ""
    return f"<p>{escape(text)}</p>\n{_table(frame)}\n<p>{escape(note)}</p>"


def _table(frame: pd.DataFrame, bold: pd.Series | None = None, metric: str = "accuracy") -> str:
    """A frame as an HTML table with the headings and number formats of this file; ``metric``: what accuracies are."""
    headings = {name: _HEADINGS[name][0] for name in frame} | {"accuracy_percent": f"{metric} (%)"}
    head = "".join(f"<th>{escape(headings[name])}</th>" for name in frame)
    lines = []
    for index, row in zip(frame.index, frame.to_dict("records"), strict=True):
        style = ' style="font-weight: bold"' if bold is not None and bold[index] else ""
        cells = "".join(
            f"<td>{'' if value != value else _HEADINGS[str(name)][1](value)}</td>" for name, value in row.items()
        )
        lines.append(f"<tr{style}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def picture(figure: Figure) -> str:
    """A figure as an HTML image that holds its own data."""
    png = figure._repr_png_()  # type: ignore[attr-defined]
    title = escape(figure.get_suptitle())
    return f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
