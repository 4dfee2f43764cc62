"""How fast the simulator is: against SCALE-Sim, by tiles, by mappings, by products, and to start with.

    python -m benchmarks.speed [--only PART,…]

Parts: ``import``, ``compile``, ``tiles``, ``llama``, ``bound``, ``walk``, ``values``, ``scalesim``. CPU seconds of one
process, the best of a few runs where a run is short; both sides of a ratio are measured in the same run. Kernels are
compiled before, but for ``compile``. ``scalesim`` installs SCALE-Sim into an environment of its own in the cache
folder, and takes two minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.reference.machines import bare_machine, grid_cycles, one_pass
from benchmarks.scalesim_peer import run_scalesim
from hw_configs import open_accelerator
from mapper.network import MappingJob, map_many
from mapper.solution import SearchBudget
from simulator.accelerator import Accelerator, Axis, MulticastPassing, SystolicPassing
from simulator.batch import MappingBatch, bound_batch, simulate_batch
from simulator.engine import simulate, simulate_vector_op
from simulator.floating import encode, rounded
from simulator.formats import Format
from simulator.functional import compute_layer
from simulator.layer import DIMS, Dim, Layer, VectorOp
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement, FloatingPointElement, ProcessingElement
from workloads import open_network

RUNS = 5
BLOCKS = 32  # of LLaMA-3-8B


@dataclass(frozen=True)
class Figure:
    """One measurement: what, how much, and what it was to be."""

    what: str
    figure: str
    target: str = ""
    is_met: bool | None = None


def cpu_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """CPU seconds of the fastest of a few runs."""
    times = []
    for _ in range(runs):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def child_seconds(code: str, **environment: str) -> float:
    """CPU seconds of a Python process that runs some code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def import_time() -> Iterator[Figure]:
    """A process that imports the package, and one that imports nothing."""
    bare, whole = (min(child_seconds(code) for _ in range(3)) for code in ("pass", "import bitmosaic"))
    yield Figure("import bitmosaic", f"{whole:.2f} s, of which Python {bare:.2f} s", "< 1 s", whole < 1)


_FIRST_CALL = """
import bitmosaic, time
machine = bitmosaic.open_accelerator("bit_fusion")
layer = bitmosaic.Layer(name="layer", dims={"K": 4, "C": 4, "P": 3})
levels = (bitmosaic.MappingLevel(level="dram"), bitmosaic.MappingLevel(level="buffer", tile=layer.dims,
          order=("K", "C", "P")), bitmosaic.MappingLevel(level="register"))
bitmosaic.simulate(layer, bitmosaic.LayerPrecision(), machine, bitmosaic.Mapping(levels=levels))
"""


def compile_time() -> Iterator[Figure]:
    """A process that simulates one layer: with an empty cache, and again."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (child_seconds(_FIRST_CALL, BITMOSAIC_CACHE_DIR=folder) for _ in range(2))
    yield Figure("a process that simulates one layer, kernels not compiled before", f"{first:.1f} s")
    yield Figure("… and every later one", f"{second:.1f} s", "compiled once", second < first / 2)


def tiled(tile: dict[Dim, int], order: tuple[Dim, ...], spatial: dict[str, dict[Dim, int]]) -> Mapping:
    """A mapping without register tiles, everything double-buffered, both levels in the same order."""
    return Mapping(
        spatial=spatial,
        levels=(MappingLevel(level="dram", order=order), MappingLevel(level="buffer", tile=tile, order=order),
                MappingLevel(level="register")),
        double_buffer=("weight", "input", "output"),
    )


def tiles_not_cycles() -> Iterator[Figure]:
    """Layers of as many tiles, each of more and more cycles; and of the same cycles in more and more tiles."""
    axes = (Axis(name="rows", size=16, unroll=("C",)), Axis(name="columns", size=16, unroll=("K",)))
    machine = bare_machine(axes, MulticastPassing(), FixedElement(energy_pj_per_cycle=0.0))
    spatial: dict[str, dict[Dim, int]] = {"rows": {"C": 16}, "columns": {"K": 16}}
    seconds = {}
    for tiles, extent in ((16, 16), (16, 160), (16, 1600), (64, 1600)):
        layer = Layer(name="layer", dims={"K": 16 * tiles, "C": 16 * tiles, "P": extent})
        mapping = tiled({"K": 16, "C": 16, "P": extent}, ("K", "C", "P"), spatial)
        result = simulate(layer, LayerPrecision(), machine, mapping)

        def run(layer: Layer = layer, mapping: Mapping = mapping) -> None:
            for _ in range(20):
                simulate(layer, LayerPrecision(), machine, mapping)

        seconds[tiles, extent] = cpu_seconds(run) / 20
        yield Figure(f"fast: {result.tile_count:,} passes, {result.total_cycles:,} cycles",
                     f"{1e3 * seconds[tiles, extent]:.2f} ms")
    ratio = seconds[16, 1600] / seconds[16, 16]
    yield Figure("… 100 times the cycles in as many passes", f"{ratio:.2f}× the time", "about 1×", ratio < 1.5)


def llama() -> Iterator[Figure]:
    """A prefill of 2,048 tokens through all blocks of LLaMA-3-8B: every layer of every block simulated."""
    network = open_network("llama_3_8b_prefill")
    machine, precision = open_accelerator("tpu_like"), LayerPrecision()
    solutions = map_many(
        [MappingJob(layer, precision) for layer in network.layers], machine,
        budget=SearchBudget(cpu_seconds=1.0, target_gap=0.1), workers=1,
    )
    mappings = {layer.name: solution.mapping for layer, solution in zip(network.layers, solutions, strict=True)}
    totals = []

    def run() -> None:
        cycles = passes = 0
        for _ in range(BLOCKS):
            for operation in network.operations:
                if isinstance(operation, VectorOp):
                    cycles += simulate_vector_op(operation, machine).total_cycles
                else:
                    result = simulate(operation, precision, machine, mappings[operation.name])
                    cycles, passes = cycles + result.total_cycles, passes + result.tile_count
        totals.append((cycles, passes))

    run()
    seconds = cpu_seconds(run, 3)
    cycles, passes = totals[0]
    yield Figure(
        f"fast: LLaMA-3-8B prefill of 2,048 tokens on tpu_like, {BLOCKS} blocks of {len(network.layers)} layers, "
        f"{passes:,} passes, {cycles:,} cycles (mapping not counted)", f"{seconds:.2f} s", "< 2 s", seconds < 2,
    )


def random_batch(layer: Layer, machine: Accelerator, count: int, most_trips: int = 1 << 20) -> MappingBatch:
    """Random mappings without register tiles, a seed for all; some may not fit."""
    rng = np.random.default_rng(1)
    extent = np.array(layer.shape)
    spatial = np.ones((count, len(machine.grid.axes) + 1, len(DIMS)), dtype=np.int64)
    for number, axis in enumerate(machine.grid.axes):
        dims = [DIMS.index(dim) for dim in axis.unroll if layer.extent(dim) > 1]
        chosen = rng.choice(dims, count)
        spatial[np.arange(count), number, chosen] = np.minimum(rng.integers(1, axis.size + 1, count), extent[chosen])
    tile = np.ones((count, len(DIMS)), dtype=np.int64)
    for place, size in enumerate(extent):
        tile[:, place] = -(-size // rng.integers(1, min(int(size), most_trips) + 1, count))
    orders = [rng.permuted(np.tile(np.arange(len(DIMS)), (count, 1)), axis=1) for _ in range(2)]
    return MappingBatch(spatial, tile, np.ones_like(tile), orders[0], orders[1], rng.random((count, 3)) < 0.5)


CONVOLUTION = Layer(name="convolution", dims={"K": 256, "C": 256, "P": 28, "Q": 28, "R": 3, "S": 3},
                    padding_begin=(1, 1), input_size=(28, 28))
PRODUCT = Layer(name="product", dims={"K": 4096, "C": 4096, "P": 2048})


def bound_rate() -> Iterator[Figure]:
    """Random mappings scored by the closed form, valid or not."""
    machine = open_accelerator("bit_fusion")
    for layer in (CONVOLUTION, PRODUCT):
        batch = random_batch(layer, machine, 200_000)
        valid = bound_batch(layer, LayerPrecision(), machine, batch).is_valid.mean()

        def run(layer: Layer = layer, batch: MappingBatch = batch) -> None:
            bound_batch(layer, LayerPrecision(), machine, batch)

        rate = len(batch) / cpu_seconds(run)
        yield Figure(f"bound: {layer.name}s on bit_fusion, cycles and energy, {100 * valid:.0f} % valid",
                     f"{rate:,.0f} mappings/s", "> 1,000,000", rate > 1e6)


def walk_rate() -> Iterator[Figure]:
    """Random mappings walked pass by pass."""
    machine = open_accelerator("bit_fusion")
    for layer, most_trips in ((CONVOLUTION, 16), (PRODUCT, 64)):
        batch = random_batch(layer, machine, 100, most_trips)
        passes = simulate_batch(layer, LayerPrecision(), machine, batch).tile_count
        total = int(passes[passes > 0].sum())

        def run(layer: Layer = layer, batch: MappingBatch = batch) -> None:
            simulate_batch(layer, LayerPrecision(), machine, batch)

        rate = total / cpu_seconds(run, 2)
        yield Figure(f"fast: {layer.name}s on bit_fusion, {total:,} passes of {len(batch)} mappings",
                     f"{rate:,.0f} passes/s", "> 20,000,000", rate > 2e7)


def value_rate() -> Iterator[Figure]:
    """Real outputs of a layer on a 16 × 16 grid."""
    axes = (Axis(name="rows", size=16, unroll=("C",)), Axis(name="columns", size=16, unroll=("K",)))
    units: tuple[tuple[ProcessingElement, LayerPrecision, str, float], ...] = (
        (FixedElement(energy_pj_per_cycle=0.0), LayerPrecision(), "int8", 5e8),
        (FloatingPointElement(operand_formats=("fp8_e4m3",), lane_count=4, energy_pj_per_cycle=0.0),
         LayerPrecision.parse("fp8_e4m3"), "fp8_e4m3, sums in fp32", 0),
        (FloatingPointElement(operand_formats=("bf16",), accumulator_format="bf16", lane_count=4,
                              energy_pj_per_cycle=0.0),
         LayerPrecision.parse("bf16").model_copy(update={"accumulator": Format("bf16")}), "bf16, sums in bf16", 0),
    )
    rng = np.random.default_rng(1)
    layer = Layer(name="layer", dims={"K": 256, "C": 256, "P": 28, "Q": 28, "R": 3, "S": 3}, padding_begin=(1, 1),
                  input_size=(28, 28))
    order: tuple[Dim, ...] = ("K", "P", "Q", "C", "R", "S")
    spatial: dict[str, dict[Dim, int]] = {"rows": {"C": 16}, "columns": {"K": 16}}
    for element, precision, name, target in units:
        machine = bare_machine(axes, MulticastPassing(), element)
        lanes = element.lanes(precision)
        mapping = one_pass(layer, spatial | ({"lanes": {"C": lanes}} if lanes > 1 else {}), order)
        codes = []
        for number_format, shape in ((precision.weight, (1, 256, 256, 3, 3)), (precision.input, (1, 1, 256, 28, 28))):
            if number_format.is_integer:
                codes.append(rng.integers(*number_format.integer_range, size=shape, endpoint=True))
            else:
                codes.append(encode(rounded(rng.normal(size=shape), number_format), number_format))

        def run(
            precision: LayerPrecision = precision, machine: Accelerator = machine, mapping: Mapping = mapping,
            codes: list[np.ndarray] = codes,
        ) -> None:
            compute_layer(layer, precision, machine, mapping, codes[0], codes[1])

        run()
        rate = layer.macs / cpu_seconds(run, 3)
        yield Figure(f"values: 3 × 3 convolution on 16 × 16, {name}", f"{rate:.2g} MAC/s",
                     f"> {target:.0e}" if target else "", rate > target if target else None)


def against_scalesim() -> Iterator[Figure]:
    """ResNet-18 on a 128 × 128 output-stationary array: the same compute cycles, and how long each side takes."""
    layers = open_network("resnet18").layers
    machine = bare_machine(
        (Axis(name="rows", size=128, unroll=("P",)), Axis(name="columns", size=128, unroll=("K",))),
        SystolicPassing(stationary="output"), FixedElement(energy_pj_per_cycle=0.0), registers_keep="output",
    )
    spatial: dict[str, dict[Dim, int]] = {"rows": {"P": 128}, "columns": {"K": 128}}
    products = [layer.as_matrix_product() for layer in layers]
    mappings = [one_pass(product, spatial, ("P", "K", "C")) for product in products]

    def run() -> list[int]:
        return [grid_cycles(simulate(product, LayerPrecision(), machine, mapping))
                for product, mapping in zip(products, mappings, strict=True)]

    ours = run()
    seconds = cpu_seconds(run)
    peer = run_scalesim(layers, 128, 128, "output")
    if tuple(ours) != peer.compute_cycles:
        different = [(layer.name, one, other) for layer, one, other in
                     zip(layers, ours, peer.compute_cycles, strict=True) if one != other]
        raise SystemExit(f"compute cycles differ from SCALE-Sim's: {different}")
    ratio = peer.cpu_seconds / seconds
    yield Figure(f"SCALE-Sim 3.0.0: ResNet-18 on 128 × 128, {sum(ours):,} compute cycles",
                 f"{peer.cpu_seconds:.1f} s")
    yield Figure(f"… fast, equal compute cycles in all {len(layers)} layers",
                 f"{1e3 * seconds:.1f} ms: {ratio:,.0f}× less", "1,000× less", ratio >= 1000)


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "import": import_time, "compile": compile_time, "tiles": tiles_not_cycles, "llama": llama, "bound": bound_rate,
    "walk": walk_rate, "values": value_rate, "scalesim": against_scalesim,
}


def main() -> None:
    """Print one line a figure; exit status 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas")
    names = parser.parse_args().only.split(",")
    unknown = set(names) - set(PARTS)
    if unknown:
        parser.error(f"--only={','.join(sorted(unknown))}: no such part (allowed: {', '.join(PARTS)})")
    missed = 0
    for name in names:
        for figure in PARTS[name]():
            verdict = {None: "", True: " (met)", False: " (MISSED)"}[figure.is_met]
            target = f"  [{figure.target}{verdict}]" if figure.target else ""
            print(f"{figure.what}: {figure.figure}{target}", flush=True)
            missed += figure.is_met is False
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
