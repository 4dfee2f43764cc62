"""Reports of explorations and of comparisons: a network's points on one machine, with all that they record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bitmosaic._version import __version__
from bitmosaic.explorations.assignment_proof import proofs_text
from bitmosaic.explorations.comparison import Comparison
from bitmosaic.explorations.comparison_report import AXES
from bitmosaic.explorations.exploration import COST_UNITS, SELECTIONS_FILE, CostAxis, Exploration, Point
from bitmosaic.explorations.folder import ASSIGNMENTS, narrow_channels
from bitmosaic.explorations.narrow_channels import channels_of
from bitmosaic.explorations.rank_correlation import correlations_text
from bitmosaic.explorations.records import SelectionRecord, Settings
from bitmosaic.explorations.store import RecordFile
from bitmosaic.report_page.model import Fact, Reference, Report, ReportPoint
from bitmosaic.report_page.network_entries import (
    CYCLE_KINDS,
    MEASURES,
    NetworkEntries,
    accuracy_measure,
    origin_text,
    values_of,
)
from bitmosaic.views.text_tables import CHEAPEST, number_text, whole_note

# What the front shows at first: the measure that was to be minimised.
_X: dict[CostAxis, str] = {"latency": "latency_ms", "energy": "energy_uj", "memory": "weight_kib"}
RANKED = "rank correlation with measured harm"
NO_BUDGET = "how long mappings were searched for is not recorded: compare again, and it will be"


def read_exploration(exploration: Exploration) -> Report:
    """The report of an exploration, finished or not."""
    settings, points = exploration.settings, exploration.points
    entries = NetworkEntries(exploration.folder, settings.network, settings.accelerator,
                             [point.record for point in points])
    measured = any(point.record.accuracy is not None for point in points)
    metric = settings.metric or "accuracy"
    chosen = exploration.chosen()
    found = []
    for point in points:
        record = point.record
        file = _file_name(point.label)
        kept = exploration.folder / ASSIGNMENTS / file
        found.append(ReportPoint(
            id=point.label, label=point.label, group="uniform" if point.is_uniform else "mixed",
            subject=settings.network, origin=origin_text(record), chosen=chosen is point,
            values=values_of(record, measured), energy_pj=entries.energy_of(record), machine=0,
            trust=entries.trust_of(record), layers=entries.layers_of(record, exploration.harms),
            command=entries.command(kept if kept.is_file() else file), assignment_file=file,
            assignment=entries.assignment_of(record, f"Point {point.label}", settings.quantiser, settings.objective,
                                             settings.cpu_seconds_per_layer, settings.target_gap,
                                             narrow_channels(exploration, point)),
        ))
    notes = []
    if not measured:
        notes.append("No accuracy was measured: the network has no trained weights, or no data to measure it on.")
    if settings.sensitivity_note:
        notes.append(f"Harm: {settings.sensitivity_note}.")
    if whole := whole_note(exploration):
        notes.append(whole)
    if all(row.dram_bits is None for point in points for row in point.record.layers):
        notes.append(_NO_ROOFLINE)
    fp32 = exploration.fp32
    return Report(
        kind="exploration", title=f"{settings.network} on {settings.accelerator}", source=str(exploration.folder),
        made_by=__version__, group_name="kind", subject_name="network",
        facts=(
            Fact(label="network", text=settings.network), Fact(label="hardware", text=settings.accelerator),
            *_accuracy_facts(metric, None if fp32 is None else fp32.value, fp32.count if fp32 else 0),
            Fact(label="menu", text=", ".join(settings.menu)), Fact(label="mapped for", text=settings.objective),
            *_method_facts(settings), *_choice_facts(settings), *_correlation_facts(exploration), *_proof_facts(points),
            Fact(label="points", text=str(len(points))),
        ),
        notes=tuple(notes), measures=(*MEASURES, *([accuracy_measure(metric)] if measured else [])),
        references=_references(measured, fp32.value if fp32 else None),
        x=_X[settings.minimise] if measured else "latency_ms", y="accuracy_percent" if measured else "energy_uj",
        first=chosen.label if chosen else "",
        points=tuple(found), **_gathered(entries),
    )


def read_comparison(comparison: Comparison) -> Report:
    """The report of a comparison: families are groups. A point that several families propose stands once for each."""
    settings = comparison.settings
    points = [point for family in comparison.families for point in family.points]
    entries = NetworkEntries(comparison.folder, settings.network, settings.accelerator,
                             [point.record for point in points])
    selections = RecordFile(comparison.folder / SELECTIONS_FILE, SelectionRecord)
    found = []
    for family in comparison.families:
        for number, point in enumerate(family.points, start=1):
            record = point.record
            label = point.label if point.label.startswith(family.name) else f"{family.name} {point.label}"
            file = _file_name(label)
            command, assignment = "", ""
            if settings.cpu_seconds_per_layer is not None and settings.target_gap is not None:
                command = entries.command(file)
                assignment = entries.assignment_of(
                    record, f"{label[:1].upper()}{label[1:]}", family.quantiser, settings.objective,
                    settings.cpu_seconds_per_layer, settings.target_gap, channels_of(record, selections),
                )
            found.append(ReportPoint(
                id=f"{family.name}-{number}".replace(" ", "-"), label=label, group=family.kind,
                subject=settings.network, origin=origin_text(record), values=values_of(record, True),
                energy_pj=entries.energy_of(record), machine=0, trust=entries.trust_of(record),
                layers=entries.layers_of(record), command=command, assignment=assignment,
                assignment_file=file if assignment else "", note="" if command else f"No command: {NO_BUDGET}.",
            ))
    notes = [f"Left out: {name}, {reason}." for name, reason in settings.skipped.items()]
    notes.append("A point that several families propose stands once for each.")
    if all(row.dram_bits is None for point in points for row in point.record.layers):
        notes.append(_NO_ROOFLINE)
    return Report(
        kind="comparison", title=f"{settings.network} on {settings.accelerator}: methods and baselines",
        source=str(comparison.folder), made_by=__version__, group_name="family", subject_name="network",
        facts=(
            Fact(label="network", text=settings.network), Fact(label="hardware", text=settings.accelerator),
            *_accuracy_facts(settings.metric, settings.fp32, settings.examples),
            Fact(label="menu", text=", ".join(settings.menu)), Fact(label="mapped for", text=settings.objective),
            Fact(label="families", text=str(len(comparison.families))), *_variant_facts(comparison),
            *(
                Fact(label=f"{RANKED}, {name}", text=correlations_text(comparison.correlations.get(name)))
                for name, ratings in settings.ratings.items() if ratings.sensitivity != "perturbation"
            ),
            *_proof_facts(comparison.points), Fact(label="points", text=str(len(points))),
        ),
        notes=tuple(notes), measures=(*MEASURES, accuracy_measure(settings.metric)),
        references=_references(True, settings.fp32), x="latency_ms", y="accuracy_percent",
        first=_first(comparison, [point.id for point in found]), points=tuple(found), **_gathered(entries),
    )


_NO_ROOFLINE = (
    "No rooflines: these results are of a version that did not record what passes the DRAM. `bitmosaic simulate … "
    "--plots DIR` draws that of a point."
)


def _first(comparison: Comparison, ids: list[str]) -> str:
    """The fastest point of all families that is within the usual loss of accuracy."""
    points = [point for family in comparison.families for point in family.points]
    good: list[Point] = []
    for family in comparison.families:
        found = comparison.cheapest(family, AXES[0], 0.01)
        good += [] if found is None else [found]
    if not good:
        return ids[0] if ids else ""
    best = min(good, key=lambda point: (point.record.total_cycles, point.record.energy_pj))
    return next(each for each, point in zip(ids, points, strict=True) if point is best)


def _file_name(label: str) -> str:
    """The name of a point's assignment, as ``explore`` writes it."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", label) + ".yaml"


def _accuracy_facts(metric: str, fp32: float | None, count: int) -> tuple[Fact, ...]:
    if fp32 is None:
        return ()
    return (Fact(label=f"{metric} in FP32", text=f"{number_text(100.0 * fp32)} % on {count} examples"),)


def _method_facts(settings: Settings) -> tuple[Fact, ...]:
    """The method, and what it rates harm and quantises by; channels that are selected have neither."""
    if settings.flexiq is not None:
        variant = (f"selection {settings.flexiq.selection}, effective bits {settings.flexiq.extraction}, units of "
                   f"{settings.flexiq.width}")
        return (Fact(label="method", text=f"{settings.method}: {variant}"),)
    gradients = "" if settings.gradients == "own" else f", gradients by {settings.gradients}"
    read = f": {settings.seada.label}" if settings.seada is not None and settings.seada.label else ""
    return (
        Fact(label="method", text=(settings.method or "assignment by rated harm") + read),
        Fact(label="harm", text=settings.sensitivity.replace("_", " ") + gradients),
        Fact(label="quantiser", text=settings.quantiser),
    )


def _proof_facts(points: Iterable[Point]) -> tuple[Fact, ...]:
    """How good the integer programs' answers are proven to be, where that is recorded."""
    proofs = proofs_text(point.record.proof for point in points)
    return (Fact(label="assignments", text=proofs),) if proofs else ()


def _choice_facts(settings: Settings) -> tuple[Fact, ...]:
    """What the chosen point costs least of, where that is not the default, and the limits that it keeps."""
    facts = [] if settings.minimise == "latency" else [Fact(label="chosen", text=CHEAPEST[settings.minimise])]
    limits = settings.cost_limits.items()
    return (*facts, *(Fact(label=f"{axis} limit", text=f"{most:g} {COST_UNITS[axis]}") for axis, most in limits))


def _correlation_facts(exploration: Exploration) -> tuple[Fact, ...]:
    """How well the ratings rank measured harm, where they are not that themselves."""
    if not exploration.harms or exploration.settings.sensitivity == "perturbation":
        return ()
    return (Fact(label=RANKED, text=correlations_text(exploration.correlations)),)


def _variant_facts(comparison: Comparison) -> tuple[Fact, ...]:
    """How channels are selected, where a family does that; its label names what is not the default."""
    found = [family.quantiser.split(", ")[1:] for family in comparison.families if family.name == "flexiq"]
    return tuple(
        Fact(label="flexiq", text=", ".join((
            "evolutionary selection" if "evolutionary" in named else "greedy selection",
            "dynamic effective bits" if "dynamic" in named else "static effective bits",
            next((each for each in named if each.startswith("units of ")), "units of 1"),
        ))) for named in found
    )


def _references(measured: bool, fp32: float | None) -> tuple[Reference, ...]:
    if fp32 is None or not measured:
        return ()
    return (Reference(measure="accuracy_percent", value=100.0 * fp32, label="FP32"),)


def _gathered(entries: NetworkEntries) -> dict[str, Any]:
    """Fields of a report that the entries hold."""
    return {
        "cycle_kinds": CYCLE_KINDS, "components": entries.components,
        "descriptions": tuple(entries.machines.descriptions), "parts": entries.machines.parts.all,
        "machines": tuple(entries.machines.entries), "trusts": entries.trusts.all, "layers": entries.layers.all,
    }
