"""Reports of sweeps: a point a task, its machine as the sweep's file describes it, and the command for its layers."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitmosaic._version import __version__
from bitmosaic.explorations.identity import canonical_json
from bitmosaic.report_page.machines import Machines
from bitmosaic.report_page.model import Fact, Measure, Report, ReportPoint, Shared, Trust
from bitmosaic.report_page.network_entries import accuracy_measure
from bitmosaic.sweeps.results import SWEEP_FILE, SweepRecord, read_results
from bitmosaic.sweeps.runner import open_expansion
from bitmosaic.sweeps.tasks import Expansion, SweepTask
from simulator.errors import BitmosaicError

MEASURES = (
    Measure(key="latency_ms", label="latency", unit="ms", direction="min"),
    Measure(key="energy_uj", label="energy", unit="µJ", direction="min"),
    Measure(key="edp_uj_ms", label="energy times latency", unit="µJ·ms", direction="min"),
    Measure(key="area_mm2", label="area", unit="mm²", direction="min"),
    Measure(key="latency_cycles", label="latency", unit="cycles", direction="min"),
    Measure(key="worst_gap_percent", label="worst gap of a mapping", unit="%"),
    Measure(key="unproven_layers", label="unproven layers"),
)
NO_LAYERS = "A sweep records no layers. The command shows them, with the hardware as this page saves it."


def read_sweep(folder: Path) -> Report:
    """The report of a sweep's folder, finished or not.

    Machines and commands come from the folder's ``sweep.yaml``: of records that it has no task for, or where it cannot
    be read, the page says that they are not known. Raises ``ConfigurationError`` where there are no results.
    """
    records = tuple(read_results(folder))
    notes = []
    expansion: Expansion | None = None
    try:
        expansion = open_expansion(folder)
    except BitmosaicError as error:
        notes.append(f"Hardware and commands are not shown: {error.problems[0]}.")
    tasks = {task.key: task for task in expansion.tasks} if expansion else {}
    unknown = sum(record.key not in tasks for record in records)
    if expansion and unknown:
        notes.append(f"Hardware and commands of {unknown} points are not known: {SWEEP_FILE} has no such tasks.")
    failed = Counter(record.status.replace("_", " ") for record in records if record.result is None)
    if failed:
        words = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
        notes.append(f"Tasks without a result stand in the table alone, with the reason: {words}.")
    if expansion and (left := len(expansion.tasks) - (len(records) - unknown)):
        notes.append(f"The sweep is not finished: {left} tasks have no record yet.")
    sampling = expansion.description.sampling if expansion else None
    if sampling is not None:
        larger = f" and maximise {', '.join(sampling.maximise)}" if sampling.maximise else ""
        notes.append(f"Points are not all combinations: {sampling.sampler} drew them, to minimise "
                     f"{', '.join(sampling.minimise)}{larger}; {sampling.points} were to be drawn.")
    fields = _varied(records)
    shorts = {path: short_field(path) for path in fields}
    numeric = [path for path in fields if all(_is_number(record.fields.get(path, 0)) for record in records)]
    several_objectives = len({record.objective for record in records}) > 1
    components = tuple({
        name: None for record in records if record.result for name in record.result.energy_by_component_pj
    })
    metrics = dict.fromkeys(
        record.result.accuracy.metric for record in records if record.result and record.result.accuracy
    )
    measured = [accuracy_measure(next(iter(metrics)) if len(metrics) == 1 else "score")] if metrics else []
    machines, trusts = Machines(), Shared[Trust]()
    places: dict[str, int] = {}
    points = []
    for record in records:
        task, result = tasks.get(record.key), record.result
        varied = ", ".join(f"{shorts[path]} {_text(record.fields[path])}" for path in fields if path in record.fields)
        name = f"{record.hardware} {varied}".strip()
        machine = None
        if task is not None:
            key = canonical_json([record.hardware, record.fields])
            if key not in places:
                places[key] = machines.add(record.hardware, task.point.machine, record.fields)
            machine = places[key]
        trust = None
        if result is not None:
            trust = trusts.place(Trust(
                confidence=tuple((each, result.confidence.get(each) or "") for each in components),
                not_modelled=result.not_modelled,
            ))
        file = machines.entries[machine].file if machine is not None else ""
        points.append(ReportPoint(
            id=record.key[:12], label=f"{name}, {record.network} in {record.precision}",
            group=f"{record.hardware}, {record.objective}" if several_objectives else record.hardware,
            # With an accuracy, points in different precisions compare.
            subject=record.network if measured else f"{record.network} in {record.precision}",
            origin=f"mapped for {record.objective}",
            status=record.status.replace("_", " "), values=_values(record, numeric, has_accuracy=bool(measured)),
            energy_pj=() if result is None else tuple(
                result.energy_by_component_pj.get(each, 0.0) for each in components
            ),
            machine=machine, trust=trust,
            command=_command(task, expansion, file) if task is not None and expansion is not None else "",
            note=NO_LAYERS if result is not None else "; ".join(record.errors),
        ))
    networks = list(dict.fromkeys(record.network for record in records))
    done = [point for point in points if point.status == "done"]
    return Report(
        kind="sweep", title=f"Sweep {folder.resolve().name}", source=str(folder), made_by=__version__,
        group_name="hardware", subject_name="network" if measured else "network and precision",
        facts=(
            Fact(label="networks", text=", ".join(networks)),
            Fact(label="hardware", text=", ".join(dict.fromkeys(record.hardware for record in records))),
            Fact(label="precisions", text=", ".join(dict.fromkeys(record.precision for record in records))),
            Fact(label="mapped for", text=", ".join(dict.fromkeys(record.objective for record in records))),
            Fact(label="tasks", text=f"{len(records)}, {len(done)} done"),
        ),
        notes=tuple(notes),
        measures=(*MEASURES, *measured, *(Measure(key=path, label=shorts[path], unit=_unit(path)) for path in numeric)),
        x="latency_ms", y="energy_uj", subject=done[0].subject if done and len(networks) > 1 else "",
        first=_balanced(done), components=components, descriptions=tuple(machines.descriptions),
        parts=machines.parts.all, machines=tuple(machines.entries), trusts=trusts.all, points=tuple(points),
    )


def short_field(path: str) -> str:
    """A field as tables call it.

    >>> short_field("grid.axes.rows.size"), short_field("memories.weight_buffer.size_bits"), short_field("clock_mhz")
    ('rows', 'weight buffer size', 'clock')
    """
    axis = re.fullmatch(r"(?:tiles\.(\w+)\.)?grid\.axes\.(\w+)\.size", path)
    if axis:
        return " ".join(part for part in axis.groups() if part)
    words = path.removeprefix("memories.").replace(".", " ").replace("_", " ").split()
    return " ".join(words[:-1] if _unit(path) and len(words) > 1 else words)


def _unit(path: str) -> str:
    """The unit in which a field's name ends."""
    return next((unit for end, unit in _UNITS.items() if path.endswith(end)), "")


_UNITS = {"_bits_per_cycle": "", "_pj_per_bit": "", "_bits": "bits", "_mhz": "MHz", "_cycles": "cycles", "_um2": "µm²",
          "_mw": "mW", "_pj": "pJ"}


def _varied(records: Sequence[SweepRecord]) -> list[str]:
    """Fields that differ between records, in order of first sight."""
    seen: dict[str, set[str]] = {}
    for record in records:
        for path, value in record.fields.items():
            seen.setdefault(path, set()).add(canonical_json(value))
    missing = {path for path in seen for record in records if path not in record.fields}
    return [path for path, values in seen.items() if len(values) > 1 or path in missing]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else str(value)


def _values(record: SweepRecord, numeric: Sequence[str], *, has_accuracy: bool) -> tuple[float | None, ...]:
    """By ``MEASURES``, the accuracy where any is measured, then the fields; without a result the fields alone."""
    own = tuple(record.fields.get(path) for path in numeric)
    result = record.result
    if result is None:
        return (*(None for _ in MEASURES), *([None] * has_accuracy), *own)
    accuracy = None if result.accuracy is None else 100.0 * result.accuracy.value
    energy_uj = result.energy_pj * 1e-6
    return (
        result.latency_ms, energy_uj, energy_uj * result.latency_ms, result.area_mm2, float(result.total_cycles),
        100.0 * result.worst_gap, float(result.unproven_layers), *([accuracy] if has_accuracy else []), *own,
    )


def _command(task: SweepTask, expansion: Expansion, file: str) -> str:
    """What simulates a task layer by layer; a machine with fields given anew is the ``file`` that the page saves."""
    description = expansion.description
    bases = {entry.name or Path(entry.base).stem: entry.base for entry in description.hardware}
    base = bases.get(task.point.hardware, task.point.hardware)
    words = ["bitmosaic", "simulate", task.network, "--hardware", file if task.point.fields else base]
    policy: Mapping[str, str] | None = description.layer_precisions.get(task.precision)
    if policy is None:
        words += ["--precision", task.precision]
    for pattern, precision in (policy or {}).items():
        words += ["--layer-precision", f"{pattern}={precision}"]
    words += ["--objective", task.objective, "--seconds-per-layer", f"{description.cpu_seconds_per_layer:g}",
              "--gap", f"{description.target_gap:g}"]
    return shlex.join(words)


def _balanced(done: Sequence[ReportPoint]) -> str:
    """The point of least energy times latency of the first subject: something to begin with."""
    own = [point for point in done if point.subject == done[0].subject]
    place = next(place for place, measure in enumerate(MEASURES) if measure.key == "edp_uj_ms")
    return min(own, key=lambda point: point.values[place] or 0.0).id if own else ""
