"""How fast whole networks are mapped, how good the proofs are, and how fast the simulator scores what was mapped.

    python -m benchmarks.mapping [--networks NAME,…] [--hardware NAME,…] [--objectives latency,…] [--precisions w8a8,…]
                                 [--gap FRACTION] [--seconds-per-layer S] [--layers]

CPU seconds of one process, kernels compiled before. Nothing comes from the cache.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from hw_configs import open_accelerator
from mapper.cache import problem_key
from mapper.network import network_precisions, simulate_network
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.engine import simulate
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads import Network, open_network


def warm_up(accelerator: Accelerator, precision: LayerPrecision, objective: Objective) -> None:
    """Compile, or load, every kernel."""
    layer = Layer(name="warm-up", dims={"K": 4, "C": 4, "P": 3, "Q": 3, "R": 3, "S": 3})
    map_layer(layer, precision, accelerator, objective, budget=SearchBudget(cpu_seconds=0.1))


def map_network(
    network: Network, precision: LayerPrecision, accelerator: Accelerator, objective: Objective, budget: SearchBudget
) -> tuple[list[MappingSolution], dict[str, MappingSolution], dict[str, LayerPrecision]]:
    """Map the distinct layers of a network. Returns (distinct solutions, solution a layer, precision a layer)."""
    precisions = network_precisions(network, {layer.name: precision for layer in network.layers})
    distinct: dict[str, MappingSolution] = {}
    by_layer = {}
    for layer in network.layers:
        key = problem_key(layer, precisions[layer.name], accelerator, objective, budget)
        if key not in distinct:
            distinct[key] = map_layer(layer, precisions[layer.name], accelerator, objective, budget=budget)
        by_layer[layer.name] = distinct[key]
    return list(distinct.values()), by_layer, precisions


def scoring_seconds(
    network: Network, accelerator: Accelerator, precisions: dict[str, LayerPrecision],
    solutions: dict[str, MappingSolution],
) -> float:
    """CPU seconds in which ``fast`` simulates every layer of a mapped network, equal ones again and again."""
    simulate_network(network, accelerator, precisions, solutions)
    began = time.process_time()
    for layer in network.layers:
        simulate(layer, precisions[layer.name], accelerator, solutions[layer.name].mapping)
    return time.process_time() - began


def main() -> None:
    """Print one line a network, machine, precision and objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="onnx_resnet50")
    parser.add_argument("--hardware", default="bit_fusion")
    parser.add_argument("--objectives", default="latency,energy,edp")
    parser.add_argument("--precisions", default="w8a8")
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--seconds-per-layer", type=float, default=10.0)
    parser.add_argument("--prover", default="auto")
    parser.add_argument("--layers", action="store_true", help="a line a layer as well")
    options = parser.parse_args()
    budget = SearchBudget(
        cpu_seconds=options.seconds_per_layer, target_gap=options.gap, prover=options.prover
    )
    print(f"{'network':22} {'machine':13} {'bits':6} {'objective':9} {'layers':>6} {'optimal':>7} {'largest gap':>11} "
          f"{'CPU s':>7} {'median':>7} {'95 %':>7}  scoring CPU s")
    for machine in options.hardware.split(","):
        accelerator = open_accelerator(machine)
        for text in options.precisions.split(","):
            precision = LayerPrecision.parse(text)
            for objective in options.objectives.split(","):
                warm_up(accelerator, precision, objective)
                for name in options.networks.split(","):
                    network = open_network(name)
                    found, by_layer, precisions = map_network(network, precision, accelerator, objective, budget)
                    if options.layers:
                        for one in found:
                            print(f"    {one.layer.name:30} {one.layer.shape!s:36} {one.cost:.6g} {one.status} "
                                  f"gap {100 * one.gap:.3f} % in {one.solve_seconds:.2f} s: {one.mapping.describe()}")
                    seconds = [one.solve_seconds for one in found]
                    optimal = sum(one.status == "optimal" for one in found)
                    scoring = scoring_seconds(network, accelerator, precisions, by_layer)
                    print(f"{name:22} {machine:13} {text:6} {objective:9} {len(found):6} {optimal:7} "
                          f"{100 * max(one.gap for one in found):9.3f} % {sum(seconds):7.1f} {np.median(seconds):7.2f} "
                          f"{np.quantile(seconds, 0.95):7.2f}  {scoring:.3f}", flush=True)


if __name__ == "__main__":
    main()
