"""Small results folders for the tests of reports: an exploration, a comparison, a sweep, as runs write them."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from bitmosaic.explorations.baseline_cost import mixed_run, uniform_run
from bitmosaic.explorations.exploration import (
    ACCURACY_FILE,
    COMPARISON_FILE,
    FAMILIES_FILE,
    POINTS_FILE,
    SENSITIVITY_FILE,
    SETTINGS_FILE,
)
from bitmosaic.explorations.folder import write_file, write_subject
from bitmosaic.explorations.records import (
    Accuracy,
    AccuracyRecord,
    ComparisonSettings,
    FamilyRecord,
    HarmRecord,
    PointRecord,
    Settings,
)
from bitmosaic.explorations.store import RecordFile
from bitmosaic.report_page.model import Measure, Reference, Report, ReportPoint
from bitmosaic.sweeps.local_pool import Call, Outcome
from bitmosaic.sweeps.runner import run_sweep
from bitmosaic.sweeps.tasks import expand
from bitmosaic.sweeps.worker import guarded
from hw_configs import open_accelerator
from mapper.solution import SearchBudget
from simulator.precision import LayerPrecision
from workloads import open_network

SECONDS, GAP = 0.1, 0.9
SWEEP = {
    "hardware": [{"base": "bit_fusion", "grid": {"grid.rows": [8], "buffers.weight.size_bits": [131072, 524288]}}],
    "networks": ["digits_cnn"], "precisions": ["w8a8", "w4a4"],
    "layer_precisions": {"first wide": {"conv1": "w8a8", "*": "w4a4"}},
    "cpu_seconds_per_layer": SECONDS, "target_gap": GAP,
}
MIXED = {"conv1": "w8a8", "linear*": "w2a8", "*": "w4a8"}
ACCURACIES = {"w8a8": 0.985, "w2a8": 0.37, "mixed": 0.975}
WEIGHT_BITS = {"w8a8": 80_000, "w2a8": 20_000, "mixed": 50_000}
METRIC = "accuracy <on> \"digits\" & </script>"
"""A metric's name is free text: it must come through whatever it holds."""


def point_records() -> dict[str, PointRecord]:
    """Two baselines and a mixed assignment of the digits network, simulated; their accuracies are made up."""
    network, machine = open_network("digits_cnn"), open_accelerator("bit_fusion")
    options = {"budget": SearchBudget(cpu_seconds=SECONDS, target_gap=GAP), "workers": 1}
    runs = {label: uniform_run(network, machine, label, **options) for label in ("w8a8", "w2a8")}
    patterns = {pattern: LayerPrecision.parse(label) for pattern, label in MIXED.items()}
    runs["mixed"] = mixed_run(network, machine, patterns, **options)
    found = {}
    for name, run in runs.items():
        record = run.point().record
        found[name] = record.model_copy(update={
            "key": f"key of {name}", "context": "context", "origin": "energy" if name == "mixed" else "uniform",
            "weight_bits": WEIGHT_BITS[name], "accuracy": Accuracy(metric=METRIC, value=ACCURACIES[name], count=400),
        })
    return found


def _write_points(folder: Path, records: dict[str, PointRecord]) -> None:
    write_subject(folder, open_network("digits_cnn"), open_accelerator("bit_fusion"), None)
    points = RecordFile(folder / POINTS_FILE, PointRecord)
    for record in records.values():
        points.append(record)


def write_exploration(folder: Path, records: dict[str, PointRecord]) -> Path:
    """A folder as ``explore`` writes it, without its tables and plots."""
    _write_points(folder, records)
    settings = Settings(
        network="digits_cnn", network_source="shipped", accelerator="bit_fusion", task="digits", metric=METRIC,
        menu=("w8a8", "w4a8", "w2a8"), objective="edp", sensitivity="taylor", points=2,
        cpu_seconds_per_layer=SECONDS, target_gap=GAP, context="context", subject="subject", fp32_key="fp32",
        versions={},
    )
    write_file(folder / SETTINGS_FILE, json.dumps(settings.model_dump(mode="json")).encode())
    accuracy = Accuracy(metric=METRIC, value=0.9875, count=400)
    RecordFile(folder / ACCURACY_FILE, AccuracyRecord).append(
        AccuracyRecord(key="fp32", assignment={}, accuracy=accuracy)
    )
    harms = RecordFile(folder / SENSITIVITY_FILE, HarmRecord)
    for layer, harm in (("conv1", 0.25), ("conv2", None)):
        harms.append(HarmRecord(
            key=layer, subject="subject", method="taylor", layer=layer, precision="w2a8", harm=harm,
        ))
    return folder


def write_comparison(folder: Path, records: dict[str, PointRecord], with_budget: bool = True) -> Path:
    """A folder as ``compare`` writes it; ``with_budget``: as this version does."""
    _write_points(folder, records)
    families = RecordFile(folder / FAMILIES_FILE, FamilyRecord)
    keys = {"uniform": ["w8a8", "w2a8"], "random 0": ["mixed"], "amp": ["w8a8", "mixed"]}
    for name, points in keys.items():
        families.append(FamilyRecord(key=name, family=name, quantiser="rtn",
                                     points=tuple(records[point].key for point in points)))
    settings = ComparisonSettings(
        network="digits_cnn", accelerator="bit_fusion", metric=METRIC, examples=400, fp32=0.9875,
        menu=("w8a8", "w2a8"), objective="edp", points=2, seeds=1, families=tuple(keys),
        skipped={"dpq": "it is for other machines"}, versions={},
        cpu_seconds_per_layer=SECONDS if with_budget else None, target_gap=GAP if with_budget else None,
    )
    write_file(folder / COMPARISON_FILE, json.dumps(settings.model_dump(mode="json")).encode())
    return folder


class _HereAndNow:
    """Does every task in this process."""

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        for number, call in enumerate(calls):
            yield number, Outcome(*guarded(*call))


def write_sweep(folder: Path) -> Path:
    """A finished sweep over two machines and three policies."""
    run_sweep(expand(SWEEP), folder, _HereAndNow())
    return folder


def large_report(count: int) -> Report:
    """Points that are drawn, in a report without layers: what thousands of points cost is what is looked at."""
    draws = np.random.default_rng(7).random((count, 3))
    values = np.column_stack([1 + draws[:, 0], 2 / (1 + draws[:, 0]) + draws[:, 1], 100 * draws[:, 2]]).tolist()
    return Report(
        kind="sweep", title="many", source="nowhere", made_by="test", group_name="hardware", subject_name="network",
        measures=(
            Measure(key="latency_ms", label="latency", unit="ms", direction="min"),
            Measure(key="energy_uj", label="energy", unit="µJ", direction="min"),
            Measure(key="accuracy_percent", label="accuracy", unit="%", direction="max"),
        ),
        references=(Reference(measure="accuracy_percent", value=99.0, label="FP32"),),
        x="latency_ms", y="energy_uj", components=("dram", "leakage"),
        points=tuple(
            ReportPoint(id=f"p{number}", label=f"point {number}", group=f"machine {number % 3}", subject="one",
                        values=tuple(row), energy_pj=(row[1] * 9e5, row[1] * 1e5), command=f"bitmosaic show {number}")
            for number, row in enumerate(values)
        ),
    )
