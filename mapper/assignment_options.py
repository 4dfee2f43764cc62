"""What a precision assignment picks from: groups of layers that decide together, their options, and terms between them.

Tied layers are one group. A conversion costs by the labels of several layers; between groups it is a ``Term``. What
can be settled before the search is settled here, each time without losing an optimum: tables that are sums of one
part a layer go into the options, options that another one beats in every case are left out, and groups that are
joined by terms become one where they have few enough combinations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from mapper.pareto import pareto_front
from simulator.errors import BitmosaicError, Problem, closest

QUANTITIES = ("cost", "harm", "weight_bits")
JOINED_OPTIONS = 2**6  # Groups that a term joins become one where they have at most so many combinations.
TABLE_ENTRIES = 2**16

Number = Fraction | int
Table = dict[tuple[int, ...], Number]


@dataclass(frozen=True)
class Choice:
    """One way to run a layer: what it costs, what harm it does to the accuracy, what its weights take.

    ``cost`` and ``harm`` are in any unit, the same for all layers, and add up over layers; they may be negative.
    """

    label: str
    cost: float
    harm: float
    weight_bits: int = 0


@dataclass(frozen=True)
class Conversion:
    """What neighbouring layers' choices cost together, beyond what each costs by itself.

    Attributes:
        layers: the producer, then the consumers that read its result: at least two layers.
        costs: labels of these layers' choices, in the same order → cost; what is left out costs nothing.
            May be negative, and exact fractions.
    """

    layers: tuple[str, ...]
    costs: Mapping[tuple[str, ...], float | Fraction]


@dataclass(frozen=True)
class Option:
    """What a group of layers picks together: the label of each, in the group's order, and exact sums by quantity."""

    labels: tuple[str, ...]
    amounts: dict[str, Number]


@dataclass(frozen=True)
class Term:
    """A cost by the classes of some groups' options.

    Attributes:
        groups: numbers of the groups.
        classes: for each of them the class of each option; options of a class cost alike in this term.
        combinations: every combination of classes, one of each group.
        costs: of each combination.
    """

    groups: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]
    combinations: tuple[tuple[int, ...], ...]
    costs: tuple[Number, ...]

    def combination(self, picks: Sequence[int]) -> int:
        """Number of the combination that the options of all groups make."""
        return self.combinations.index(
            tuple(classes[picks[group]] for group, classes in zip(self.groups, self.classes, strict=True))
        )


@dataclass
class Groups:
    """Groups of layers, their options, and tables of what options of several groups cost together.

    ``tables``: numbers of groups, ascending → numbers of their options → cost.
    """

    members: list[list[str]]
    options: list[list[Option]]
    tables: dict[tuple[int, ...], Table] = field(default_factory=dict)

    @classmethod
    def of(
        cls, choices: Mapping[str, Sequence[Choice]], tied: Sequence[Sequence[str]], conversions: Sequence[Conversion]
    ) -> Groups:
        """Merge tied layers and lay the conversions on their groups. Raises ``BitmosaicError`` with every mistake."""
        problems = [*_choice_problems(choices), *_tied_problems(choices, tied)]
        problems += _conversion_problems(choices, conversions)
        if problems:
            raise BitmosaicError(problems)
        members = _merge_tied(choices, tied)
        groups = cls(members, [_group_options(choices, group) for group in members])
        place = {layer: (g, i) for g, group in enumerate(members) for i, layer in enumerate(group)}
        for conversion in conversions:
            groups._lay(conversion, [place[layer] for layer in conversion.layers])
        return groups

    def _lay(self, conversion: Conversion, places: Sequence[tuple[int, int]]) -> None:
        """Add a conversion to the table of the groups that it is between."""
        between = tuple(sorted({group for group, _ in places}))
        entries = math.prod(len(self.options[group]) for group in between)
        if entries > TABLE_ENTRIES:
            raise BitmosaicError(
                Problem("its layers have too many combinations of choices", path="conversions",
                        value=f"{entries} for {', '.join(conversion.layers)}", allowed=(f"at most {TABLE_ENTRIES}",))
            )
        table = self.tables.setdefault(between, {})
        axis = {group: number for number, group in enumerate(between)}
        for picked in itertools.product(*(range(len(self.options[group])) for group in between)):
            labels = tuple(self.options[group][picked[axis[group]]].labels[i] for group, i in places)
            cost = Fraction(conversion.costs.get(labels, 0))
            table[picked] = table[picked] + cost if picked in table else cost

    def reduced(self) -> Groups:
        """Return smaller groups of the same optima (module docstring)."""
        # Whole numbers of a common unit: the same sums and comparisons, some twenty times as fast as fractions.
        units = {name: self._denominator(name) for name in QUANTITIES}
        smaller = self._converted(lambda amount, name: amount.numerator * (units[name] // amount.denominator))
        smaller._fold()
        while smaller._drop_beaten():
            smaller._fold()
        return smaller._joined()._converted(lambda amount, name: Fraction(amount, units[name]))

    def _denominator(self, name: str) -> int:
        """Common denominator of all amounts of a quantity."""
        found = {option.amounts[name].denominator for row in self.options for option in row}
        if name == "cost":
            found |= {cost.denominator for table in self.tables.values() for cost in table.values()}
        return math.lcm(*found)

    def _converted(self, convert: Callable[[Number, str], Number]) -> Groups:
        """Return the groups with every amount of each quantity converted."""
        options = [
            [Option(each.labels, {name: convert(each.amounts[name], name) for name in QUANTITIES}) for each in row]
            for row in self.options
        ]
        tables = {
            between: {picked: convert(cost, "cost") for picked, cost in table.items()}
            for between, table in self.tables.items()
        }
        return Groups(self.members, options, tables)

    def terms(self) -> list[Term]:
        """Return the tables with their options put into classes."""
        found = []
        for between, table in self.tables.items():
            classes = tuple(_classes(table, axis, len(self.options[group])) for axis, group in enumerate(between))
            by_classes = {
                tuple(of[i] for of, i in zip(classes, picked, strict=True)): cost for picked, cost in table.items()
            }
            found.append(Term(between, classes, tuple(by_classes), tuple(by_classes.values())))
        return found

    def _fold(self) -> None:
        """Move what tables hold for single groups into these groups' options: sums of one part a group."""
        for between, table in list(self.tables.items()):
            corner = (0,) * len(between)
            parts = [
                [table[_replaced(corner, axis, i)] - table[corner] for i in range(len(self.options[group]))]
                for axis, group in enumerate(between)
            ]
            if any(
                table[picked] != table[corner] + sum(part[i] for part, i in zip(parts, picked, strict=True))
                for picked in table
            ):
                continue
            del self.tables[between]
            for axis, group in enumerate(between):
                more = table[corner] if axis == 0 else 0
                self.options[group] = [
                    Option(option.labels, {**option.amounts, "cost": option.amounts["cost"] + part + more})
                    for option, part in zip(self.options[group], parts[axis], strict=True)
                ]

    def _drop_beaten(self) -> bool:
        """Leave out options that another one of their group beats in every case; whether there were any."""
        dropped = False
        touching: dict[int, list[tuple[int, ...]]] = {}
        for between in self.tables:
            for group in between:
                touching.setdefault(group, []).append(between)
        for group, options in enumerate(self.options):
            kept = self._unbeaten(group, touching[group]) if group in touching else unbeaten(options)
            if len(kept) == len(options):
                continue
            dropped = True
            self.options[group] = [options[i] for i in kept]
            for between in touching.get(group, ()):
                axis = between.index(group)
                new = {old: number for number, old in enumerate(kept)}
                self.tables[between] = {
                    _replaced(picked, axis, new[picked[axis]]): cost
                    for picked, cost in self.tables[between].items() if picked[axis] in new
                }
        return dropped

    def _unbeaten(self, group: int, tables: Sequence[tuple[int, ...]]) -> list[int]:
        """Options of a group in tables that no other one beats whatever the other groups pick.

        That is so where the difference of their own amounts, and of each table the largest difference in any context,
        do not sum to more than 0: the criterion of Goldstein (Biophys. J. 66, 1994, 1335) for dead ends.
        """
        options = self.options[group]
        rows: list[list[list[Number]]] = [[] for _ in options]
        for between in tables:
            axis = between.index(group)
            slices = _slices(self.tables[between], axis, len(options))
            for i, values in enumerate(slices):
                rows[i].append(values)
        kept = list(range(len(options)))
        for loser in range(len(options)):
            for winner in kept:
                if winner == loser:
                    continue
                more = {name: options[winner].amounts[name] - options[loser].amounts[name] for name in QUANTITIES}
                if max(more["harm"], more["weight_bits"]) > 0:
                    continue
                more["cost"] += sum(
                    max(a - b for a, b in zip(mine, theirs, strict=True))
                    for mine, theirs in zip(rows[winner], rows[loser], strict=True)
                )
                if max(more.values()) <= 0 and (winner < loser or min(more.values()) < 0):
                    kept.remove(loser)
                    break
        return kept

    def _joined(self) -> Groups:
        """Return the groups with those that tables join made one, where these have few enough combinations."""
        part_of = list(range(len(self.members)))

        def part(group: int) -> int:
            while part_of[group] != group:
                group = part_of[group]
            return group

        for between in self.tables:
            for group in between[1:]:
                first, second = sorted((part(between[0]), part(group)))
                part_of[second] = first
        parts: dict[int, list[int]] = {}
        for group in range(len(self.members)):
            parts.setdefault(part(group), []).append(group)
        joined = Groups([], [])
        number: dict[int, int] = {}
        for together in parts.values():
            whole = math.prod(len(self.options[group]) for group in together) <= JOINED_OPTIONS
            for groups in [together] if whole else [[group] for group in together]:
                number |= {group: len(joined.members) for group in groups}
                joined.members.append([layer for group in groups for layer in self.members[group]])
                joined.options.append(self._combined(groups) if len(groups) > 1 else self.options[groups[0]])
        for between, table in self.tables.items():
            numbers = tuple(number[group] for group in between)
            if len(set(numbers)) > 1:
                order = sorted(range(len(numbers)), key=numbers.__getitem__)
                joined.tables[tuple(sorted(numbers))] = {
                    tuple(picked[i] for i in order): cost for picked, cost in table.items()
                }
        return joined

    def _combined(self, groups: Sequence[int]) -> list[Option]:
        """Every combination of some groups' options as one option, beaten ones left out."""
        inside = [
            ([groups.index(group) for group in between], table)
            for between, table in self.tables.items() if between[0] in groups
        ]
        options = []
        for picked in itertools.product(*(range(len(self.options[group])) for group in groups)):
            chosen = [self.options[group][i] for group, i in zip(groups, picked, strict=True)]
            amounts: dict[str, Number] = {name: sum(each.amounts[name] for each in chosen) for name in QUANTITIES}
            for axes, table in inside:
                amounts["cost"] += table[tuple(picked[axis] for axis in axes)]
            options.append(Option(tuple(label for each in chosen for label in each.labels), amounts))
        return [options[i] for i in unbeaten(options)]


def unbeaten(options: Sequence[Option | Choice]) -> list[int]:
    """Numbers of the options that no other one beats, in their order; of equal ones the first.

    One beats another if it is nowhere worse, in cost, harm and bits of weights, and somewhere better.
    """
    if len(options) == 1:
        return [0]
    columns = []
    for name in QUANTITIES:
        values = [each.amounts[name] if isinstance(each, Option) else getattr(each, name) for each in options]
        rank = {value: number for number, value in enumerate(sorted(set(values)))}
        columns.append([rank[value] for value in values])
    kept: list[int] = np.flatnonzero(pareto_front(np.array(columns).T)).tolist()
    return kept


def _replaced(picked: tuple[int, ...], axis: int, value: int) -> tuple[int, ...]:
    return (*picked[:axis], value, *picked[axis + 1 :])


def _slices(table: Table, axis: int, count: int) -> list[list[Number]]:
    """Costs of a table for each option on an axis, all in the same order of what the other groups pick."""
    found: list[list[Number]] = [[] for _ in range(count)]
    for picked in sorted(table):
        found[picked[axis]].append(table[picked])
    return found


def _classes(table: Table, axis: int, count: int) -> tuple[int, ...]:
    numbers: dict[tuple[Number, ...], int] = {}
    return tuple(numbers.setdefault(tuple(values), len(numbers)) for values in _slices(table, axis, count))


def _choice_problems(choices: Mapping[str, Sequence[Choice]]) -> list[Problem]:
    problems = [] if choices else [Problem("must name at least one layer", path="choices")]
    for layer, row in choices.items():
        labels = [choice.label for choice in row]
        if not row:
            problems.append(Problem("has no choice", path=f"choices.{layer}"))
        if len(set(labels)) != len(labels):
            problems.append(Problem("labels must differ", path=f"choices.{layer}", value=str(labels)))
        for choice in row:
            for name in QUANTITIES:
                value = getattr(choice, name)
                if not math.isfinite(value) or (name == "weight_bits" and value != int(value)):
                    rule = "must be a whole number" if name == "weight_bits" else "must be finite"
                    problems.append(Problem(rule, path=f"choices.{layer}.{choice.label}.{name}", value=str(value)))
    return problems


def _unknown(choices: Mapping[str, Sequence[Choice]], layers: Iterable[str], path: str) -> list[Problem]:
    return [
        Problem("no such layer", path=path, value=layer, did_you_mean=closest(layer, list(choices)))
        for layer in layers if layer not in choices
    ]


def _tied_problems(choices: Mapping[str, Sequence[Choice]], tied: Sequence[Sequence[str]]) -> list[Problem]:
    return [problem for group in tied for problem in _unknown(choices, group, "tied")]


def _conversion_problems(choices: Mapping[str, Sequence[Choice]], conversions: Sequence[Conversion]) -> list[Problem]:
    problems = []
    for number, conversion in enumerate(conversions):
        path = f"conversions[{number}]"
        problems += _unknown(choices, conversion.layers, f"{path}.layers")
        if len(set(conversion.layers)) != len(conversion.layers) or len(conversion.layers) < 2:
            problems.append(Problem("must be at least two layers, each once", path=f"{path}.layers",
                                    value=str(conversion.layers)))
        known = [{choice.label for choice in choices.get(layer, ())} for layer in conversion.layers]
        for labels, cost in conversion.costs.items():
            if len(labels) != len(known) or not all(a in b for a, b in zip(labels, known, strict=True)):
                problems.append(Problem("must be labels of choices, one of each layer", path=f"{path}.costs",
                                        value=str(labels)))
            if not math.isfinite(cost):
                problems.append(Problem("must be finite", path=f"{path}.costs[{labels}]", value=str(cost)))
    return problems


def _merge_tied(choices: Mapping[str, Sequence[Choice]], tied: Sequence[Sequence[str]]) -> list[list[str]]:
    """Groups of layers that take one label together; groups that share a layer are one."""
    group_of = {layer: [layer] for layer in choices}
    for members in tied:
        for layer in members[1:]:
            first, second = group_of[members[0]], group_of[layer]
            if first is not second:
                first += second
                for moved in second:
                    group_of[moved] = first
    groups = {id(group): group for group in group_of.values()}
    order = {layer: i for i, layer in enumerate(choices)}
    return [sorted(group, key=order.__getitem__) for group in groups.values()]


def _group_options(choices: Mapping[str, Sequence[Choice]], group: Sequence[str]) -> list[Option]:
    by_label = [{choice.label: choice for choice in choices[layer]} for layer in group]
    common = [label for label in by_label[0] if all(label in row for row in by_label)]
    if not common:
        raise BitmosaicError(Problem("tied layers have no label in common", path="tied", value=", ".join(group)))
    return [
        Option((label,) * len(group), {
            name: sum((Fraction(getattr(row[label], name)) for row in by_label), Fraction(0)) for name in QUANTITIES
        })
        for label in common
    ]
