"""Where assignments come from: the ways in which methods turn ratings of layers into proposals to be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.assignment_proof import AssignmentProof
from bitmosaic.explorations.exploration import CostAxis
from bitmosaic.explorations.flexiq_book import NARROW, WIDE, FlexiqBook
from bitmosaic.explorations.methods import MethodPlan
from bitmosaic.explorations.network_points import NetworkPoints, Proposal
from bitmosaic.explorations.program_front import program_front
from bitmosaic.explorations.records import Origin, PointCount
from bitmosaic.explorations.subgraph_program import least_harm_by_subgraphs
from simulator.precision import LayerPrecision
from workloads.entropy import Kind, LayerEntropy, select

# Of all trained weights, that the orders of layers lower.
SHARES = (0.25, 0.5, 0.75)
AXES: tuple[CostAxis, ...] = ("latency", "energy")


def propose(
    run: NetworkPoints, book: AccuracyBook, plan: MethodPlan, points: PointCount, minimise: CostAxis = "latency"
) -> list[Proposal]:
    """What a plan proposes beside the uniform baselines, which are mapped; each assignment once.

    To minimise the memory of the weights, the front of harm and memory too.
    """
    if plan.selection == "channels":
        assert isinstance(run.accuracy, FlexiqBook)
        found = by_ratio(run, run.accuracy)
    else:
        harms = book.harms(plan.menu, plan.sensitivity, run.progress, plan.seada)
        by = in_sequence if plan.selection == "subgraphs" else least_harm
        found = by(run, plan.menu, harms, points)
        if minimise == "memory":
            # Conversions take no memory: one program for all.
            found += least_harm(run, plan.menu, harms, points, ("memory",))
    if plan.selection == "entropy":
        kind: Kind = "value" if plan.sensitivity == "value_entropy" else "bit"
        found += by_threshold(run, plan.menu, book.entropies(plan.seada), kind, points)
    distinct: dict[str, Proposal] = {}
    for proposal in found:
        if run.weight_bits_limit is not None and run.weight_bits(proposal.assignment) > run.weight_bits_limit:
            continue
        distinct.setdefault(run.key(proposal.assignment), proposal)
    return list(distinct.values())


def least_harm(
    run: NetworkPoints, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], points: PointCount,
    axes: Sequence[CostAxis] = AXES,
) -> list[Proposal]:
    """Least total harm under budgets, ``points`` on the front along each axis (``all``: all of it), by integer program;
    equal ones once."""
    by_label = {precision.label: precision for precision in menu}
    found: dict[tuple[tuple[str, str], ...], tuple[CostAxis, AssignmentProof]] = {}
    for axis in axes:
        choices = run.choices(menu, harms, axis)
        for assignment in program_front(run, axis, choices, points):
            found.setdefault(tuple(assignment.labels.items()), (axis, AssignmentProof.of(assignment)))
    return [
        Proposal(run.mixed({layer: by_label[label] for layer, label in labels}), axis, proof=proof)
        for labels, (axis, proof) in found.items()
    ]


def in_sequence(
    run: NetworkPoints, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], points: PointCount
) -> list[Proposal]:
    """Least total harm under budgets by AMP's program: sequential sub-graphs, with the conversions between layers."""
    return [
        Proposal(run.mixed(each.precisions), each.axis, proof=each.proof)
        for each in least_harm_by_subgraphs(run, menu, harms, points)
    ]


def by_threshold(
    run: NetworkPoints, menu: Sequence[LayerPrecision], entropies: Mapping[str, LayerEntropy], kind: Kind,
    points: PointCount,
) -> list[Proposal]:
    """SEADA's threshold rule: every layer the narrowest precision with at least θ·H bits, for up to ``points`` θ.

    Tied layers have the narrowest that suffices for all of them. The choice can change only where θ is bits / H of some
    operand. Of the distinct choices ``points`` are taken, evenly by rank, both ends among them, each with the smallest
    such θ that gives it.
    """
    steps = sorted({
        format.bits / operand.of(kind)
        for entropy in entropies.values() for precision in menu
        for operand, format in ((entropy.weight, precision.weight), (entropy.input, precision.input))
        if operand is not None and operand.of(kind) > 0
    })
    distinct: list[tuple[float, dict[str, LayerPrecision]]] = []
    groups = {group: _widest([entropies[layer] for layer in group], kind) for group in run.rules.groups(entropies)}
    for threshold in steps:
        chosen: dict[str, LayerPrecision] = {}
        for group, entropy in groups.items():
            found = select({group[0]: entropy}, run.rules.of(group[0], menu), threshold=threshold, kind=kind)
            chosen |= dict.fromkeys(group, found[group[0]])
        if not distinct or chosen != distinct[-1][1]:
            distinct.append((threshold, chosen))
    if points != "all" and len(distinct) > points:
        distinct = [distinct[round(place * (len(distinct) - 1) / (points - 1))] for place in range(points)]
    return [Proposal(run.mixed(chosen), "threshold", value=threshold) for threshold, chosen in distinct]


def _widest(entropies: Sequence[LayerEntropy], kind: Kind) -> LayerEntropy:
    """Of each operand that of most entropy: what suffices for it suffices for all layers of a group."""
    inputs = [entropy.input for entropy in entropies if entropy.input is not None]
    weight = max((entropy.weight for entropy in entropies), key=lambda operand: operand.of(kind))
    return LayerEntropy(weight, max(inputs, key=lambda operand: operand.of(kind), default=None))


def in_order(
    run: NetworkPoints, menu: Sequence[LayerPrecision], layers: Sequence[str], origin: Origin
) -> list[Proposal]:
    """Layers in an order, lowered until they hold a quarter, a half and three quarters of the trained weights.

    To each precision of the menu behind the baseline in turn; the other layers stay in the baseline.
    """
    counts = {layer.name: layer.weight_count for layer in run.network.trained_layers}
    found = []
    for precision in menu[1:]:
        for share in SHARES:
            chosen: dict[str, LayerPrecision] = {}
            held = 0
            for layer in layers:
                if held >= share * sum(counts.values()):
                    break
                chosen[layer] = precision
                held += counts[layer]
            found.append(Proposal(run.mixed(chosen), origin, value=share))
    return found


def largest_first(run: NetworkPoints, menu: Sequence[LayerPrecision]) -> list[Proposal]:
    """``in_order``, layers of most weights first."""
    layers = sorted(run.network.trained_layers, key=lambda layer: -layer.weight_count)
    return in_order(run, menu, [layer.name for layer in layers], "largest first")


def at_random(run: NetworkPoints, menu: Sequence[LayerPrecision], seed: int) -> list[Proposal]:
    """``in_order``, layers in a random order."""
    layers = [layer.name for layer in run.network.trained_layers]
    order = np.random.default_rng(seed).permutation(len(layers))
    return in_order(run, menu, [layers[place] for place in order], "random")


def by_ratio(run: NetworkPoints, book: FlexiqBook) -> list[Proposal]:
    """FlexiQ: the channels that are narrow at each ratio; a channel's gain is its share of the cycles that its layer
    saves when all of it is narrow."""
    wide, narrow = run.uniform(WIDE), run.uniform(NARROW)
    run.mappings.solve([*run.jobs(wide), *run.jobs(narrow)], run.progress)

    def cycles(assignment: Mapping[str, LayerPrecision]) -> dict[str, int]:
        return {
            layer.name: run.mappings.solution(layer, precision).result.total_cycles
            for layer, precision in run.jobs(assignment)
        }

    before, after = cycles(wide), cycles(narrow)
    saved = {layer: float(before[layer] - after[layer]) for layer in before}
    return [
        Proposal(run.mixed(precisions), "ratio", value=ratio, selection=book.selection_key(saved))
        for ratio, precisions in book.select(saved)
    ]
