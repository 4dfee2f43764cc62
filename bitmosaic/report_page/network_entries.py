"""Points of a network on one machine, as explorations and comparisons record them, as entries of a report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from bitmosaic.explorations.assignment_file import AssignmentFile, dump_assignment
from bitmosaic.explorations.folder import ACCELERATOR_FILE, INPUTS
from bitmosaic.explorations.narrow_channels import NarrowChannels
from bitmosaic.explorations.records import LayerRow, PointRecord, VectorRow
from bitmosaic.report_page.machines import Machines
from bitmosaic.report_page.model import LayerEntry, Measure, Shared, Trust
from bitmosaic.views.layer_plots import peak_products_per_cycle
from hw_configs import list_presets, open_machine
from mapper.solution import Objective
from simulator.accelerator import Accelerator
from simulator.precision import LayerPrecision
from simulator.result import STALL_CAUSES
from simulator.tiled import Machine, tiles_of
from workloads import list_networks
from workloads.weight_quantisers import QUANTISERS, Quantiser

CYCLE_KINDS = ("compute", "fill and drain", *(f"wait: {cause.replace('_', ' ')}" for cause in STALL_CAUSES))
MEASURES = (
    Measure(key="latency_ms", label="latency", unit="ms", direction="min"),
    Measure(key="energy_uj", label="energy", unit="µJ", direction="min"),
    Measure(key="edp_uj_ms", label="energy times latency", unit="µJ·ms", direction="min"),
    Measure(key="weight_kib", label="weight memory", unit="KiB", direction="min"),
    Measure(key="latency_cycles", label="latency", unit="cycles", direction="min"),
    Measure(key="worst_gap_percent", label="worst gap of a mapping", unit="%"),
)


def accuracy_measure(metric: str) -> Measure:
    """The measured score of a network."""
    return Measure(key="accuracy_percent", label=metric, unit="%", direction="max")


def values_of(record: PointRecord, has_accuracy: bool) -> tuple[float | None, ...]:
    """By ``MEASURES``, then the accuracy where there is one."""
    weights = None if record.weight_bits is None else record.weight_kib
    values: tuple[float | None, ...] = (
        record.latency_ms, record.energy_uj, record.energy_uj * record.latency_ms, weights, float(record.total_cycles),
        100.0 * record.worst_gap,
    )
    return (*values, None if record.accuracy is None else record.accuracy_percent) if has_accuracy else values


def origin_text(record: PointRecord) -> str:
    """How a point came to be, in words."""
    origin, value = record.origin, record.origin_value
    if record.uniform is not None:
        return "baseline"
    if origin in ("latency", "energy", "memory"):
        return f"proposed for {origin}"
    if value is None:
        return origin
    return f"{origin}, {100 * value:.0f} %" if origin != "threshold" else f"{origin} {value:.3g}"


class NetworkEntries:
    """The layers, the machine and the trust of the points of one results folder, gathered point by point.

    Raises ``ConfigurationError`` where the folder's copy of the machine cannot be read.
    """

    def __init__(self, folder: Path, network: str, accelerator: str, records: Iterable[PointRecord]) -> None:
        self.folder = folder
        self.network = network
        self.machine: Machine = open_machine(folder / ACCELERATOR_FILE)
        self.machines = Machines()
        self.machines.add(accelerator, self.machine)
        self.is_preset = any(
            preset.name == accelerator and open_machine(accelerator) == self.machine for preset in list_presets()
        )
        energies = (row.energy_pj for record in records for row in _rows(record))
        self.components = tuple({name: None for each in energies for name in each})
        self.layers = Shared[LayerEntry]()
        self.trusts = Shared[Trust]()

    def layers_of(self, record: PointRecord, harms: Mapping[tuple[str, str], float] | None = None) -> tuple[int, ...]:
        """Places of a point's layers, then of its vector operations."""
        entries = [self._layer(row, record, harms or {}) for row in record.layers]
        entries += [self._vector(row) for row in record.vector]
        return self.layers.places(entries)

    def energy_of(self, record: PointRecord) -> tuple[float, ...]:
        """Energy in pJ of each component, over all operations."""
        return tuple(math.fsum(row.energy_pj.get(name, 0.0) for row in _rows(record)) for name in self.components)

    def trust_of(self, record: PointRecord) -> int:
        """Place of how far a point's energies can be trusted."""
        confidence = tuple((name, record.confidence.get(name) or "") for name in self.components)
        return self.trusts.place(Trust(confidence=confidence, not_modelled=record.not_modelled))

    def assignment_of(
        self, record: PointRecord, comment: str, quantiser: str, objective: Objective, seconds: float, gap: float,
        flexiq: NarrowChannels | None = None,
    ) -> str:
        """The text of the assignment's file; hardware that is no preset stands beside it, as the page saves it."""
        known: Quantiser = next((each for each in QUANTISERS if each == quantiser), "rtn")
        return dump_assignment(AssignmentFile(
            network=self.network, hardware=self.hardware, quantiser=known, objective=objective,
            cpu_seconds_per_layer=seconds, target_gap=gap,
            precisions={
                layer: record.precisions.get(layer) or LayerPrecision.parse(label)
                for layer, label in record.assignment.items()
            },
            flexiq=flexiq,
        ), comment)

    @property
    def hardware(self) -> str:
        """What ``--hardware`` and an assignment's file call the machine."""
        return self.machines.entries[0].name if self.is_preset else self.machines.entries[0].file

    @property
    def opened_as(self) -> str:
        """What a command calls the network: a built-in one's name, else the folder's copy."""
        names = {info.name for info in list_networks()}
        copy = self.folder / INPUTS / "network.onnx"
        return str(copy) if self.network not in names and copy.is_file() else self.network

    def command(self, assignment: str | Path) -> str:
        """What simulates an assignment's file layer by layer."""
        return shlex.join(["bitmosaic", "simulate", self.opened_as, "--assignment", str(assignment)])

    def _layer(self, row: LayerRow, record: PointRecord, harms: Mapping[tuple[str, str], float]) -> LayerEntry:
        precision = record.precisions.get(row.layer) or LayerPrecision.parse(row.precision)
        narrow = 0.0 if precision.split is None else precision.split.share
        waits = (row.stall_cycles.get(cause, 0) for cause in STALL_CAUSES)
        tile: Accelerator = tiles_of(self.machine)[row.tile]
        harm = harms.get((row.layer, row.precision))
        rated: float | Literal["inf"] | None = "inf" if harm is not None and math.isinf(harm) else harm
        return LayerEntry(
            name=row.layer, kind="layer", precision=row.precision, tile=row.tile or "", macs=row.macs,
            weight_bits=(1.0 - narrow) * precision.weight.bits + narrow * precision.narrow.weight.bits,
            input_bits=(1.0 - narrow) * precision.input.bits + narrow * precision.narrow.input.bits,
            cycles=(row.compute_cycles, row.fill_drain_cycles, *waits), energy_pj=self._energies(row),
            pe_utilization_percent=100.0 * row.pe_utilization, gap_percent=100.0 * row.gap, status=row.status,
            mapping=row.mapping, harm=rated, dram_bits=row.dram_bits,
            peak_macs_per_cycle=peak_products_per_cycle(tile, precision) * tile.grid.pe_count,
        )

    def _vector(self, row: VectorRow) -> LayerEntry:
        # All waits of a vector operation are for its inputs, as in ``frames``.
        cycles = {"compute": row.compute_cycles, "wait: input": row.stall_cycles}
        return LayerEntry(
            name=row.operator, kind="vector", count=row.count, tile=row.tile or "",
            cycles=tuple(cycles.get(kind, 0) for kind in CYCLE_KINDS), energy_pj=self._energies(row),
        )

    def _energies(self, row: LayerRow | VectorRow) -> tuple[float, ...]:
        return tuple(row.energy_pj.get(name, 0.0) for name in self.components)


def _rows(record: PointRecord) -> list[LayerRow | VectorRow]:
    return [*record.layers, *record.vector]
