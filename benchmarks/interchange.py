"""How much of other tools' mappings can be said here, and what they cost when they are simulated.

    python -m benchmarks.interchange [--data DIR]

Every mapping of the reference results of ZigZag and AccelForge is imported: exactly, else with buffers cut
(``--places split`` of ``bitmosaic convert``), else refused. Ratios are ours, simulated, over the tool's own numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reference import accelforge, zigzag
from bitmosaic.interchange.design import Design
from bitmosaic.interchange.nest_to_mapping import mapping_of
from bitmosaic.interchange.split_buffers import split_to_fit
from bitmosaic.interchange.to_bitmosaic import accelerator_of
from bitmosaic.interchange.zigzag import read_result
from simulator.engine import simulate
from simulator.errors import MappingError
from simulator.precision import LayerPrecision
from simulator.result import LayerResult


def zigzag_designs(folder: Path) -> Iterator[tuple[Design, float, float]]:
    """Each mapping of ZigZag's file, with its energy and latency."""
    layers = zigzag.layers_of(folder)
    for entry in json.loads((folder / zigzag.MAPPINGS).read_text(encoding="utf-8"))["entries"]:
        design = Design("ZigZag", zigzag.machine_of(folder, entry["accelerator"]), layers[entry["layer"]],
                        LayerPrecision(), read_result(entry))
        yield design, entry["energy"], entry["latency"]


def accelforge_designs(folder: Path) -> Iterator[tuple[Design, float, float]]:
    """Each mapping of AccelForge's file, with its energy and latency."""
    known = set()
    for name, front in json.loads((folder / accelforge.FRONTS).read_text(encoding="utf-8")).items():
        for end in accelforge.ENDS:
            lines = front[end]["mapping"]
            if (name, *lines) in known:
                continue
            known.add((name, *lines))
            design = Design("AccelForge", accelforge.machine_of(folder, front["arch"]),
                            accelforge.layer_of(front["layer"]), accelforge.precision_of(front["bits"]),
                            accelforge.nest_of(front["layer"], lines))
            yield design, front[end]["energy"], front[end]["latency"]


def imported(design: Design) -> tuple[str, LayerResult | None]:
    """How a design can be said, and its cost."""
    assert design.machine is not None and design.layer is not None and design.nest is not None
    precision = design.precision or LayerPrecision()
    accelerator, _ = accelerator_of(design, precision)
    arguments = design.layer, precision, design.machine, accelerator, design.nest
    try:
        mapping, _ = mapping_of(*arguments)
        return "exact", simulate(design.layer, precision, accelerator, mapping)
    except MappingError:
        pass
    try:
        split = split_to_fit(*arguments)
        return "split", simulate(design.layer, precision, split.accelerator, split.mapping)
    except MappingError as error:
        place = error.problems[0].path
        return ("refused: registers of operands at different places" if place == "registers" else "refused"), None


def main() -> None:
    """Print a line for each tool and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/reference"))
    folder = parser.parse_args().data
    for tool, designs in (("ZigZag", zigzag_designs(folder)), ("AccelForge", accelforge_designs(folder))):
        found: dict[str, list[tuple[float, float]]] = {}
        for design, energy, latency in designs:
            how, result = imported(design)
            ratios = found.setdefault(how, [])
            ratios.append((0.0, 0.0) if result is None
                          else (result.total_energy_pj / energy, result.total_cycles / latency))
        print(f"{tool}: {sum(map(len, found.values()))} mappings")
        for how, ratios in sorted(found.items()):
            text = f"  {how}: {len(ratios)}"
            if not how.startswith("refused"):
                for name, values in zip(("energy", "cycles"), zip(*ratios, strict=True), strict=True):
                    text += f"; {name} {min(values):.3f} to {max(values):.3f}, median {statistics.median(values):.3f}"
            print(text)


if __name__ == "__main__":
    main()
