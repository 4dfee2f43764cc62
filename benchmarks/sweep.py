"""How fast a sweep goes: points a CPU second, what share of it is search, and how both grow with points and workers.

    python -m benchmarks.sweep [--points 10,40] [--workers 1,2] [--network NAME] [--precisions w8a8,w4a4]
                               [--objective edp] [--gap FRACTION] [--base NAME] [--reuse] [--every N] [--keep DIR]

A grid of machines over rows, columns and buffer sizes, of which the first N are taken; with ``--every 8`` every eighth,
so that 1,000 points have 24 of the 25 grids. CPU seconds are those of the
tasks and of the sweep itself; what starting the workers costs (imports, kernels) is told apart. Nothing comes from the
user's cache but compiled kernels. With ``--reuse`` each sweep is run a second time with the mappings of the first: what
is left is simulation and bookkeeping. Results files of different numbers of workers are compared. With ``--keep DIR``
one sweep, of the first number of points and workers, is run in that folder: interrupted, the same command goes on with
it, and its line adds up all of its runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitmosaic.sweeps.results import RESULTS_FILE, RUNS_FILE, read_results
from bitmosaic.sweeps.runner import local_pool, run_sweep
from bitmosaic.sweeps.tasks import expand
from simulator.cache_folder import cache_folder

ROWS, COLUMNS = (8, 16, 24, 32, 48), (8, 16, 24, 32, 48)
KIB = (16, 32, 64, 96, 128, 192, 256)


def hardware(base: str, count: int, every: int = 1) -> list[dict[str, Any]]:
    """The first ``count`` of 8,575 machines, or of every so-many-th, neighbours in sizes behind each other."""
    found = []
    machines = itertools.product(ROWS, COLUMNS, KIB, KIB, KIB)
    for rows, columns, weight, inputs, output in itertools.islice(machines, 0, count * every, every):
        found.append({"base": base, "override": {
            "grid.rows": rows, "grid.columns": columns, "buffers.weight.size_bits": weight * 8192,
            "buffers.input.size_bits": inputs * 8192, "buffers.output.size_bits": output * 8192,
        }})
    return found


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def main() -> None:
    """Print a line for each number of points and workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", default="10,40")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--network", default="onnx_resnet50")
    parser.add_argument("--precisions", default="w8a8,w4a4")
    parser.add_argument("--objective", default="edp")
    parser.add_argument("--gap", type=float, default=0.01)
    parser.add_argument("--base", default="bit_fusion")
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print(f"{'points':>6} {'tasks':>6} {'workers':>7} {'wall s':>8} {'CPU s':>8} {'tasks/CPU s':>11} {'search %':>8} "
          f"{'searches':>8} {'start CPU s':>11} {'worst gap %':>11} {'unproven':>8}")
    bytes_of: dict[int, bytes] = {}
    if options.keep:
        with own_cache(options.keep):
            measure(options, int(options.points.split(",")[0]), int(options.workers.split(",")[0]), options.keep)
        return
    for count, workers in itertools.product(map(int, options.points.split(",")), map(int, options.workers.split(","))):
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            with own_cache(folder):
                for turn in range(1 + options.reuse):
                    measure(options, count, workers, folder / f"results{turn}")
            content = (folder / "results0" / RESULTS_FILE).read_bytes()
            if bytes_of.setdefault(count, content) != content:
                print(f"{count} points: {workers} workers have another results file than the first")


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Keep solved mappings in a folder's own cache, which has of the user's all else (compiled kernels)."""
    kernels = cache_folder("kernels").parent
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    for kept in kernels.iterdir() if kernels.is_dir() else ():
        if kept.name != "mappings" and not (folder / "cache" / kept.name).exists():
            (folder / "cache" / kept.name).symlink_to(kept)
    before = os.environ.get("BITMOSAIC_CACHE_DIR")
    os.environ["BITMOSAIC_CACHE_DIR"] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["BITMOSAIC_CACHE_DIR"]
        else:
            os.environ["BITMOSAIC_CACHE_DIR"] = before


def measure(options: argparse.Namespace, count: int, workers: int, folder: Path) -> None:
    """Run one sweep and print its line."""
    expansion = expand({
        "hardware": hardware(options.base, count, options.every), "networks": [options.network],
        "precisions": options.precisions.split(","), "objectives": [options.objective], "target_gap": options.gap,
    })
    before = len((folder / RUNS_FILE).read_text().splitlines()) if (folder / RUNS_FILE).exists() else 0
    began = cpu_seconds()
    run_sweep(expansion, folder, local_pool(expansion.description, workers))
    everything = cpu_seconds() - began
    runs = [json.loads(line) for line in (folder / RUNS_FILE).read_text().splitlines()]
    names = ("wall_seconds", "cpu_seconds", "sweep_cpu_seconds", "search_cpu_seconds", "searches")
    run = {name: sum(each[name] for each in runs) for name in names}
    results = [record.result for record in read_results(folder) if record.result is not None]
    tasks, spent = len(expansion.tasks), run["cpu_seconds"] + run["sweep_cpu_seconds"]
    starting = everything - sum(each["cpu_seconds"] + each["sweep_cpu_seconds"] for each in runs[before:])
    gap, open_layers = max(each.worst_gap for each in results), sum(each.unproven_layers for each in results)
    print(f"{count:6} {tasks:6} {workers:7} {run['wall_seconds']:8.1f} {spent:8.1f} {tasks / spent:11.3f} "
          f"{100 * run['search_cpu_seconds'] / spent:8.1f} {run['searches']:8} {starting:11.1f} "
          f"{100 * gap:11.2f} {open_layers:8}", flush=True)


if __name__ == "__main__":
    main()
