"""A sweep's results as a frame and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from bitmosaic.sweeps.results import SweepRecord, read_results
from bitmosaic.views.text_tables import new_table, number_text
from mapper.pareto import pareto_front
from simulator.errors import ConfigurationError, Problem, closest

_COSTS = ("latency_ms", "energy_uj", "area_mm2")
_BEFORE = ("hardware",)
_BEHIND = (
    "network", "precision", "objective", "status", "latency_cycles", "latency_ms", "energy_uj", "edp_uj_ms", "area_mm2",
    "accuracy_percent", "metric", "worst_gap_percent", "unproven_layers", "front", "errors",
)


def load_sweep(folder: str | Path) -> pd.DataFrame:
    """``sweep_frame`` of a results folder. Raises ``ConfigurationError`` where there is none, or it is damaged."""
    return sweep_frame(read_results(Path(folder)))


def sweep_frame(records: Iterable[SweepRecord]) -> pd.DataFrame:
    """One row a task, in the order of the results file.

    Columns: ``hardware``, one for each field that the sweep gives anew (``grid.axes.rows.size``), ``network``,
    ``precision``, ``objective``, ``status``, ``latency_cycles``, ``latency_ms``, ``energy_uj``, ``edp_uj_ms``,
    ``area_mm2`` (NaN: not modelled for every part), ``accuracy_percent`` (NaN: not measured), ``metric`` (what
    that is: ``accuracy``, ``agreement with FP32``, …; empty where not measured), ``worst_gap_percent``,
    ``unproven_layers`` (whose search ended before the gap that was asked for), ``front``, ``errors``. Costs of tasks
    without a result are NaN.

    On the ``front`` are points than which no other of the same network is better in latency, energy, area and
    accuracy together; area counts where it is modelled. Without accuracies, only points of one precision compare.
    """
    rows: list[dict[str, Any]] = []
    fields: dict[str, None] = {}
    for record in records:
        fields |= dict.fromkeys(record.fields)
        result = record.result
        row: dict[str, Any] = {"hardware": record.hardware}
        row |= {path: _plain(value) for path, value in record.fields.items()}
        row |= {"network": record.network, "precision": record.precision, "objective": record.objective,
                "status": record.status, "errors": "; ".join(record.errors)}
        if result is not None:
            energy_uj = result.energy_pj * 1e-6
            row |= {
                "latency_cycles": result.total_cycles, "latency_ms": result.latency_ms, "energy_uj": energy_uj,
                "edp_uj_ms": energy_uj * result.latency_ms,
                "area_mm2": math.nan if result.area_mm2 is None else result.area_mm2,
                "accuracy_percent": math.nan if result.accuracy is None else result.accuracy_percent,
                "metric": "" if result.accuracy is None else result.accuracy.metric,
                "worst_gap_percent": 100.0 * result.worst_gap, "unproven_layers": result.unproven_layers,
            }
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*_BEFORE, *fields, *_BEHIND])
    frame["front"] = _front(frame)
    return frame


def _plain(value: Any) -> Any:
    """What fits a cell: lists and groups as text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _front(frame: pd.DataFrame) -> list[bool]:
    marks = np.zeros(len(frame), dtype=np.bool_)
    done = frame[frame["status"] == "done"]
    comparable = done["precision"].where(done["accuracy_percent"].isna(), "")
    for _, rows in done.groupby([done["network"], comparable], sort=False):
        costs = rows[list(_COSTS)].astype(float).fillna(math.inf).to_numpy()
        costs = np.column_stack([costs, -rows["accuracy_percent"].astype(float).fillna(0.0)])
        marks[rows.index.to_numpy()] = pareto_front(costs)
    return [bool(mark) for mark in marks]


def sweep_table(frame: pd.DataFrame, *, sort: str = "", front_only: bool = False, most: int | None = None) -> Table:
    """The rows of a frame as a table, fields that do not differ left out.

    ``sort``: a column, least first; by default the order of the frame. ``most``: rows that are shown. Raises
    ``ConfigurationError`` where there is no such column.
    """
    if sort and sort not in frame:
        columns = tuple(frame.columns)
        near = closest(sort, columns)
        raise ConfigurationError(
            Problem("no such column", path="sort", value=repr(sort), allowed=columns, did_you_mean=near)
        )
    shown = frame[frame["front"]] if front_only else frame
    if sort:
        shown = shown.sort_values(sort, kind="stable")
    rows = shown if most is None else shown.head(most)
    fields = [name for name in frame.columns if name not in (*_BEFORE, *_BEHIND)]
    varied = [name for name in fields if frame[name].nunique(dropna=False) > 1]
    single = [name for name in ("network", "precision", "objective") if frame[name].nunique() == 1]
    title = "sweep" + "".join(f", {frame[name].iloc[0]}" for name in single if len(frame))
    table = new_table(title + (f" (first {len(rows)} of {len(shown)})" if len(rows) < len(shown) else ""))
    table.add_column("hardware", overflow="fold")
    for name in varied:
        table.add_column(_short(name), justify="right", overflow="fold")
    for name in ("network", "precision", "objective"):
        if name not in single:
            table.add_column(name, no_wrap=True)
    has_accuracy = bool(frame["accuracy_percent"].notna().any())
    metrics = set(frame["metric"].dropna()) - {""}
    accuracy = (f"{metrics.pop() if len(metrics) == 1 else 'score'} (%)",) if has_accuracy else ()
    for heading in ("cycles", "latency (ms)", "energy (µJ)", "area (mm²)", *accuracy, "worst gap (%)"):
        table.add_column(heading, justify="right")
    table.add_column("front", no_wrap=True)
    for row in rows.to_dict("records"):
        cells = [str(row["hardware"]), *(_cell(row[name]) for name in varied)]
        cells += [str(row[name]) for name in ("network", "precision", "objective") if name not in single]
        if row["status"] == "done":
            area = "not modelled" if math.isnan(row["area_mm2"]) else number_text(row["area_mm2"])
            cells += [
                f"{int(row['latency_cycles']):,}", number_text(row["latency_ms"]), number_text(row["energy_uj"]), area,
                *([_percent(row["accuracy_percent"])] if has_accuracy else []), _percent(row["worst_gap_percent"]),
                "front" if row["front"] else "",
            ]
        else:
            cells += [str(row["status"]).replace("_", " "), *[""] * (5 + has_accuracy)]
        table.add_row(*cells, style="bold" if row["front"] else None)
    return table


def _percent(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:.1f}"


def _short(path: str) -> str:
    """A place as a heading: broken where it is long."""
    return path.replace(".", ". ") if len(path) > 24 else path


def _cell(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "—"
    return f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(
        int(value) if isinstance(value, float) else value
    )
