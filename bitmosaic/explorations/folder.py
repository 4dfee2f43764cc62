"""The results folder: the exact inputs of a run, and everything that is drawn from its records.

::

    inputs/      accelerator.yaml, network.onnx (or network.json for shapes), inputs.npz, settings.json
    *.jsonl      the records: mappings, sensitivity, accuracy, points
    *.csv        points, layers
    assignments/ the precisions of each point, to be simulated or exported again
    plots/       PNG and SVG
    report.txt   the tables

``write_inputs`` opens a run, ``write_outputs`` ends it; the records between them are appended by ``explore``.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd

from bitmosaic.explorations.assignment_file import AssignmentFile, dump_assignment
from bitmosaic.explorations.exploration import SELECTIONS_FILE, SETTINGS_FILE, Exploration, Point
from bitmosaic.explorations.identity import model_bytes, network_shapes
from bitmosaic.explorations.narrow_channels import NarrowChannels, channels_of
from bitmosaic.explorations.records import SelectionRecord, Settings
from bitmosaic.explorations.store import RecordFile
from bitmosaic.views.frames import layers_frame, points_frame
from bitmosaic.views.plots import plot_costs, plot_front, plot_layers, save_figure
from bitmosaic.views.text_tables import report_text
from hw_configs import dump_accelerator, list_presets, open_machine
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem
from simulator.precision import LayerPrecision
from workloads.network import Network

INPUTS, PLOTS, ASSIGNMENTS = "inputs", "plots", "assignments"
ACCELERATOR_FILE = f"{INPUTS}/accelerator.yaml"


def default_folder(network: Network, accelerator: Accelerator) -> Path:
    """``results/<network>-<accelerator>`` under the working directory."""
    name = f"{network.name}-{accelerator.name}".replace("/", "_").replace(" ", "_")
    return Path("results") / name


def check_folder(folder: Path) -> None:
    """Refuse what is no place for results, before anything is written: a file, or a folder with other things in it.

    Raises ``ConfigurationError``.
    """
    rule = ""
    if folder.exists() and not folder.is_dir():
        rule = "is a file, not a folder for results; name another with --output"
    elif folder.is_dir() and not (folder / INPUTS).is_dir() and any(folder.iterdir()):
        rule = "holds other files and no results; name a new or an empty folder with --output"
    if rule:
        raise ConfigurationError(Problem(rule, where=str(folder)))


def write_inputs(
    folder: Path, network: Network, accelerator: Accelerator, settings: Settings, inputs: Path | None
) -> None:
    """Write the exact inputs of a run, in a form that opens again; what is there already is left untouched."""
    write_subject(folder, network, accelerator, inputs)
    write_file(folder / SETTINGS_FILE, (json.dumps(settings.model_dump(mode="json"), indent=2) + "\n").encode())


def write_subject(folder: Path, network: Network, accelerator: Accelerator, inputs: Path | None) -> None:
    """Write machine, network and the user's inputs so that they open again."""
    write_file(folder / ACCELERATOR_FILE, dump_accelerator(accelerator).encode())
    if network.model is not None:
        write_file(folder / INPUTS / "network.onnx", model_bytes(network.model))
    else:
        graph = {"name": network.name, "source": network.source, "graph": network_shapes(network)}
        shapes = json.dumps(graph, indent=1)
        write_file(folder / INPUTS / "network.json", shapes.encode())
    if inputs is not None and inputs.resolve() != (folder / INPUTS / "inputs.npz").resolve():
        shutil.copyfile(inputs, folder / INPUTS / "inputs.npz")


def write_outputs(exploration: Exploration, point: Point | None = None) -> tuple[Path, ...]:
    """Write tables and plots of whatever the folder holds; ``point`` is shown by layer, by default the chosen one.

    Returns the files written. Of an exploration without points, the report alone is written.
    """
    folder = exploration.folder
    written = [write_file(folder / "report.txt", report_text(exploration, point).encode())]
    shown = point or exploration.chosen()
    if shown is None:
        return tuple(written)
    written.append(_write_csv(folder / "points.csv", points_frame(exploration)))
    layers = pd.concat([layers_frame(exploration, each) for each in exploration.points], ignore_index=True)
    written.append(_write_csv(folder / "layers.csv", layers))
    written += _write_assignments(exploration)
    plots = folder / PLOTS
    if any(each.record.accuracy is not None for each in exploration.points):
        written += save_figure(plot_front(exploration, "latency"), plots, "latency_accuracy")
        written += save_figure(plot_front(exploration, "energy"), plots, "energy_accuracy")
        if exploration.settings.minimise == "memory":
            written += save_figure(plot_front(exploration, "memory"), plots, "memory_accuracy")
    written += save_figure(plot_costs(exploration), plots, "latency_energy")
    written += save_figure(plot_layers(exploration, shown), plots, "layers")
    return tuple(written)


def assignment_of(exploration: Exploration, point: Point) -> AssignmentFile:
    """The assignment of a point as it stands in its file; hardware that is no preset is the results folder's copy."""
    settings, record = exploration.settings, point.record
    copy = exploration.folder / ACCELERATOR_FILE
    preset = settings.accelerator in {each.name for each in list_presets()}
    if preset and open_machine(settings.accelerator) != open_machine(copy):
        preset = False
    return AssignmentFile(
        network=settings.network, hardware=settings.accelerator if preset else f"../{ACCELERATOR_FILE}",
        quantiser=settings.quantiser, objective=settings.objective,
        cpu_seconds_per_layer=settings.cpu_seconds_per_layer, target_gap=settings.target_gap,
        precisions={
            layer: record.precisions.get(layer) or LayerPrecision.parse(label)
            for layer, label in record.assignment.items()
        },
        flexiq=narrow_channels(exploration, point),
    )


def narrow_channels(exploration: Exploration, point: Point) -> NarrowChannels | None:
    """Which channels of a point are narrow where FlexiQ selected them; None where that is not recorded."""
    flexiq, record = exploration.settings.flexiq, point.record
    if flexiq is not None and record.uniform is not None:
        return NarrowChannels(extraction=flexiq.extraction)
    if record.selection is None:
        return None  # so that the file is not read once for each point of other methods
    return channels_of(record, RecordFile(exploration.folder / SELECTIONS_FILE, SelectionRecord))


def _write_assignments(exploration: Exploration) -> list[Path]:
    """Write the assignment of each point; what stands there of other settings is taken away."""
    folder = exploration.folder / ASSIGNMENTS
    texts = {}
    for point in exploration.points:
        record = point.record
        measured = "" if record.accuracy is None else f", {record.accuracy.metric} {record.accuracy_percent:.2f} %"
        comment = f"Point {point.label}: {record.total_cycles:,} cycles, {record.energy_uj:.6g} µJ{measured}"
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.]', '_', point.label)}.yaml"
        texts[path] = dump_assignment(assignment_of(exploration, point), comment)
    for path in folder.glob("*.yaml"):
        if path not in texts:
            path.unlink()
    return [write_file(path, text.encode()) for path, text in texts.items()]


def _write_csv(path: Path, frame: pd.DataFrame) -> Path:
    return write_file(path, frame.to_csv(index=False, lineterminator="\n").encode())


def write_file(path: Path, content: bytes) -> Path:
    """Replace a file as a whole, so that no reader and no interruption sees half of it."""
    if path.exists() and path.read_bytes() == content:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(content)
    draft.replace(path)
    return path
