"""What a network's choices cost on a machine, alone and with their neighbours: the input of a precision assignment.

A layer writes its results in the widest format that the layers behind it read (``mapper.network.written_for``), so its
traffic, its waits and the energy of its output stage depend on their choices. With the tables made here, the cost of
an assignment is that of ``simulate_network``, but for the vector operations, which cost the same in every assignment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

from mapper.assignment_options import TABLE_ENTRIES, Choice, Conversion
from mapper.cache import MappingCache
from mapper.network import MappingJob, Progress, map_many, reading_layers, renamed, written_for
from mapper.placement import place_many
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.errors import ConfigurationError, Problem, closest
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.result import LayerResult
from simulator.tiled import Machine, TiledAccelerator
from workloads.network import Network

Menu = Mapping[str, Sequence[LayerPrecision]]
"""Layer → the precisions to choose from; one for a layer that is not assigned. Their labels must differ."""
Job = tuple[Layer, LayerPrecision]
CostOf = Callable[[Layer, LayerPrecision], float]
"""Cost of a layer in exactly this precision, its output's format included: ``MappedCosts.latency_cycles``, …"""


class MappedCosts:
    """Mappings of layers on one machine, found once for equal layers, and what they cost by simulation."""

    def __init__(
        self, accelerator: Machine, objective: Objective = "latency", *, budget: SearchBudget | None = None,
        cache: MappingCache | None = None, workers: int | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._objective: Objective = objective
        self._budget, self._cache, self._workers = budget, cache, workers
        self._solutions: dict[Job, MappingSolution] = {}

    def solve(self, jobs: Iterable[Job], progress: Progress | None = None) -> None:
        """Map what is not mapped yet; arguments and errors as of ``map_many`` (``place_many`` on several tiles)."""
        missing = [job for job in dict.fromkeys(map(_nameless, jobs)) if job not in self._solutions]
        named = [MappingJob(layer, precision) for layer, precision in missing]
        if isinstance(self._accelerator, TiledAccelerator):
            found = place_many(named, self._accelerator, self._objective, budget=self._budget, cache=self._cache,
                               workers=self._workers, progress=progress)
        else:
            found = map_many(named, self._accelerator, self._objective, budget=self._budget, cache=self._cache,
                             workers=self._workers, progress=progress)
        self._solutions |= dict(zip(missing, found, strict=True))

    def solution(self, layer: Layer, precision: LayerPrecision) -> MappingSolution:
        """Mapping of a layer, found now if it was not before."""
        job = _nameless((layer, precision))
        if job not in self._solutions:
            self.solve([job])
        return renamed(self._solutions[job], layer)

    def result(self, layer: Layer, precision: LayerPrecision) -> LayerResult:
        """Simulated cost of a layer under its mapping."""
        return self.solution(layer, precision).result

    def latency_cycles(self, layer: Layer, precision: LayerPrecision) -> float:
        """Cycles of a layer."""
        return float(self.result(layer, precision).total_cycles)

    def energy_pj(self, layer: Layer, precision: LayerPrecision) -> float:
        """Energy of a layer, all components."""
        return self.result(layer, precision).total_energy_pj


def cost_of(costs: MappedCosts, axis: Literal["latency", "energy"]) -> CostOf:
    """The cost on one axis: cycles or pJ."""
    return costs.latency_cycles if axis == "latency" else costs.energy_pj


def network_jobs(network: Network, menu: Menu) -> list[Job]:
    """Every layer in every precision that some assignment of the menu gives it, output formats included."""
    check_menu(network, menu)
    jobs = []
    for layer in network.layers:
        formats = _formats_read(network, layer, menu)
        jobs += [
            (layer, written_for(precision, readers)) for precision in menu[layer.name] for readers in formats
        ]
    return list(dict.fromkeys(jobs))


def network_choices(
    network: Network, menu: Menu, cost: CostOf, harms: Mapping[tuple[str, str], float]
) -> tuple[dict[str, list[Choice]], tuple[Conversion, ...]]:
    """Choices and conversions of a whole network, as ``assign`` takes them.

    Args:
        network: its graph says which layers write for which.
        menu: for each of its layers.
        cost: of a layer in a precision, in any unit.
        harms: (layer, label) → harm. A layer with one choice needs none; an infinite harm leaves a choice out.

    A choice's own cost is that with the first choice of every layer that reads it; conversions hold the exact
    differences to it, and a layer that no layer reads has none. Raises ``ConfigurationError`` for a menu or harms that
    do not fit the network.
    """
    check_menu(network, menu)
    menu = _without_infinite_harm(menu, harms)
    choices: dict[str, list[Choice]] = {}
    conversions = []
    for layer in network.layers:
        read_by = reading_layers(network, layer.name)
        first = [menu[name][0] for name in read_by]
        own = {each.label: cost(layer, written_for(each, first)) for each in menu[layer.name]}
        choices[layer.name] = [
            Choice(each.label, own[each.label], harms.get((layer.name, each.label), 0.0), weight_bits(layer, each))
            for each in menu[layer.name]
        ]
        if read_by:
            conversions.append(_conversion(layer, menu, read_by, own, cost))
    return choices, tuple(conversion for conversion in conversions if conversion.costs)


def weight_bits(layer: Layer, precision: LayerPrecision) -> int:
    """Bits of a layer's trained weights in a precision; 0 for a product of two activations."""
    if layer.weight_is_activation:
        return 0
    return layer.weight_count * precision.weight.bits


def check_menu(network: Network, menu: Menu) -> None:
    """Raise ``ConfigurationError`` where a menu does not have different labels for each layer, and for these alone."""
    names = [layer.name for layer in network.layers]
    problems = [
        Problem("no such layer", where=network.name, path=f"menu.{name}", did_you_mean=closest(name, names))
        for name in menu if name not in names
    ]
    for name in names:
        labels = [precision.label for precision in menu.get(name, ())]
        if not labels:
            problems.append(Problem("has no precision", where=network.name, path=f"menu.{name}"))
        if len(set(labels)) != len(labels):
            problems.append(Problem("labels must differ", where=network.name, path=f"menu.{name}", value=str(labels)))
    if problems:
        raise ConfigurationError(problems)


def _without_infinite_harm(menu: Menu, harms: Mapping[tuple[str, str], float]) -> Menu:
    problems = []
    kept: dict[str, list[LayerPrecision]] = {}
    for name, row in menu.items():
        missing = [each.label for each in row if (name, each.label) not in harms]
        if missing and len(row) > 1:
            problems.append(Problem("choices have no harm", path=f"harms.{name}", value=", ".join(missing)))
        kept[name] = [each for each in row if not math.isinf(harms.get((name, each.label), 0.0))]
        if not kept[name]:
            problems.append(Problem("every choice has infinite harm", path=f"harms.{name}"))
    if problems:
        raise ConfigurationError(problems)
    return kept


def _conversion(
    layer: Layer, menu: Menu, read_by: Sequence[str], own: Mapping[str, float], cost: CostOf
) -> Conversion:
    """What a layer's choices cost more, or less, than by themselves where its readers take other choices."""
    rows = [menu[name] for name in (layer.name, *read_by)]
    entries = math.prod(len(row) for row in rows)
    if entries > TABLE_ENTRIES:
        rule = f"is read by {len(read_by)} layers with {entries} combinations of choices; at most {TABLE_ENTRIES}"
        raise ConfigurationError(Problem(rule, path=f"layer {layer.name}"))
    costs: dict[tuple[str, ...], float | Fraction] = {}
    for written, *readers in itertools.product(*rows):
        more = Fraction(cost(layer, written_for(written, readers))) - Fraction(own[written.label])
        if more:
            costs[(written.label, *(reader.label for reader in readers))] = more
    return Conversion((layer.name, *read_by), costs)


def _formats_read(network: Network, layer: Layer, menu: Menu) -> list[list[LayerPrecision]]:
    """Readers, one for each format in which some assignment reads a layer's results; one of none where none reads."""
    rows = [menu[name] for name in reading_layers(network, layer.name)]
    if not rows:
        return [[]]
    # The widest of one choice a row: as wide as the widest of the rows' narrowest, or wider.
    narrowest = max(min(each.input.bits for each in row) for row in rows)
    formats = {each.input: each for row in rows for each in row if each.input.bits >= narrowest}
    return [[each] for each in formats.values()]


def _nameless(job: Job) -> Job:
    layer, precision = job
    return layer.model_copy(update={"name": ""}), precision
