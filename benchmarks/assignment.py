"""How long precision assignment takes to be proven: many layers with many formats, and a transformer's sub-graphs.

    python -m benchmarks.assignment [--layers N] [--formats M] [--seeds K] [--plain]
                                     [--only knapsack|conversions|chain|llama]

Four kinds of problem, each with budgets on the harm at several shares of the way from the least to the most:

- ``knapsack``: layers without conversions, CNN-like, costs and harms drawn but related as precisions relate them;
- ``conversions``: the same with pairs of neighbours that convert, in chains that residual additions end;
- ``chain``: the same, every layer converting to the next;
- ``llama``: 32 blocks of LLaMA-3-8B (prompt of 2048 tokens), nine layers each, AMP's sub-graphs with two and three
  precisions; gain in the theoretical time of products on Bit Fusion; harms drawn.

A line a problem: status, gap, resolution of the sums, cost, its distance to the bound of the linear relaxation (which
is what rounding would leave open), and CPU seconds. ``--plain`` adds CP-SAT alone on the problem as given: no
reductions, no core. CPU seconds of one process with one worker, everything included that ``assign`` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from hw_configs import open_accelerator
from mapper.assignment import Assignment, Choice, Conversion, assign
from mapper.assignment_core import lagrange_multipliers, reduced_costs
from mapper.assignment_model import AssignmentProblem, Search
from mapper.assignment_options import QUANTITIES
from mapper.subgraph_assignment import gain_cost, subgraph_choices
from simulator.precision import LayerPrecision
from workloads.published_shapes import published_network
from workloads.stacked import stacked

Problem = tuple[dict[str, list[Choice]], tuple[Conversion, ...]]
SHARES = (0.0001, 0.001, 0.01, 0.1)
FORMATS = tuple((weight, activation) for activation in (8, 16) for weight in (2, 4, 8, 16))
CHAIN = 3  # Layers of a block in which each writes for the next.


def drawn(seed: int, layers: int, formats: int, *, chain: int = 1) -> Problem:
    """Layers whose cycles grow with both widths and whose harm falls fourfold a bit, each by its own factor.

    Multiply-accumulates are log-normal, cycles the larger of products and weight traffic, in whole cycles; harms are
    real numbers. In chains of ``chain`` layers a producer's cycles depend on the width that its consumer reads.
    """
    random = np.random.default_rng(seed)
    macs, sensitivity = random.lognormal(18, 1.5, layers), random.lognormal(0, 2, layers)
    widths = [FORMATS[i % len(FORMATS)] for i in range(formats)]
    choices = {
        f"layer{i}": [
            Choice(
                f"w{weight}a{activation}.{number}",
                cost=float(int(max(macs[i] * weight * activation / 2**15, macs[i] / 49 * weight / 64)
                               * random.uniform(1, 1.1)) + 500),
                harm=float(sensitivity[i] * (4.0**-weight + 4.0**-activation) * random.uniform(0.8, 1.2)),
                weight_bits=int(macs[i] / 49) * weight,
            )
            for number, (weight, activation) in enumerate(widths)
        ]
        for i in range(layers)
    }
    between = []
    for number, (producer, consumer) in enumerate(pairwise(choices)):
        if number % chain == chain - 1:
            continue
        # Cycles of writing: hidden behind the products, or not, so that the table is no sum of two parts.
        size = macs[number] / 576 / 64
        costs: dict[tuple[str, str], float] = {}
        for made, (weight, activation) in zip(choices[producer], widths, strict=True):
            for read, (_, wanted) in zip(choices[consumer], widths, strict=True):
                costs[made.label, read.label] = float(int(max(0.0, size * wanted - macs[number] * weight * activation
                                                              / 2**17)))
        between.append(Conversion((producer, consumer), costs))
    return choices, tuple(between)


def llama(seed: int, formats: Sequence[str]) -> Problem:
    """Sub-graphs of 32 blocks, in exactly computed costs; harms of a layer are a drawn factor times 4^-bits."""
    network = stacked(published_network("llama_3_8b_prefill"), 32, ["attention.add"])
    random = np.random.default_rng(seed)
    menu = {
        layer.name: [LayerPrecision.parse(text) for text in formats] for layer in network.layers
    }
    harms = {}
    for layer in network.layers:
        factor = random.lognormal(0, 1)
        for each in menu[layer.name]:
            harms[layer.name, each.label] = float(factor * (4.0**-each.weight.bits + 4.0**-each.input.bits))
    problem = subgraph_choices(
        network, menu, gain_cost("macs", accelerator=open_accelerator("bit_fusion")), harms
    )
    return problem.choices, problem.conversions


def harm_budget(choices: Mapping[str, Sequence[Choice]], share: float) -> float:
    """Budget at a share of the way from the least harm to the most."""
    least, most = (sum(f(each.harm for each in row) for row in choices.values()) for f in (min, max))
    return float(least + share * (most - least))


def relaxation_gap(choices: Mapping[str, Sequence[Choice]], budget: float, found: Assignment) -> float:
    """(Cost − bound of the linear relaxation) / cost."""
    problem = AssignmentProblem.of(choices, (), {"harm": budget})
    cost, harm = problem.scaled("cost"), problem.scaled("harm")
    room = problem.room("harm", harm)
    bound, _ = reduced_costs(cost.down, harm.down, room, lagrange_multipliers(cost.down, harm.down, room)[0])
    return 1 - float(cost.base + cost.unit * bound) / found.cost


def plain_cp_sat(problem: Problem, budget: float, seconds: float) -> tuple[str, float]:
    """Status and CPU seconds of CP-SAT on the problem as it is given."""
    began = time.process_time()
    model = AssignmentProblem.of(problem[0], (), {"harm": budget}, problem[1], reduce=False)
    scaled = {name: model.scaled(name) for name in QUANTITIES}
    _, complete, picks = Search(model, scaled).minimise("cost", None, time.perf_counter() + seconds, 1)
    status = "optimal" if complete else "feasible" if picks else "none"
    cost = "" if picks is None else f" {float(model.total('cost', picks)):.9g}"
    return status + cost, time.process_time() - began


def report(name: str, problem: Problem, *, plain: bool, seconds: float) -> None:
    """Print a line for each budget."""
    choices, conversions = problem
    for share in SHARES:
        budget = harm_budget(choices, share)
        began = time.process_time()
        found = assign(choices, minimise="cost", harm_budget=budget, conversions=conversions,
                       time_limit_seconds=seconds)
        spent = time.process_time() - began
        relaxed = "" if conversions else f"{relaxation_gap(choices, budget, found):10.2e}"
        line = (f"{name:28} {share:7.4f} {found.status:9} {found.gap:9.2e} {found.resolution:10.2e} "
                f"{found.cost:14.9g} {relaxed:>10} {spent:7.2f}")
        if plain:
            status, alone = plain_cp_sat(problem, budget, seconds)
            line += f"   {status} {alone:.2f}"
        print(line, flush=True)


def main() -> None:
    """Print one line a problem and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2000)
    parser.add_argument("--formats", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of a search")
    parser.add_argument("--plain", action="store_true", help="CP-SAT alone as well")
    parser.add_argument("--only", choices=("knapsack", "conversions", "chain", "llama"))
    options = parser.parse_args()
    print(f"{'problem':28} {'share':>7} {'status':9} {'gap':>9} {'resolution':>10} {'cost':>14} {'to LP':>10} "
          f"{'CPU s':>7}" + ("   CP-SAT alone, CPU s" if options.plain else ""))
    for seed in range(options.seeds):
        for kind, chain in (("knapsack", 1), ("conversions", CHAIN), ("chain", options.layers)):
            if options.only in (None, kind):
                problem = drawn(seed, options.layers, options.formats, chain=chain)
                name = f"{kind} {options.layers}x{options.formats} seed {seed}"
                report(name, problem, plain=options.plain, seconds=options.seconds)
        if options.only in (None, "llama"):
            for formats in (("w8a8", "w4a4"), ("w8a8", "w4a8", "w4a4")):
                report(f"llama {len(formats)} precisions seed {seed}", llama(seed, formats), plain=options.plain,
                       seconds=options.seconds)


if __name__ == "__main__":
    main()
