"""How fast networks are mapped, how good the proofs are, and how fast the simulator scores what was mapped.

    python -m benchmarks.mapping [--networks NAME,…] [--hardware NAME,…] [--objectives latency,…] [--precisions w8a8,…]
                                 [--gap FRACTION] [--seconds-per-layer S] [--layers] [--first N] [--out FILE]
                                 [--menu w2a2,w4a4,… | --ablation | --provers | --cached]

CPU seconds of one process, kernels compiled before. Nothing comes from the cache. ``--first``: the first distinct
layers of each network only. ``--out`` keeps each layer's seconds and gap in a file of JSON lines; with the same file
again, what is there is not searched for again. The last line is over all that was run, or is in the file.

``--menu``: each layer in a menu of precisions at once, and in separate searches. ``--ablation``: with each device of
the search off, in turn. ``--provers``: each layer by enumeration and by CP-SAT, of which neither may find anything
below what the other one proved (all three: ``mapping_menus``). ``--cached``: time to take a mapped network from the
cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.mapping_menus import ablation, compare_menu, provers
from hw_configs import open_accelerator
from mapper.cache import MappingCache, problem_key
from mapper.network import network_precisions, simulate_network
from mapper.placement import map_network
from mapper.planned_steps import planned_machine
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.engine import simulate
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads import Network, open_network

HEADER = (f"{'network':22} {'machine':13} {'bits':6} {'objective':9} {'layers':>6} {'optimal':>7} {'largest gap':>11} "
          f"{'CPU s':>7} {'median':>7} {'95 %':>7}  scoring CPU s")


def warm_up(accelerator: Accelerator, precision: LayerPrecision, objective: Objective) -> None:
    """Compile, or load, every kernel."""
    layer = Layer(name="warm-up", dims={"K": 4, "C": 4, "P": 3, "Q": 3, "R": 3, "S": 3})
    map_layer(layer, precision, accelerator, objective, budget=SearchBudget(cpu_seconds=0.1))


def distinct_layers(network: Network, precision: LayerPrecision) -> list[tuple[Layer, LayerPrecision]]:
    """Layers of a network that are different problems, each with its precision."""
    precisions = network_precisions(network, {layer.name: precision for layer in network.layers})
    found = {
        (layer.model_copy(update={"name": ""}), precisions[layer.name]): layer for layer in reversed(network.layers)
    }
    return [(layer, own) for (_, own), layer in reversed(found.items())]


@dataclass(frozen=True)
class LayerTime:
    """What one search took, and how it ended. ``key`` is its problem's."""

    key: str
    network: str
    machine: str
    precision: str
    objective: str
    layer: str
    seconds: float
    gap: float
    proven: bool


class KeptTimes:
    """Times by key; with a file, those that are in it already too."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self.times = {one.key: one for one in (LayerTime(**json.loads(line)) for line in lines)}

    def add(self, time: LayerTime) -> None:
        """Keep one."""
        self.times[time.key] = time
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(time)) + "\n")


def summary(title: str, times: Sequence[LayerTime]) -> str:
    """One line of the table."""
    seconds = [one.seconds for one in times]
    return (f"{title} {len(times):6} {sum(one.proven for one in times):7} {100 * max(one.gap for one in times):9.3f} % "
            f"{sum(seconds):7.1f} {np.median(seconds):7.2f} {np.quantile(seconds, 0.95):7.2f}")


def layer_line(found: MappingSolution) -> str:
    """What was found for one layer."""
    return (f"    {found.layer.name:30} {found.layer.shape!s:36} {found.cost:.6g} {found.status} "
            f"gap {100 * found.gap:.3f} % in {found.solve_seconds:.2f} s: {found.mapping.describe()}")


def scoring_seconds(
    network: Network, precision: LayerPrecision, accelerator: Accelerator, found: Mapping[str, MappingSolution],
    key_of: Callable[[Layer, LayerPrecision], str],
) -> float:
    """CPU seconds in which ``fast`` simulates every layer of a mapped network, equal ones again and again."""
    precisions = network_precisions(network, {layer.name: precision for layer in network.layers})
    # Where values decide the time, the machine is the one that mappings are searched for on.
    mapped = [
        (layer, own, planned_machine(accelerator, own), found[key_of(layer, own)].mapping)
        for layer in network.layers for own in [precisions[layer.name]]
    ]
    simulate(*mapped[0])
    began = time.process_time()
    for one in mapped:
        simulate(*one)
    return time.process_time() - began


def cached_seconds(
    network: Network, precision: LayerPrecision, accelerator: Accelerator, objective: Objective, budget: SearchBudget
) -> str:
    """CPU seconds in which all mappings of a network come from the cache, and then its whole cost."""
    assignment = {layer.name: precision for layer in network.layers}
    with tempfile.TemporaryDirectory() as folder:
        cache = MappingCache(Path(folder))
        map_network(network, accelerator, assignment, objective, budget=budget, cache=cache, workers=1)
        began = time.process_time()
        solutions = map_network(network, accelerator, assignment, objective, budget=budget, cache=cache, workers=1)
        middle = time.process_time()
        simulate_network(network, accelerator, network_precisions(network, assignment), solutions)
        ended = time.process_time()
    return f"{len(network.layers)} mappings from the cache {middle - began:.3f} s, their cost {ended - middle:.3f} s"


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
    parser.add_argument("--first", type=int, default=None, help="so many distinct layers of each network")
    parser.add_argument("--out", type=Path, default=None, help="a file of JSON lines, to go on from")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--menu", default=None, help="precisions to map each layer in, at once and apart")
    asked.add_argument("--ablation", action="store_true", help="with each device of the search off")
    asked.add_argument("--provers", action="store_true", help="by enumeration and by CP-SAT, against each other")
    asked.add_argument("--cached", action="store_true", help="solve once, and take everything from the cache")
    options = parser.parse_args()
    budget = SearchBudget(
        cpu_seconds=options.seconds_per_layer, target_gap=options.gap, prover=options.prover
    )
    kept = KeptTimes(options.out)
    if not (options.menu or options.ablation or options.provers or options.cached):
        print(HEADER)
    for machine, text, objective in product(*(
        each.split(",") for each in (options.hardware, options.precisions, options.objectives)
    )):
        accelerator, precision = open_accelerator(machine), LayerPrecision.parse(text)
        warm_up(accelerator, precision, objective)
        for name in options.networks.split(","):
            title, network = f"{name:22} {machine:13} {text:6} {objective:9}", open_network(name)
            if options.cached:
                print(title, cached_seconds(network, precision, accelerator, objective, budget), flush=True)
                continue
            layers = distinct_layers(network, precision)[: options.first]
            if options.menu or options.ablation or options.provers:
                print(title)
                menu = [LayerPrecision.parse(each) for each in (options.menu or "").split(",") if each]
                plain = [layer for layer, _ in layers]
                for line in (
                    compare_menu(plain, menu, accelerator, objective, budget) if menu
                    else provers(layers, accelerator, objective, budget) if options.provers
                    else ablation(layers, accelerator, objective, budget)
                ):
                    print(line, flush=True)
                continue
            key_of = partial(problem_key, accelerator=accelerator, objective=objective, budget=budget)
            times, here = [], {}
            for layer, own in layers:
                key = key_of(layer, own)
                if key not in kept.times:
                    here[key] = found = map_layer(layer, own, accelerator, objective, budget=budget)
                    kept.add(LayerTime(key, name, machine, text, objective, layer.name, found.solve_seconds,
                                       found.gap, found.status == "optimal"))
                    if options.layers:
                        print(layer_line(found))
                times.append(kept.times[key])
            scoring = "-"
            if options.first is None and len(here) == len(layers):
                scoring = f"{scoring_seconds(network, precision, accelerator, here, key_of):.3f}"
            print(f"{summary(title, times)}  {scoring}", flush=True)
    if kept.times:
        print(summary(f"{'all that was run':53}", list(kept.times.values())))


if __name__ == "__main__":
    main()
