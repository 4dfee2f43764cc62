"""What single layers are offered, and which must agree: a user's rules for every assignment that mixes precisions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bitmosaic.explorations.baseline_cost import pattern_fits
from bitmosaic.explorations.methods import MethodPlan
from simulator.errors import ConfigurationError, PrecisionError, Problem, closest
from simulator.precision import LayerPrecision
from workloads.network import Network

Harms = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class LayerRules:
    """Menus of single layers, and ties.

    Attributes:
        menus: layer → what it is offered, at least one, the widest first as a rule; a layer that is left out has the
            whole menu. Tied layers have the same one.
        tied: groups of layers, in each of which all have one precision; no layer is in two.
    """

    menus: Mapping[str, tuple[LayerPrecision, ...]] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()

    def of(self, layer: str, menu: Sequence[LayerPrecision]) -> tuple[LayerPrecision, ...]:
        """What a layer is offered of a menu."""
        return self.menus.get(layer, tuple(menu))

    def groups(self, layers: Iterable[str]) -> list[tuple[str, ...]]:
        """The layers in groups of one precision each: those that are tied, the others by themselves."""
        wanted = dict.fromkeys(layers)
        home = {layer: group for group in self.tied for layer in group}
        found = (tuple(each for each in home.get(layer, (layer,)) if each in wanted) for layer in wanted)
        return list(dict.fromkeys(found))

    def offers(self, menu: Sequence[LayerPrecision], harms: Harms) -> dict[str, tuple[LayerPrecision, ...]]:
        """Rated layer → its menu, less what made the network's outputs infinite in it or in a layer tied to it.

        The menu's first stays on offer in any case.
        """
        found = {}
        for group in self.groups(layer for layer, _ in harms):
            offered = self.of(group[0], menu)
            kept = tuple(
                each for number, each in enumerate(offered)
                if number == 0 or all(math.isfinite(harms.get((layer, each.label), math.inf)) for layer in group)
            )
            found.update(dict.fromkeys(group, kept))
        return found


def layer_rules(
    network: Network, plan: MethodPlan, kept: Mapping[str, LayerPrecision],
    layer_menus: Mapping[str, Sequence[str]], tied: Sequence[str],
) -> LayerRules:
    """The rules that a user gives by patterns of layers' names (``*``, ``?``, ``[…]``), checked against each other.

    Of ``layer_menus`` (pattern → precisions of the menu) the first that fits a layer counts. All layers that fit a
    pattern of ``tied`` have one precision; groups that share a layer are one. ``kept``: layer → its only precision.
    Trained layers without weights in the model are not rated: they have the first of their menu, and so have those
    tied to them. Raises ``ConfigurationError`` with all that is wrong.
    """
    names = [layer.name for layer in network.trained_layers]
    problems = []
    if plan.selection == "channels":
        given = {"layer_menus": ", ".join(layer_menus), "tied": ", ".join(tied)}
        problems = [
            Problem("contradicts the method flexiq, which lowers channels", path=path, value=value)
            for path, value in given.items() if value
        ]
    menus: dict[str, tuple[LayerPrecision, ...]] = {}
    for pattern, texts in layer_menus.items():
        offered, wrong = _read(pattern, texts, plan.menu)
        fitting = [name for name in names if pattern_fits(name, pattern)]
        problems += wrong + ([] if fitting else [_fits_none("layer_menus", pattern, names)])
        for name in fitting:
            menus.setdefault(name, offered)
    groups: list[list[str]] = []
    for pattern in tied:
        fitting = [name for name in names if pattern_fits(name, pattern)]
        if not fitting:
            problems.append(_fits_none("tied", pattern, names))
        elif len(fitting) == 1:
            problems.append(Problem(f"fits one layer alone, {fitting[0]}: it ties nothing", path="tied", value=pattern))
        together = [group for group in groups if set(group) & set(fitting)]
        groups = [group for group in groups if group not in together]
        groups.append([name for name in names if name in {*fitting, *(each for group in together for each in group)}])
    if problems:
        raise ConfigurationError(problems)
    for name, precision in kept.items():
        if precision not in menus.get(name, (precision,)):
            problems.append(Problem(f"is not in the menu of the layer {name} ({_labels(menus[name])})",
                                    path="keep_first_last", value=precision.label))
        menus[name] = (precision,)
    rated = rated_layers(network)
    for group in groups:
        common = [each for each in plan.menu if all(each in menus.get(name, plan.menu) for name in group)]
        if any(name not in rated for name in group):
            common = common[:1]
        if not common:
            said = "; ".join(f"{name}: {_labels(menus[name])}" for name in group if name in menus)
            problems.append(Problem(f"the layers have no precision in common ({said})", path="tied",
                                    value=", ".join(group)))
        if len(common) < len(plan.menu):
            menus.update(dict.fromkeys(group, tuple(common)))
    if problems:
        raise ConfigurationError(problems)
    return LayerRules(menus, tuple(map(tuple, groups)))


def rated_layers(network: Network) -> set[str]:
    """Layers with trained weights in the model: those that are rated."""
    return {name for name, binding in network.bindings.items() if binding.weight is not None}


def _read(
    pattern: str, texts: Sequence[str], menu: Sequence[LayerPrecision]
) -> tuple[tuple[LayerPrecision, ...], list[Problem]]:
    """The precisions of a layer's menu in the order of the whole one, and what is wrong with them."""
    path = f"layer_menus.{pattern}"
    problems = [] if texts else [Problem("must name at least one precision of the menu", path=path)]
    asked = []
    for text in texts:
        try:
            precision = LayerPrecision.parse(text)
        except PrecisionError as error:
            problems += error.problems
            continue
        if precision not in menu:
            labels = tuple(each.label for each in menu)
            problems.append(Problem("must be of the menu, which --menu widens", path=path, value=precision.label,
                                    allowed=labels, did_you_mean=closest(precision.label, labels)))
        asked.append(precision)
    return tuple(each for each in menu if each in asked), problems


def _fits_none(path: str, pattern: str, names: Sequence[str]) -> Problem:
    return Problem("fits no trained layer", path=path, value=pattern, did_you_mean=closest(pattern, names))


def _labels(menu: Iterable[LayerPrecision]) -> str:
    return ", ".join(each.label for each in menu)
