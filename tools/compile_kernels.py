"""Compiles the kernels that most tests need into the user's cache: `python tools/compile_kernels.py walks|search`.

The two parts have little in common, so that two processes share the work; test workers would each compile everything.
"""

from __future__ import annotations

import argparse

from hw_configs import open_accelerator
from mapper.network import MappingJob, map_many
from simulator import kernels
from simulator.accelerator import Accelerator
from simulator.batch import MappingBatch, bound_batch, simulate_batch
from simulator.engine import simulate
from simulator.layer import Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.trace import trace_layer
from simulator.walk_input import walk_input

LAYER = Layer(name="layer", dims={"K": 8, "C": 8, "P": 4, "Q": 4})
MAPPING = Mapping(levels=(
    MappingLevel(level="dram"), MappingLevel(level="buffer", tile=LAYER.dims, order=("K", "C", "P", "Q")),
    MappingLevel(level="register"),
))


def compile_walks(machine: Accelerator) -> None:
    """Walks of any machine, with a timeline and without, and those of batches of mappings."""
    plan = Plan(LAYER, LayerPrecision(), machine, MAPPING)
    trace_layer(plan, 100)
    kernels.full_walk(walk_input(plan), None)
    batch = MappingBatch.of([MAPPING], machine)
    bound_batch(LAYER, LayerPrecision(), machine, batch)
    simulate_batch(LAYER, LayerPrecision(), machine, batch)


def compile_search(machine: Accelerator) -> None:
    """What plain machines take to simulate a layer and to search for its mapping."""
    simulate(LAYER, LayerPrecision(), machine, MAPPING)
    for objective in ("latency", "energy"):
        map_many([MappingJob(LAYER, LayerPrecision())], machine, objective, workers=1)


def main() -> None:
    """Compile the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("walks", "search"))
    machine = open_accelerator("bit_fusion")
    {"walks": compile_walks, "search": compile_search}[parser.parse_args().part](machine)


if __name__ == "__main__":
    main()
