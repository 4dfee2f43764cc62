"""Writes docs/api.md: every public name of ``bitmosaic`` with its signature and docstring, grouped as a reader looks.

    python tools/api_reference.py

A public name in no group is an error. tests/unit/test_references.py fails while the page is not what this writes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import bitmosaic

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"

GROUPS: dict[str, tuple[str, ...]] = {
    "The main job": (
        "explore", "Exploration", "Point", "ExplorationInterrupted", "load_exploration", "write_outputs",
        "write_report", "compare", "Comparison", "ComparisonInterrupted", "load_comparison", "write_comparison",
        "default_menu",
    ),
    "Machines": (
        "open_accelerator", "open_machine", "list_presets", "validate_file", "dump_accelerator", "Accelerator",
        "TiledAccelerator", "Tile", "Source", "energy_confidence", "not_modelled",
    ),
    "Networks and layers": (
        "open_network", "list_networks", "Network", "Layer", "VectorOp", "parse_layer", "load_layer", "dump_layer",
    ),
    "Precisions": ("LayerPrecision", "Format", "ChannelSplit", "GroupScales"),
    "One layer: simulate and compute": (
        "simulate", "simulate_batch", "bound_batch", "MappingBatch", "BatchResult", "compute_layer", "LayerResult",
        "VectorResult", "LayerValues", "Distribution", "statistical_values", "ValueRecorder", "floating_layer_cost",
        "FloatingLayerCost", "FloatingPointUnit",
    ),
    "One layer: mappings and proofs": (
        "map_layer", "map_menu", "map_front", "MappingSolution", "MappingFront", "FrontPoint", "SearchBudget",
        "SearchInterrupted", "FrontInterrupted", "TileOffer", "Mapping", "MappingLevel", "MappingConstraints", "Range",
        "check_mapping", "load_mapping", "dump_mapping", "load_constraints", "nest_text",
    ),
    "Whole networks": (
        "uniform_run", "mixed_run", "uniform_cost", "UniformRun", "map_network", "simulate_network",
        "network_precisions", "NetworkResult",
    ),
    "Accuracy and harm": ("AccuracyEvaluator", "AccuracyResult", "estimate", "Sensitivity", "find_task"),
    "Assignments": (
        "assign", "assignment_front", "Choice", "Assignment", "AssignmentFile", "load_assignment", "dump_assignment",
    ),
    "Sweeps": ("sweep", "load_sweep", "merge_sweeps", "sweep_table"),
    "Frames": (
        "points_frame", "summary_frame", "front_frame", "point_frame", "layers_frame", "cycles_frame", "energy_frame",
        "memories_frame", "rates_frame", "operations_frame", "solutions_frame", "parts_frame", "sources_frame",
        "tiles_frame", "roofline_frame", "grid_frame", "comparison_frame", "mark_front", "hypervolume_frame",
        "attainment_frame", "precision_frame",
    ),
    "Plots, tables and traces": (
        "plot_front", "plot_costs", "plot_layers", "plot_breakdown", "plot_roofline", "plot_utilization",
        "plot_comparison", "plot_pareto", "plot_parallel", "plot_attainment", "plot_precisions", "save_figure",
        "write_plots", "write_trace", "TraceSummary", "points_table", "layers_table", "energy_table", "mappings_table",
    ),
    "Progress": ("Progress", "PlainProgress", "NotebookProgress"),
    "Errors": (
        "BitmosaicError", "ConfigurationError", "InfeasibleError", "MappingError", "MissingPackageError",
        "NetworkError", "PrecisionError",
    ),
}


def anchor(heading: str) -> str:
    """A heading's anchor as the pages' tests and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _plain(parameter: str) -> str:
    """A parameter without the quotes of a postponed annotation."""
    return re.sub(r""": (['"])(.*?)\1( = |$)""", r": \2\3", parameter)


def signature(name: str, value: Any) -> str:
    """``name(argument, …)`` on one line, or an argument a line where that is longer than a line."""
    if inspect.isclass(value) and issubclass(value, BaseModel):
        return _laid_out(name, ["*", *_fields(value)], "")
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parts = [_plain(str(each)) for each in found.parameters.values() if each.name != "self"]
    stars = [index for index, each in enumerate(found.parameters.values()) if each.kind is each.KEYWORD_ONLY]
    if stars and not any(each.kind is each.VAR_POSITIONAL for each in found.parameters.values()):
        parts.insert(stars[0], "*")
    result = found.return_annotation
    returns = "" if inspect.isclass(value) or result is inspect.Signature.empty else f" -> {result}"
    return _laid_out(name, parts, returns)


def _fields(model: type[BaseModel]) -> list[str]:
    """Fields of a model as they are annotated in its source, with their defaults."""
    words: dict[str, str] = {}
    for base in reversed(model.__mro__):
        words |= {name: str(each) for name, each in inspect.get_annotations(base).items()}
    found = []
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        found.append(f"{name}: {words[name]}{default}")
    return found


def _laid_out(name: str, parts: list[str], returns: str) -> str:
    line = f"{name}({', '.join(parts)}){returns}"
    return line if len(line) <= 110 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def docstring(value: Any) -> list[str]:
    """A docstring as Markdown: code in back quotes, sections and examples as blocks of their own."""
    lines: list[str] = []
    fenced = False
    for line in inspect.cleandoc(value.__doc__ or "").splitlines():
        is_block = line.startswith((" ", ">>>", "...")) or (fenced and line != "")
        if is_block and not fenced:
            lines += ["", "```text"] if lines and lines[-1] != "" else ["```text"]
        elif fenced and not is_block:
            lines.append("```")
        fenced = is_block
        lines.append(line if is_block else line.replace("``", "`"))
    return [*lines, "```"] if fenced else lines


def members(value: Any) -> list[str]:
    """Public methods and properties of a class of ours, each with the first sentence of its docstring."""
    if not inspect.isclass(value) or issubclass(value, BaseException):
        return []
    found = []
    fields = set(getattr(value, "model_fields", {}))
    if dataclasses.is_dataclass(value):
        fields |= {field.name for field in dataclasses.fields(value)}
    for name in dir(value):
        member = inspect.getattr_static(value, name)
        if name.startswith("_") or name in fields or hasattr(BaseModel, name) or hasattr(str, name):
            continue
        is_kept = isinstance(member, functools.cached_property)
        is_property = is_kept or isinstance(member, property)
        inner = member.func if is_kept else member.fget if is_property else getattr(member, "__func__", member)
        if inspect.isfunction(inner):
            text = inspect.cleandoc(inner.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
            shown = name if is_property else f"{name}()"
            found.append(f"- `{shown}`: {text}")
    return ["", *found] if found else []


def page() -> str:
    """The whole page. Raises ``ValueError`` where a public name stands in no group, or in two."""
    grouped = [name for names in GROUPS.values() for name in names]
    public = [name for name in bitmosaic.__all__ if name != "__version__"]
    if sorted(grouped) != sorted(public):
        raise ValueError(f"names={sorted(set(grouped) ^ set(public))}: each public name must stand in one group")
    lines = [
        "# API reference", "",
        "<!-- Written by tools/api_reference.py from the docstrings. Do not edit. -->", "",
        "Every public name, as `bitmosaic.NAME`. Units stand in the names; results are frozen, show themselves in a "
        "notebook,", "and are a pandas frame by `to_frame()`. How things are done is in the other pages.", "",
    ]
    lines += [f"- [{heading}](#{anchor(heading)})" for heading in GROUPS]
    for heading, names in GROUPS.items():
        lines += ["", f"## {heading}"]
        for name in names:
            value = getattr(bitmosaic, name)
            lines += ["", f"### `{name}`", "", "```text", signature(name, value), "```", "", *docstring(value)]
            lines += members(value)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written", file=sys.stderr)
