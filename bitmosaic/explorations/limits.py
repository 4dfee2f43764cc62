"""What a user wants of the assignments beside their cost: layers that keep a precision, memory, accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bitmosaic.explorations.exploration import COST_UNITS, CostAxis, Exploration
from bitmosaic.explorations.layer_rules import LayerRules, rated_layers
from bitmosaic.explorations.methods import MethodPlan, no_weights_for
from bitmosaic.explorations.records import BITS_A_KIB
from simulator.errors import ConfigurationError, InfeasibleError, NetworkError, Problem
from simulator.precision import LayerPrecision
from workloads.network import Network

_LIMITS: dict[CostAxis, str] = {"latency": "latency_limit_ms", "energy": "energy_limit_uj"}


def limit_problems(limits: Mapping[str, float | None], accuracy_at_least: float | None) -> list[Problem]:
    """What is wrong with the numbers; ``limits``: name of each limit of a cost → its value."""
    problems = [
        Problem("must be above 0", path=path, value=str(most)) for path, most in limits.items()
        if most is not None and not most > 0
    ]
    if accuracy_at_least is not None and not 0 <= accuracy_at_least <= 1:
        problems.append(Problem("must be between 0 and 1", path="accuracy_at_least", value=str(accuracy_at_least)))
    return problems


def check_cost_only(network: Network, asked: Mapping[str, object]) -> None:
    """Refuse what needs trained weights and data, for a network that has a cost only.

    ``asked``: option → value; None, False and what leaves the choice open (``auto``, ``own``) ask for nothing. Raises
    ``NetworkError`` with every one that does.
    """
    has_weights = network.model is not None
    problems = []
    for path, value in asked.items():
        if value is None or value is False or value in ("auto", "own"):
            continue
        if path == "method" and has_weights:
            rule = f"has no data, on which the method {value} calibrates and measures: give --inputs"
            problems.append(Problem(rule, where=network.name))
        elif path == "method":
            problems.append(no_weights_for(network, str(value)))
        elif path == "inputs":
            problems.append(Problem("has no trained weights to run inputs on: leave inputs out", where=network.name))
        elif path == "accuracy_at_least":
            rule = "needs an accuracy, and there are no trained weights or no data to measure it on: give --inputs"
            problems.append(Problem(rule, where=network.name, path=path))
        else:
            rule = (
                "needs data to rate and to measure on, and there are none: give --inputs" if has_weights
                else "needs trained weights, and there are none: there is a cost only"
            )
            problems.append(Problem(rule, where=network.name, path=path, value=str(value)))
    if problems:
        raise NetworkError(problems)


def kept_layers(network: Network, plan: MethodPlan, keep_first_last: str | None) -> dict[str, LayerPrecision]:
    """The first and the last trained layer with the precision that they keep; empty where nothing is asked for.

    Raises ``ConfigurationError`` for a precision that the menu does not have, or a method that splits layers.
    """
    if keep_first_last is None:
        return {}
    if plan.selection == "channels":
        raise ConfigurationError(
            Problem("contradicts the method flexiq, which lowers channels", path="keep_first_last",
                    value=keep_first_last)
        )
    by_label = {precision.label: precision for precision in plan.menu}
    label = LayerPrecision.parse(keep_first_last).label
    if label not in by_label:
        raise ConfigurationError(
            Problem("must be one of the menu", path="keep_first_last", value=label, allowed=tuple(by_label))
        )
    layers = network.trained_layers
    return {layer.name: by_label[label] for layer in (layers[0], layers[-1])} if layers else {}


def check_memory(network: Network, plan: MethodPlan, rules: LayerRules, limit_kib: float) -> None:
    """Raise ``InfeasibleError`` where no assignment from the menu fits into so many KiB of weights, nothing rated yet.

    Layers without trained weights in the model have the first of their menu.
    """
    least, rated = 0, rated_layers(network)
    for layer in network.trained_layers:
        offered = rules.of(layer.name, plan.menu)
        if layer.name not in rated:
            offered = offered[:1]
        least += layer.weight_count * min(precision.weight.bits for precision in offered)
    if least > limit_kib * BITS_A_KIB:
        raise no_memory(network, least, limit_kib)


def no_memory(network: Network, least_bits: int, limit_kib: float) -> InfeasibleError:
    """The error of a limit that nothing fits into, with the least that would do, rounded up to what it takes."""
    least = math.ceil(least_bits / BITS_A_KIB * 1000) / 1000
    return InfeasibleError(
        Problem(f"no assignment fits: the least that the weights can take is {least:,.3f} KiB", where=network.name,
                path="weight_memory_limit_kib", value=f"{limit_kib:g} KiB")
    )


def check_reached(exploration: Exploration) -> None:
    """Raise ``InfeasibleError`` with the best there is where no point keeps the limits of latency and energy, or no
    allowed one has the accuracy that was asked for."""
    _check_costs(exploration)
    wanted = exploration.settings.accuracy_at_least
    best = exploration.chosen()
    if wanted is None or best is None or best.record.accuracy is None:
        return
    if best.record.accuracy.value < wanted - 1e-12 or not exploration.is_allowed(best):
        rule = "no allowed point reaches it; "
        allowed = [point for point in exploration.points if exploration.is_allowed(point)]
        rule += f"the best is {best.label} with {best.record.accuracy_percent:.2f} %" if allowed else "none is allowed"
        raise InfeasibleError(
            Problem(f"{rule}. Everything that was found is in {exploration.folder}", where=exploration.settings.network,
                    path="accuracy_at_least", value=f"{100 * wanted:g} %")
        )


def _check_costs(exploration: Exploration) -> None:
    if any(map(exploration.is_allowed, exploration.points)):
        return
    problems = []
    for axis, most in exploration.settings.cost_limits.items():
        least = min((point.cost(axis) for point in exploration.points), default=math.nan)
        rule = (f"no allowed point keeps it; the least of any point is {least:.6g} {COST_UNITS[axis]}. Everything that "
                f"was found is in {exploration.folder}")
        problems.append(Problem(rule, where=exploration.settings.network, path=_LIMITS[axis],
                                value=f"{most:g} {COST_UNITS[axis]}"))
    if problems:
        raise InfeasibleError(problems)
