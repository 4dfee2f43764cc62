"""Bitmosaic: which precision should each layer of a network run in on a multi-precision accelerator?

The public API. What takes long to import (onnxruntime, OR-Tools, Matplotlib) is imported when first used.

>>> import bitmosaic
>>> network = bitmosaic.open_network("digits_cnn")
>>> [layer.name for layer in network.layers][:3]
['conv1', 'conv2', 'depthwise']
>>> machine = bitmosaic.open_accelerator("bit_fusion")
>>> machine.grid.pe_count, machine.clock_mhz
(512, 500.0)

A precision names formats; on Bit Fusion, narrower operands give each processing element more products a cycle:

>>> w4a8 = bitmosaic.LayerPrecision.parse("w4a8")
>>> w4a8.weight.bits, machine.processing_element.lanes(w4a8)
(4, 2)

One layer, its best mapping for latency in cycles, and the proof: no mapping takes fewer than ``lower_bound`` cycles.

>>> solution = bitmosaic.map_layer(network.layers[0], w4a8, machine, "latency")
>>> solution.lower_bound <= solution.cost == solution.result.total_cycles
True

Frames have units in their column names, and show themselves as tables in a notebook:

>>> frame = bitmosaic.solutions_frame([solution])
>>> int(frame["compute_cycles"][0]) <= int(frame["total_cycles"][0]) == solution.result.total_cycles
True

``explore`` does the whole job, ``sweep`` many machines at once; ``bitmosaic explore --help`` and ``bitmosaic sweep
--help`` are the same on the command line.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmosaic._version import __version__

if TYPE_CHECKING:
    from bitmosaic.explorations.assignment_file import AssignmentFile, dump_assignment, load_assignment
    from bitmosaic.explorations.baseline_cost import UniformRun, mixed_run, uniform_cost, uniform_run
    from bitmosaic.explorations.comparison import Comparison, ComparisonInterrupted, compare, load_comparison
    from bitmosaic.explorations.comparison_report import comparison_frame, plot_comparison, write_comparison
    from bitmosaic.explorations.exploration import Exploration, Point, load_exploration
    from bitmosaic.explorations.explorer import ExplorationInterrupted, explore
    from bitmosaic.explorations.folder import write_outputs
    from bitmosaic.explorations.menu import default_menu
    from bitmosaic.layer_spec import parse_layer
    from bitmosaic.mapping_files import (
        check_mapping,
        dump_layer,
        dump_mapping,
        load_constraints,
        load_layer,
        load_mapping,
    )
    from bitmosaic.progress import NotebookProgress, PlainProgress, Progress
    from bitmosaic.report_page.page import write_report
    from bitmosaic.sweeps.api import sweep
    from bitmosaic.sweeps.report import load_sweep, sweep_table
    from bitmosaic.sweeps.runner import merge_sweeps
    from bitmosaic.views.frames import (
        cycles_frame,
        energy_frame,
        front_frame,
        layers_frame,
        point_frame,
        points_frame,
        summary_frame,
    )
    from bitmosaic.views.front_frames import attainment_frame, hypervolume_frame, mark_front, precision_frame
    from bitmosaic.views.front_plots import plot_attainment, plot_parallel, plot_pareto, plot_precisions
    from bitmosaic.views.hardware_report import parts_frame, sources_frame, tiles_frame
    from bitmosaic.views.layer_plots import grid_frame, plot_roofline, plot_utilization, roofline_frame, write_plots
    from bitmosaic.views.plots import plot_breakdown, plot_costs, plot_front, plot_layers, save_figure
    from bitmosaic.views.subject_frames import memories_frame, operations_frame, rates_frame, solutions_frame
    from bitmosaic.views.text_tables import energy_table, layers_table, mappings_table, points_table
    from bitmosaic.views.timeline import TraceSummary, write_trace
    from hw_configs import dump_accelerator, list_presets, open_accelerator, open_machine, validate_file
    from mapper.assignment import Assignment, Choice, assign, assignment_front
    from mapper.constraints import MappingConstraints, Range
    from mapper.front import FrontInterrupted, FrontPoint, MappingFront, map_front
    from mapper.network import network_precisions, simulate_network
    from mapper.placement import map_network
    from mapper.precision_menu import map_menu
    from mapper.search import map_layer
    from mapper.solution import MappingSolution, SearchBudget, SearchInterrupted, TileOffer
    from simulator.accelerator import Accelerator
    from simulator.batch import BatchResult, MappingBatch, bound_batch, simulate_batch
    from simulator.channel_split import ChannelSplit
    from simulator.engine import simulate
    from simulator.errors import (
        BitmosaicError,
        ConfigurationError,
        InfeasibleError,
        MappingError,
        MissingPackageError,
        NetworkError,
        PrecisionError,
    )
    from simulator.floating_layer import FloatingLayerCost, FloatingPointUnit, floating_layer_cost
    from simulator.formats import Format
    from simulator.functional import compute_layer
    from simulator.layer import Layer, VectorOp
    from simulator.mapping import Mapping, MappingLevel
    from simulator.nest_text import nest_text
    from simulator.precision import LayerPrecision
    from simulator.provenance import Source, energy_confidence, not_modelled
    from simulator.result import LayerResult, NetworkResult, VectorResult
    from simulator.scales import GroupScales
    from simulator.tiled import Tile, TiledAccelerator
    from simulator.values import LayerValues
    from workloads import Network, list_networks, open_network
    from workloads.accuracy import AccuracyEvaluator, AccuracyResult
    from workloads.layer_values import Distribution, ValueRecorder, statistical_values
    from workloads.sensitivity import Sensitivity, estimate
    from workloads.tasks import find_task

_HOME = {
    "bitmosaic.explorations.assignment_file": ("AssignmentFile", "dump_assignment", "load_assignment"),
    "bitmosaic.explorations.comparison": ("Comparison", "ComparisonInterrupted", "compare", "load_comparison"),
    "bitmosaic.explorations.comparison_report": ("comparison_frame", "plot_comparison", "write_comparison"),
    "bitmosaic.explorations.exploration": ("Exploration", "Point", "load_exploration"),
    "bitmosaic.explorations.explorer": ("ExplorationInterrupted", "explore"),
    "bitmosaic.explorations.folder": ("write_outputs",),
    "bitmosaic.views.frames": (
        "cycles_frame", "energy_frame", "front_frame", "layers_frame", "point_frame", "points_frame", "summary_frame",
    ),
    "bitmosaic.views.front_frames": ("attainment_frame", "hypervolume_frame", "mark_front", "precision_frame"),
    "bitmosaic.views.front_plots": ("plot_attainment", "plot_parallel", "plot_pareto", "plot_precisions"),
    "bitmosaic.views.hardware_report": ("parts_frame", "sources_frame", "tiles_frame"),
    "bitmosaic.views.layer_plots": ("grid_frame", "plot_roofline", "plot_utilization", "roofline_frame", "write_plots"),
    "bitmosaic.layer_spec": ("parse_layer",),
    "bitmosaic.mapping_files": (
        "check_mapping", "dump_layer", "dump_mapping", "load_constraints", "load_layer", "load_mapping",
    ),
    "bitmosaic.explorations.menu": ("default_menu",),
    "bitmosaic.views.plots": ("plot_breakdown", "plot_costs", "plot_front", "plot_layers", "save_figure"),
    "bitmosaic.progress": ("NotebookProgress", "PlainProgress", "Progress"),
    "bitmosaic.views.text_tables": ("energy_table", "layers_table", "mappings_table", "points_table"),
    "bitmosaic.views.subject_frames": ("memories_frame", "operations_frame", "rates_frame", "solutions_frame"),
    "bitmosaic.explorations.baseline_cost": ("UniformRun", "mixed_run", "uniform_cost", "uniform_run"),
    "bitmosaic.report_page.page": ("write_report",),
    "bitmosaic.sweeps.api": ("sweep",),
    "bitmosaic.sweeps.report": ("load_sweep", "sweep_table"),
    "bitmosaic.sweeps.runner": ("merge_sweeps",),
    "bitmosaic.views.timeline": ("TraceSummary", "write_trace"),
    "hw_configs": ("dump_accelerator", "list_presets", "open_accelerator", "open_machine", "validate_file"),
    "mapper.assignment": ("Assignment", "Choice", "assign", "assignment_front"),
    "mapper.constraints": ("MappingConstraints", "Range"),
    "mapper.front": ("FrontInterrupted", "FrontPoint", "MappingFront", "map_front"),
    "mapper.network": ("network_precisions", "simulate_network"),
    "mapper.placement": ("map_network",),
    "mapper.precision_menu": ("map_menu",),
    "mapper.search": ("map_layer",),
    "mapper.solution": ("MappingSolution", "SearchBudget", "SearchInterrupted", "TileOffer"),
    "simulator.accelerator": ("Accelerator",),
    "simulator.channel_split": ("ChannelSplit",),
    "simulator.batch": ("BatchResult", "MappingBatch", "bound_batch", "simulate_batch"),
    "simulator.engine": ("simulate",),
    "simulator.errors": (
        "BitmosaicError", "ConfigurationError", "InfeasibleError", "MappingError", "MissingPackageError",
        "NetworkError", "PrecisionError",
    ),
    "simulator.floating_layer": ("FloatingLayerCost", "FloatingPointUnit", "floating_layer_cost"),
    "simulator.formats": ("Format",),
    "simulator.functional": ("compute_layer",),
    "simulator.layer": ("Layer", "VectorOp"),
    "simulator.mapping": ("Mapping", "MappingLevel"),
    "simulator.nest_text": ("nest_text",),
    "simulator.precision": ("LayerPrecision",),
    "simulator.provenance": ("Source", "energy_confidence", "not_modelled"),
    "simulator.result": ("LayerResult", "NetworkResult", "VectorResult"),
    "simulator.scales": ("GroupScales",),
    "simulator.tiled": ("Tile", "TiledAccelerator"),
    "simulator.values": ("LayerValues",),
    "workloads": ("Network", "list_networks", "open_network"),
    "workloads.accuracy": ("AccuracyEvaluator", "AccuracyResult"),
    "workloads.layer_values": ("Distribution", "ValueRecorder", "statistical_values"),
    "workloads.sensitivity": ("Sensitivity", "estimate"),
    "workloads.tasks": ("find_task",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Accelerator", "AccuracyEvaluator", "AccuracyResult", "Assignment", "AssignmentFile", "BatchResult",
    "BitmosaicError", "ChannelSplit", "Choice", "Comparison", "ComparisonInterrupted", "ConfigurationError",
    "Distribution", "Exploration", "ExplorationInterrupted", "FloatingLayerCost", "FloatingPointUnit", "Format",
    "FrontInterrupted", "FrontPoint", "GroupScales", "InfeasibleError", "Layer", "LayerPrecision", "LayerResult",
    "LayerValues", "Mapping", "MappingBatch", "MappingConstraints", "MappingError", "MappingFront", "MappingLevel",
    "MappingSolution", "MissingPackageError", "Network", "NetworkError", "NetworkResult", "NotebookProgress",
    "PlainProgress", "Point", "PrecisionError", "Progress", "Range", "SearchBudget", "SearchInterrupted", "Sensitivity",
    "Source", "Tile", "TileOffer", "TiledAccelerator", "TraceSummary", "UniformRun", "ValueRecorder", "VectorOp",
    "VectorResult", "__version__", "assign", "assignment_front", "attainment_frame", "bound_batch", "check_mapping",
    "compare", "comparison_frame", "compute_layer", "cycles_frame", "default_menu", "dump_accelerator",
    "dump_assignment", "dump_layer", "dump_mapping", "energy_confidence", "energy_frame", "energy_table", "estimate",
    "explore", "find_task", "floating_layer_cost", "front_frame", "grid_frame", "hypervolume_frame", "layers_frame",
    "layers_table", "list_networks", "list_presets", "load_assignment", "load_comparison", "load_constraints",
    "load_exploration", "load_layer", "load_mapping", "load_sweep", "map_front", "map_layer", "map_menu", "map_network",
    "mappings_table", "mark_front", "memories_frame", "merge_sweeps", "mixed_run", "nest_text", "network_precisions",
    "not_modelled", "open_accelerator", "open_machine", "open_network", "operations_frame", "parse_layer",
    "parts_frame", "plot_attainment", "plot_breakdown", "plot_comparison", "plot_costs", "plot_front", "plot_layers",
    "plot_parallel", "plot_pareto", "plot_precisions", "plot_roofline", "plot_utilization", "point_frame",
    "points_frame", "points_table", "precision_frame", "rates_frame", "roofline_frame", "save_figure", "simulate",
    "simulate_batch", "simulate_network", "solutions_frame", "sources_frame", "statistical_values", "summary_frame",
    "sweep", "sweep_table", "tiles_frame", "uniform_cost", "uniform_run", "validate_file", "write_comparison",
    "write_outputs", "write_plots", "write_report", "write_trace",
]


def _check_own_packages() -> None:
    """The packages beside this one have common names: refuse to run with somebody else's.

    Raises ``ImportError`` naming each package that is missing, or found elsewhere.
    """
    here = Path(__file__).resolve().parent.parent
    strangers = []
    for name in ("simulator", "mapper", "workloads", "hw_configs"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            strangers.append(f"{name} (not found)")
        elif spec.origin is None or Path(spec.origin).resolve().parent != here / name:
            strangers.append(f"{name} (found at {spec.origin or spec.submodule_search_locations})")
    if strangers:
        raise ImportError(
            f"bitmosaic needs its own packages beside it in {here}, and finds others of these names: "
            f"{', '.join(strangers)}. Install bitmosaic in a virtual environment of its own, and start Python in a "
            "folder without modules of these names."
        )


_check_own_packages()


def _register_views() -> None:
    """Let results of all packages show themselves; the tables and plots are imported when a first one is shown."""
    from simulator.shown import register_views

    register_views(lambda: importlib.import_module("bitmosaic.views.shown"))


_register_views()


def __getattr__(name: str) -> Any:
    """Import what a public name stands for when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bitmosaic' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return sorted(__all__)
