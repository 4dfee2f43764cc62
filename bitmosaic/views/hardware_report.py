"""A machine as tables: area and leakage by part, energies by component, each with how far to trust it.

``parts_frame`` and ``sources_frame`` are the data, ``hardware_tables`` what ``bitmosaic hardware NAME`` prints.
"""

from __future__ import annotations

import math

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from bitmosaic.views.text_tables import new_table, number_text
from simulator.provenance import (
    UNSTATED,
    confidence_of,
    number_values,
    source_of,
    uncovered,
    weakest,
)
from simulator.tiled import Machine, TiledAccelerator, machine_not_modelled


def parts_frame(accelerator: Machine) -> pd.DataFrame:
    """One row a part of a machine that takes room or draws power at all times.

    Columns: ``part``, ``copies``, ``area_mm2`` (of all copies; NaN: not modelled, or not on the chip),
    ``area_confidence``, ``leakage_mw`` (of all copies; NaN: not modelled; DRAM: its background power),
    ``leakage_confidence``. Confidences are empty where there is no number, ``not stated`` where it has no source. Parts
    of a machine of several tiles are called ``fusion.weight_buffer``.

    >>> from hw_configs import open_accelerator
    >>> list(parts_frame(open_accelerator("bit_fusion"))["part"][:2])
    ['processing_elements', 'weight_buffer']
    """
    rows = []
    for part in accelerator.parts:
        area, power = part.area_um2, part.leakage_mw
        rows.append({
            "part": part.name,
            "copies": part.copies,
            "area_mm2": math.nan if area is None else part.copies * area * 1e-6,
            "area_confidence": "" if area is None else _stated(accelerator, f"{part.path}.area_um2"),
            "leakage_mw": math.nan if power is None else part.copies * power,
            "leakage_confidence": "" if power is None else _stated(accelerator, f"{part.path}.{part.power}"),
        })
    return pd.DataFrame(rows)


def sources_frame(accelerator: Machine) -> pd.DataFrame:
    """One row a number of a machine: ``number`` (its place), ``value``, ``confidence``, ``source``.

    >>> from hw_configs import open_accelerator
    >>> frame = sources_frame(open_accelerator("bit_fusion"))
    >>> row = frame.set_index("number").loc["clock_mhz"]
    >>> float(row["value"]), row["confidence"]
    (500.0, 'extracted')
    """
    rows = []
    for path, value in number_values(accelerator.model_dump(mode="json", exclude={"sources"})).items():
        source = source_of(accelerator.sources, path)
        rows.append({
            "number": path, "value": value, "confidence": source.confidence if source else UNSTATED,
            "source": source.source if source else "",
        })
    return pd.DataFrame(rows, columns=["number", "value", "confidence", "source"])


def _stated(accelerator: Machine, *paths: str) -> str:
    return confidence_of(accelerator, *paths) or UNSTATED


def hardware_tables(accelerator: Machine) -> RenderableType:
    """Area and leakage by part, every energy with its source, and what is not modelled."""
    notes: list[RenderableType] = [Text(f"Not modelled: {'; '.join(machine_not_modelled(accelerator)) or 'nothing'}.")]
    without = uncovered(accelerator)
    if without:
        notes.append(Text(f"Without a source: {', '.join(without)}."))
    tables = [_parts_table(accelerator), _energies_table(accelerator)]
    if isinstance(accelerator, TiledAccelerator):
        tables.insert(0, _tiles_table(accelerator))
    return Group(*tables, *notes)


def tiles_frame(machine: TiledAccelerator) -> pd.DataFrame:
    """One row a tile of a machine.

    Columns: ``tile``, ``preset`` (which it was taken from, or empty), ``grid`` (sizes of the axes), ``element`` (kind
    of PE), ``passing``, ``buffers_kib``, ``area_mm2`` and ``leakage_mw`` (NaN where a part's area, or all leakage, is
    not modelled; without DRAM).

    >>> from hw_configs import open_machine
    >>> list(tiles_frame(open_machine("four_tiles"))["tile"])
    ['fusion', 'serial', 'float', 'systolic']
    """
    rows = []
    for tile in machine.tiles:
        whole = machine.tile(tile.name)
        on_chip = [part for part in whole.parts if part.is_on_chip]
        powers = [part.copies * part.leakage_mw for part in on_chip if part.leakage_mw is not None]
        rows.append({
            "tile": tile.name, "preset": tile.preset or "",
            "grid": " × ".join(str(axis.size) for axis in tile.grid.axes), "element": tile.processing_element.kind,
            "passing": tile.grid.passing_text, "buffers_kib": sum(buffer.size_bits for buffer in whole.buffers) / 8192,
            "area_mm2": math.nan if whole.area_mm2 is None else whole.area_mm2,
            "leakage_mw": math.fsum(powers) if powers else math.nan,
        })
    return pd.DataFrame(rows)


def _tiles_table(machine: TiledAccelerator) -> RenderableType:
    table = new_table(f"{machine.name}: tiles, one at work at a time, at {machine.clock_mhz:g} MHz")
    for heading in ("tile", "grid", "PE kind", "passing", "as the preset"):
        table.add_column(heading, no_wrap=True)
    for heading in ("buffers (KiB)", "area (mm²)", "leakage (mW)"):
        table.add_column(heading, justify="right")
    for row in tiles_frame(machine).itertuples():
        table.add_row(row.tile, row.grid, row.element, row.passing, row.preset or "—", number_text(row.buffers_kib),
                      _amount(row.area_mm2), _amount(row.leakage_mw))
    return table


def _parts_table(accelerator: Machine) -> RenderableType:
    table = new_table(f"{accelerator.name}: area and leakage")
    table.add_column("part", no_wrap=True)
    for heading in ("copies", "area (mm²)"):
        table.add_column(heading, justify="right")
    table.add_column("confidence", no_wrap=True)
    table.add_column("leakage (mW)", justify="right")
    table.add_column("confidence", no_wrap=True)
    frame = parts_frame(accelerator)
    on_chip = {part.name for part in accelerator.parts if part.is_on_chip}
    for row in frame.itertuples():
        area = _amount(row.area_mm2) if row.part in on_chip else "off chip"
        table.add_row(row.part.replace("_", " "), f"{row.copies:,}", area, row.area_confidence,
                      _amount(row.leakage_mw), row.leakage_confidence)
    table.add_section()
    parts = accelerator.parts
    areas = [f"{part.path}.area_um2" for part in parts if part.area_um2 is not None]
    powers = [f"{part.path}.{part.power}" for part in parts if part.leakage_mw is not None]
    table.add_row(
        "total of what is modelled", "", _amount(frame["area_mm2"].sum()) if areas else "—",
        (weakest(confidence_of(accelerator, path) for path in areas) or UNSTATED) if areas else "",
        _amount(frame["leakage_mw"].sum()) if powers else "—",
        (weakest(confidence_of(accelerator, path) for path in powers) or UNSTATED) if powers else "", style="bold",
    )
    return table


def _energies_table(accelerator: Machine) -> RenderableType:
    table = new_table(f"{accelerator.name}: energies (pJ; of memories a bit)")
    table.add_column("number", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("confidence", no_wrap=True)
    table.add_column("source", overflow="fold")
    frame = sources_frame(accelerator)
    for row in frame[frame["number"].str.contains("energy_")].itertuples():
        table.add_row(row.number, number_text(row.value), row.confidence, row.source)
    return table


def _amount(value: float) -> str:
    return "not modelled" if math.isnan(value) else number_text(value)
