"""Results of the simulator, the mapper and the quantisers as pandas frames: what ``to_frame`` gives.

``frames`` has what an exploration found, ``subject_frames`` machines, networks and mappings with their proofs.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from bitmosaic.explorations.assignment_file import AssignmentFile
from bitmosaic.views.timeline import TraceSummary
from mapper.assignment import Assignment
from mapper.front import MappingFront
from simulator.batch import BatchResult
from simulator.layer import Dim
from simulator.mapping import Mapping
from simulator.result import STALL_CAUSES, LayerResult, NetworkResult, VectorResult
from workloads.accuracy import AccuracyResult
from workloads.sensitivity import Sensitivity

_STALLS = [f"stall_{cause}_cycles" for cause in STALL_CAUSES]
Operation = LayerResult | VectorResult


def cost_columns(result: Operation, components: Iterable[str]) -> dict[str, object]:
    """Cycles and their parts, energy and its parts, utilisation: the columns that every frame of costs shares.

    The cycles a vector operation waits are waits for its input. ``components`` are those of the whole frame.
    """
    stalls = result.stall_cycles if isinstance(result, LayerResult) else {"input": result.stall_cycles}
    return {
        "macs": result.macs if isinstance(result, LayerResult) else 0,
        "total_cycles": result.total_cycles, "compute_cycles": result.compute_cycles,
        "fill_drain_cycles": result.fill_drain_cycles if isinstance(result, LayerResult) else 0,
        **{f"stall_{cause}_cycles": stalls.get(cause, 0) for cause in STALL_CAUSES},
        "energy_uj": result.total_energy_pj * 1e-6,
        **{f"energy_{name}_uj": result.energy_pj.get(name, 0.0) * 1e-6 for name in components},
        "pe_utilization_percent": 100.0 * result.pe_utilization if isinstance(result, LayerResult) else None,
    }


def operation_results_frame(results: Iterable[Operation]) -> pd.DataFrame:
    """One row a simulated operation.

    Columns: ``operation``, ``operator`` (``layer``, or the vector operation's type), ``tile`` (empty on a machine of
    one tile), ``macs``, ``total_cycles`` and its parts, whose sum is exact, ``energy_uj`` and its parts,
    ``pe_utilization_percent`` (of layers).
    """
    every = tuple(results)
    components = list(dict.fromkeys(name for result in every for name in result.energy_pj))
    rows = [
        {
            "operation": result.layer if isinstance(result, LayerResult) else result.operation,
            "operator": "layer" if isinstance(result, LayerResult) else result.operator,
            "tile": result.tile or "", **cost_columns(result, components),
        }
        for result in every
    ]
    return pd.DataFrame(rows)


def network_result_frame(result: NetworkResult) -> pd.DataFrame:
    """``operation_results_frame`` of a network's operations, in the order in which they ran."""
    return operation_results_frame(result.operations)


def mapping_front_frame(front: MappingFront) -> pd.DataFrame:
    """One row a point of a layer's front, fastest first.

    Columns: ``latency_cycles``, ``latency_lower_bound_cycles``, ``energy_uj``, ``energy_lower_bound_uj``,
    ``gap_percent`` (the larger of both), ``mapping``.
    """
    columns = ["latency_cycles", "latency_lower_bound_cycles", "energy_uj", "energy_lower_bound_uj", "gap_percent",
               "mapping"]
    rows = [
        (point.latency_cycles, point.latency_lower_bound_cycles, point.energy_pj * 1e-6,
         point.energy_lower_bound_pj * 1e-6, 100.0 * point.gap, point.mapping.describe())
        for point in front.points
    ]
    return pd.DataFrame(rows, columns=columns)


def mapping_frame(mapping: Mapping) -> pd.DataFrame:
    """One row a level of a mapping, outermost first, and one for what lies on each axis.

    Columns: ``level`` (``dram``, ``buffer``, ``register``, or an axis), ``extents`` (of the tile, or along the axis;
    empty: all of the layer), ``order`` of the loops over the next smaller tiles, outer first, ``bypass`` and
    ``double_buffer`` (operands).
    """
    rows = [
        {
            "level": level.level, "extents": _extents(level.tile), "order": " ".join(level.order),
            "bypass": " ".join(dict.fromkeys((*mapping.bypass, *level.bypass))) if level.level == "buffer" else "",
            "double_buffer": " ".join(dict.fromkeys((*mapping.double_buffer, *level.double_buffer)))
            if level.level == "buffer" else "",
        }
        for level in mapping.levels
    ]
    rows += [
        {"level": f"axis {axis}", "extents": _extents(dims), "order": "", "bypass": "", "double_buffer": ""}
        for axis, dims in mapping.spatial.items()
    ]
    return pd.DataFrame(rows)


def _extents(dims: dict[Dim, int]) -> str:
    return " ".join(f"{dim}{extent}" for dim, extent in dims.items())


def assignment_frame(assignment: Assignment) -> pd.DataFrame:
    """One row a layer: ``layer``, ``precision`` (the label of its choice)."""
    return pd.DataFrame(assignment.labels.items(), columns=["layer", "precision"])


def assignment_file_frame(assignment: AssignmentFile) -> pd.DataFrame:
    """One row a layer: ``layer``, ``precision``."""
    rows = [(layer, precision.label) for layer, precision in assignment.precisions.items()]
    return pd.DataFrame(rows, columns=["layer", "precision"])


def sensitivity_frame(sensitivity: Sensitivity) -> pd.DataFrame:
    """Harms: index ``layer``, one column a precision, in the unit of the method."""
    return pd.DataFrame(
        sensitivity.harm, index=pd.Index(sensitivity.layers, name="layer"),
        columns=[precision.label for precision in sensitivity.menu],
    )


def accuracy_frame(result: AccuracyResult) -> pd.DataFrame:
    """One row: ``metric``, ``value_percent``, ``examples``, ``cpu_seconds``, and what else the task says."""
    row = {"metric": result.metric, "value_percent": 100.0 * result.value, "examples": result.count,
           "cpu_seconds": result.cpu_seconds, **result.extra}
    return pd.DataFrame([row])


def batch_frame(result: BatchResult) -> pd.DataFrame:
    """One row a mapping of the batch.

    Columns: ``is_valid``, ``total_cycles`` (-1: not known), ``compute_cycles``, ``fill_drain_cycles``, ``tile_count``,
    ``energy_uj`` (NaN: not known).
    """
    return pd.DataFrame({
        "is_valid": result.is_valid, "total_cycles": result.total_cycles, "compute_cycles": result.compute_cycles,
        "fill_drain_cycles": result.fill_drain_cycles, "tile_count": result.tile_count,
        "energy_uj": result.total_energy_pj * 1e-6,
    })


def trace_frame(summary: TraceSummary) -> pd.DataFrame:
    """One row: ``path``, ``total_cycles``, ``slices``, ``slices_left_out``."""
    row = {"path": str(summary.path), "total_cycles": summary.total_cycles, "slices": summary.slices,
           "slices_left_out": sum(summary.left_out.values())}
    return pd.DataFrame([row])
