"""What an exploration found, as pandas frames with units in the column names: the data behind every table and plot.

``plots``, ``report`` and ``notebook`` draw these and compute nothing themselves; ``points.csv`` and ``layers.csv``
are these.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bitmosaic.explorations.exploration import CostAxis, Exploration, Point
from bitmosaic.explorations.records import LayerRow, VectorRow
from simulator.result import STALL_CAUSES


def points_frame(exploration: Exploration) -> pd.DataFrame:
    """One row a network point, in the order in which they were scored.

    Columns: ``point``, ``uniform`` (baseline's precision or empty), ``origin``, ``latency_cycles``, ``latency_ms``,
    ``energy_uj``, ``edp_uj_ms``, ``weight_kib`` (memory of the weights, without scales), ``accuracy_percent``,
    ``examples``, ``predicted_harm``, ``worst_gap_percent``, ``latency_front``, ``energy_front`` (whether on the front),
    ``precisions`` (``layer=w4a8 …``).
    """
    fronts = {axis: {point.label for point in exploration.front(axis)} for axis in ("latency", "energy")}
    rows = []
    for point in exploration.points:
        record = point.record
        rows.append({
            "point": point.label,
            "uniform": record.uniform or "",
            "origin": record.origin,
            "latency_cycles": record.total_cycles,
            "latency_ms": record.latency_ms,
            "energy_uj": record.energy_uj,
            "edp_uj_ms": record.energy_uj * record.latency_ms,
            "weight_kib": record.weight_kib,
            "accuracy_percent": record.accuracy_percent,
            "examples": record.accuracy.count if record.accuracy else 0,
            "predicted_harm": exploration.predicted_harm(point),
            "worst_gap_percent": 100.0 * record.worst_gap,
            "latency_front": point.label in fronts["latency"],
            "energy_front": point.label in fronts["energy"],
            "precisions": " ".join(f"{layer}={label}" for layer, label in record.assignment.items()),
        })
    return pd.DataFrame(rows, columns=_POINT_COLUMNS)


_POINT_COLUMNS = [
    "point", "uniform", "origin", "latency_cycles", "latency_ms", "energy_uj", "edp_uj_ms", "weight_kib",
    "accuracy_percent", "examples", "predicted_harm", "worst_gap_percent", "latency_front", "energy_front",
    "precisions",
]


def summary_frame(exploration: Exploration) -> pd.DataFrame:
    """The baselines, the points on either front and the chosen one, fastest first: what is worth choosing from.

    Columns: ``point``, ``uniform`` (whether a baseline), ``fronts`` (``latency``, ``energy``, both or empty; ``memory``
    too where that was to be minimised), ``latency_cycles``, ``latency_ms``, ``energy_uj``, ``weight_kib``,
    ``times_faster`` and ``times_less_energy`` (cost of the first baseline over this cost), ``accuracy_percent``,
    ``worst_gap_percent``, ``chosen`` (whether ``chosen()`` is it).
    """
    axes: list[CostAxis] = ["latency", "energy"]
    if exploration.settings.minimise == "memory":
        axes.append("memory")
    fronts = {axis: {point.label for point in exploration.front(axis)} for axis in axes}
    chosen = exploration.chosen()
    baseline = exploration.points[0].record if exploration.points else None
    rows = []
    for point in sorted(exploration.points, key=lambda point: (point.record.total_cycles, point.record.energy_pj)):
        record = point.record
        names = [axis for axis, labels in fronts.items() if point.label in labels]
        if baseline is None or not (point.is_uniform or names or point is chosen):
            continue
        rows.append({
            "point": point.label,
            "uniform": point.is_uniform,
            "fronts": ", ".join(names),
            "latency_cycles": record.total_cycles,
            "latency_ms": record.latency_ms,
            "energy_uj": record.energy_uj,
            "weight_kib": record.weight_kib,
            "times_faster": baseline.total_cycles / record.total_cycles,
            "times_less_energy": baseline.energy_pj / record.energy_pj,
            "accuracy_percent": record.accuracy_percent,
            "worst_gap_percent": 100.0 * record.worst_gap,
            "chosen": chosen is not None and chosen.label == point.label,
        })
    return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS)


_SUMMARY_COLUMNS = [
    "point", "uniform", "fronts", "latency_cycles", "latency_ms", "energy_uj", "weight_kib", "times_faster",
    "times_less_energy", "accuracy_percent", "worst_gap_percent", "chosen",
]


def front_frame(exploration: Exploration, axis: CostAxis) -> pd.DataFrame:
    """Plot data of one front: columns ``point``, ``cost``, ``accuracy_percent``, ``uniform``, ``on_front``.

    Sorted by cost (ms, µJ, or KiB of weights); points without a measured accuracy are left out.
    """
    on_front = {point.label for point in exploration.front(axis)}
    rows = [
        {
            "point": point.label,
            "cost": point.cost(axis),
            "accuracy_percent": point.record.accuracy_percent,
            "uniform": point.record.uniform or "",
            "on_front": point.label in on_front,
        }
        for point in exploration.points
        if point.record.accuracy is not None
    ]
    frame = pd.DataFrame(rows, columns=["point", "cost", "accuracy_percent", "uniform", "on_front"])
    return frame.sort_values(["cost", "accuracy_percent"], kind="stable", ignore_index=True)


def _cycles(row: LayerRow) -> dict[str, int]:
    stalls = {f"stall_{cause}_cycles": row.stall_cycles.get(cause, 0) for cause in STALL_CAUSES}
    return {"compute_cycles": row.compute_cycles, "fill_drain_cycles": row.fill_drain_cycles, **stalls}


def layers_frame(exploration: Exploration, point: Point) -> pd.DataFrame:
    """``point_frame`` with the harms that an exploration rated."""
    return point_frame(point, exploration.harms)


def point_frame(point: Point, harms: Mapping[tuple[str, str], float] | None = None) -> pd.DataFrame:
    """One row a layer of a point, then one a type of vector operation (``kind`` ``layer`` or ``vector``).

    Cycles stand in ``total_cycles`` and its parts (``compute_cycles``, ``fill_drain_cycles``, ``stall_…_cycles``: the
    sum is exact), energy in ``energy_uj`` and ``energy_<component>_uj``, the proof in ``cost``, ``lower_bound`` (unit
    of the objective) and ``gap_percent``, the rated harm in ``harm``; ``mean_step_cycles`` and ``value_source`` say how
    long a step took, and from what values, where it depends on them; ``tile`` is where it ran, empty on a machine of
    one tile. What does not apply to vector operations is empty.
    """
    parts: list[LayerRow | VectorRow] = [*point.record.layers, *point.record.vector]
    components = {name: None for part in parts for name in part.energy_pj}
    rows: list[dict[str, object]] = []
    for row in point.record.layers:
        rows.append({
            "point": point.label, "kind": "layer", "name": row.layer, "count": 1, "precision": row.precision,
            "tile": row.tile or "", "macs": row.macs, "total_cycles": row.total_cycles, **_cycles(row),
            "energy_uj": row.total_energy_pj * 1e-6,
            **{f"energy_{name}_uj": row.energy_pj.get(name, 0.0) * 1e-6 for name in components},
            "pe_utilization_percent": 100.0 * row.pe_utilization,
            "mean_step_cycles": row.mean_step_cycles, "value_source": row.value_source or "",
            "harm": (harms or {}).get((row.layer, row.precision)),
            "cost": row.cost, "lower_bound": row.lower_bound, "gap_percent": 100.0 * row.gap,
            "status": row.status, "mapping": row.mapping,
        })
    for vector in point.record.vector:
        rows.append({
            "point": point.label, "kind": "vector", "name": vector.operator, "count": vector.count, "precision": "",
            "tile": vector.tile or "", "macs": 0, "total_cycles": vector.total_cycles,
            "compute_cycles": vector.compute_cycles, "fill_drain_cycles": 0,
            **{f"stall_{cause}_cycles": 0 for cause in STALL_CAUSES},
            "stall_input_cycles": vector.stall_cycles,
            "energy_uj": vector.total_energy_pj * 1e-6,
            **{f"energy_{name}_uj": vector.energy_pj.get(name, 0.0) * 1e-6 for name in components},
            "value_source": "", "status": "", "mapping": "",
        })
    return pd.DataFrame(rows)


def cycles_frame(exploration: Exploration, point: Point) -> pd.DataFrame:
    """Plot data of the breakdown of cycles: index ``name``, one column a kind of cycle, vector operations last."""
    return cycle_parts(layers_frame(exploration, point))


def cycle_parts(layers: pd.DataFrame) -> pd.DataFrame:
    """``cycles_frame`` from a ``layers_frame`` or ``point_frame``."""
    frame = layers.set_index("name")
    columns = {"compute_cycles": "compute", "fill_drain_cycles": "fill and drain"}
    columns |= {f"stall_{cause}_cycles": f"wait: {cause.replace('_', ' ')}" for cause in STALL_CAUSES}
    return frame[list(columns)].rename(columns=columns)


def energy_frame(exploration: Exploration, point: Point) -> pd.DataFrame:
    """Plot data of the breakdown of energy (µJ): index ``name``, one column a component."""
    return energy_parts(layers_frame(exploration, point))


def energy_parts(layers: pd.DataFrame) -> pd.DataFrame:
    """``energy_frame`` from a ``layers_frame`` or ``point_frame``."""
    frame = layers.set_index("name")
    columns = [name for name in frame.columns if name.startswith("energy_") and name != "energy_uj"]
    short = {name: name.removeprefix("energy_").removesuffix("_uj").replace("_", " ") for name in columns}
    return frame[columns].rename(columns=short)
