"""``bitmosaic convert``: other tools' architectures and mappings to ours, ours to theirs, and from one to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bitmosaic.interchange.design import Design
    from simulator.precision import LayerPrecision

TOOLS = ("bitmosaic", "zigzag", "accelforge", "timeloop")


@click.command("convert", short_help="Convert architectures and mappings of other tools, and to them.")
@click.argument("files", nargs=-1, required=True)
@click.option("--to", "target", type=click.Choice(TOOLS), default="bitmosaic", show_default=True,
              help="Whose files to write.")
@click.option("--layer", metavar="NAME", help="The layer of a workload that has several.")
@click.option("--precision", metavar="W8A8",
              help="The precision of the layer; by default that of the workload, else w8a8.")
@click.option("--places", type=click.Choice(["exact", "split", "best"]), default="exact", show_default=True,
              help="In which memories tiles lie. exact: as given, or refused; split: as given, buffers cut where they "
                   "hold tiles of different places; best: loops as given, the places of least energy-delay product.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write the files into this folder; by default they are only checked.")
def convert(files: tuple[str, ...], target: str, layer: str | None, precision: str | None, places: str,
            out: Path | None) -> None:
    """Convert the architecture in FILES, and a layer and its mapping where they are given, for another tool.

    FILES are YAML of ZigZag (accelerator, workload, mapping), of AccelForge (arch, workload, mapping), of Timeloop
    (architecture, problem, mapping, ERT), or of Bitmosaic (accelerator or preset, layer, mapping), in any order. What
    is lost or assumed is listed; what cannot be said is refused. To Bitmosaic, the mapping is simulated too.
    """
    from bitmosaic.interchange.files import read_files
    from simulator.precision import LayerPrecision

    design = read_files(files, layer, None if precision is None else LayerPrecision.parse(precision))
    if target == "bitmosaic":
        texts, notes, lines = _ours(design, places, out)
    else:
        texts, notes = _theirs(design, target)
        lines = []
    for note in notes:
        click.echo(f"note: {note}")
    for line in lines:
        click.echo(line)
    if out is None:
        click.echo(f"Checked: {', '.join(texts)} could be written; --out DIR writes them.")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    click.echo(f"Written: {', '.join(str(out / name) for name in texts)}")


def _theirs(design: Design, target: str) -> tuple[dict[str, str], tuple[str, ...]]:
    from bitmosaic.interchange import write_accelforge, write_timeloop, write_zigzag

    writers = {"zigzag": write_zigzag.files_of, "accelforge": write_accelforge.files_of,
               "timeloop": write_timeloop.files_of}
    return writers[target](design)


def _ours(design: Design, places: str, out: Path | None) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    """Files, notes, and what the mapping costs, in lines."""
    from bitmosaic.interchange.nest_to_mapping import best_places, mapping_of
    from bitmosaic.interchange.split_buffers import split_to_fit
    from bitmosaic.interchange.to_bitmosaic import accelerator_of
    from bitmosaic.mapping_files import dump_layer, dump_mapping
    from hw_configs import dump_accelerator
    from simulator.engine import simulate
    from simulator.errors import ConfigurationError, Problem
    from simulator.nest_text import nest_text
    from simulator.precision import LayerPrecision

    precision = design.precision or LayerPrecision()
    texts: dict[str, str] = {}
    notes: tuple[str, ...] = design.notes
    lines: list[str] = []
    if design.layer is not None:
        texts["layer.yaml"] = dump_layer(design.layer)
    if design.machine is None:
        if not texts:
            raise ConfigurationError(Problem("no architecture is among the files", path="FILES"))
        if design.nest is not None:
            raise ConfigurationError(Problem("a mapping needs its architecture: give that file too", path="FILES"))
        return texts, notes, lines
    accelerator, found = accelerator_of(design, precision)
    notes = (*notes, *found)
    if design.nest is not None and design.layer is not None:
        arguments = design.layer, precision, design.machine, accelerator, design.nest
        if places == "best":
            mapping, found = best_places(*arguments)
        elif not design.nest.stores:
            raise ConfigurationError(Problem(
                "the mapping gives loops and no places of tiles: that is for the tool to choose", path="--places",
                value=places, allowed=("best",)))
        elif places == "split":
            split = split_to_fit(*arguments)
            accelerator, mapping, found = split.accelerator, split.mapping, split.notes
        else:
            mapping, found = mapping_of(*arguments)
        notes = (*notes, *found)
        if precision.parameter_bits(design.layer):
            notes = (*notes, f"Scales of the weights are loaded first, {precision.parameter_bits(design.layer)} bits, "
                             f"as of every layer here; {design.tool} has none.")
        result = simulate(design.layer, precision, accelerator, mapping)
        lines.append(nest_text(design.layer, precision, accelerator, mapping))
        lines += _counted(design, precision)
        lines.append(f"Bitmosaic: {result.total_cycles:,} cycles, {result.total_energy_pj:,.6g} pJ, simulated")
        folder = out or Path()
        command = (f"bitmosaic map {folder / 'layer.yaml'} --hardware {folder / 'accelerator.yaml'} --precision "
                   f"{precision.label} --from {folder / 'mapping.yaml'}")
        if precision != LayerPrecision.parse(precision.label):
            notes = (*notes, f"Sums have {precision.accumulator.bits} bits and outputs {precision.output.bits} here; "
                             f"--precision {precision.label} of other commands has 32, and those of the inputs.")
        texts["mapping.yaml"] = dump_mapping(mapping, f"From {design.tool}. Simulate it:\n{command}")
    comment = "".join(f"# {note}\n" for note in (f"From {design.tool}.", *dict.fromkeys(notes)))
    texts["accelerator.yaml"] = comment + dump_accelerator(accelerator)
    return dict(sorted(texts.items())), tuple(dict.fromkeys(notes)), lines


def _counted(design: Design, precision: LayerPrecision) -> list[str]:
    """What the mapping costs under the tool's own counting rules, where we have them."""
    from simulator.counting_rules import accelforge, zigzag

    if design.nest is None or not design.nest.stores or design.layer is None or design.machine is None:
        return []
    if design.tool == "ZigZag":
        words = zigzag.count(design.layer, precision, design.machine, design.nest)
        return [f"ZigZag's counting rules: {words.latency_cycles:,.0f} cycles, {words.energy_pj:,.6g} pJ"]
    if design.tool == "AccelForge":
        bits = accelforge.count(design.layer, precision, design.machine, design.nest)
        return [f"AccelForge's counting rules: {bits.latency_cycles:,.0f} cycles, {bits.energy_pj:,.6g} pJ"]
    return []
