"""Costs between neighbours: proven optima against brute force and a dynamic program on trees; fronts; memory."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper import assignment, assignment_options
from mapper.assignment import Assignment, Choice, Conversion, assign, assignment_front
from simulator.errors import BitmosaicError, InfeasibleError

WHOLE = st.integers(-20, 40).map(float)
LABELS = "abcd"


@pytest.fixture(autouse=True, params=["CP-SAT", "path", "joined"])
def _way(request, monkeypatch):
    """Every property holds with terms left to CP-SAT, along a path, and where groups that they join are one."""
    if request.param != "joined":
        monkeypatch.setattr(assignment_options, "JOINED_OPTIONS", 0)
    if request.param == "CP-SAT":
        monkeypatch.setattr(assignment, "path_optimum", lambda *_: None)


@st.composite
def problems(draw, most=4):
    """Two layers or more with one to four choices, and conversions between some pairs and triples of them."""
    choice = st.tuples(WHOLE, WHOLE, st.integers(0, 9))
    rows = [draw(st.lists(choice, min_size=1, max_size=4)) for _ in range(draw(st.integers(2, most)))]
    choices = {
        f"layer{i}": tuple(Choice(LABELS[j], cost, harm, bits) for j, (cost, harm, bits) in enumerate(row))
        for i, row in enumerate(rows)
    }
    between = st.lists(st.sampled_from(list(choices)), min_size=2, max_size=3, unique=True).map(tuple)
    conversions = []
    for names in draw(st.lists(between, max_size=4)):
        labels = st.tuples(*(st.sampled_from([choice.label for choice in choices[name]]) for name in names))
        conversions.append(Conversion(names, draw(st.dictionaries(labels, st.integers(-15, 25).map(float)))))
    return choices, conversions


def all_assignments(choices, conversions):
    for picked in itertools.product(*choices.values()):
        labels = {layer: choice.label for layer, choice in zip(choices, picked, strict=True)}
        between = [each.costs.get(tuple(labels[layer] for layer in each.layers), 0.0) for each in conversions]
        cost = math.fsum([*(choice.cost for choice in picked), *between])
        yield labels, cost, math.fsum(choice.harm for choice in picked), sum(choice.weight_bits for choice in picked)


def amounts(found: Assignment):
    return found.cost, found.harm, found.weight_bits


@given(problems(), st.integers(-20, 60), st.none() | st.integers(0, 25), st.sampled_from(["cost", "harm"]))
def test_whole_numbers_equal_brute_force_exactly(problem, budget, weight_bits, minimise):
    choices, conversions = problem
    other = "harm" if minimise == "cost" else "cost"
    every = {tuple(labels.values()): values for labels, *values in all_assignments(choices, conversions)}
    feasible = [
        (cost, harm) if minimise == "cost" else (harm, cost) for cost, harm, bits in every.values()
        if (harm if minimise == "cost" else cost) <= budget and (weight_bits is None or bits <= weight_bits)
    ]
    arguments = {
        "minimise": minimise, f"{other}_budget": float(budget), "weight_bits_budget": weight_bits,
        "conversions": conversions,
    }
    if not feasible:
        with pytest.raises(InfeasibleError, match="least"):
            assign(choices, **arguments)
        return
    found = assign(choices, **arguments)
    assert amounts(found) == tuple(every[tuple(found.labels.values())])
    best = min(feasible)
    assert (getattr(found, minimise), getattr(found, other)) == best
    assert (found.status, found.lower_bound, found.gap, found.resolution) == ("optimal", best[0], 0.0, 0.0)


@given(problems(), st.data())
def test_tied_layers_and_conversions_together(problem, data):
    choices, conversions = problem
    tied = data.draw(st.lists(st.lists(st.sampled_from(list(choices)), min_size=1, max_size=3), max_size=2))
    allowed = [
        (cost, harm) for labels, cost, harm, _ in all_assignments(choices, conversions)
        if all(len({labels[layer] for layer in group}) == 1 for group in tied)
    ]
    found = assign(choices, minimise="cost", tied=tied, conversions=conversions)
    assert (found.cost, found.harm) == min(allowed)


@given(problems(most=3), st.sampled_from(["cost", "weight_bits"]))
def test_the_whole_front_equals_brute_force(problem, against):
    choices, conversions = problem
    pairs = {
        (cost if against == "cost" else bits, harm) for _, cost, harm, bits in all_assignments(choices, conversions)
    }
    expected = sorted(
        pair for pair in pairs if not any(a <= pair[0] and b <= pair[1] and (a, b) != pair for a, b in pairs)
    )
    front = assignment_front(choices, conversions=conversions, against=against)
    assert [(getattr(point, against), point.harm) for point in front] == expected
    assert all(point.status == "optimal" for point in front)


@st.composite
def trees(draw):
    """A tree of layers: each but the first reads one before it; integer harms and a budget on their sum."""
    count = draw(st.integers(5, 12))
    row = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), min_size=2, max_size=4)
    rows = [draw(row) for _ in range(count)]
    parents = [draw(st.integers(max(0, i - 3), i - 1)) for i in range(1, count)]
    tables = [
        [[draw(st.integers(0, 30)) for _ in rows[i]] for _ in rows[parent]] for i, parent in enumerate(parents, start=1)
    ]
    least = sum(min(harm for _, harm in row) for row in rows)
    return rows, parents, tables, draw(st.integers(least, least + 30))


@given(trees())
def test_trees_equal_a_dynamic_program(tree):
    rows, parents, tables, budget = tree

    # best[i][j][h]: least cost of the subtree under i, with option j there and harm h in all of it.
    best = [[{harm: cost} for cost, harm in row] for row in rows]
    for i in range(len(rows) - 1, 0, -1):
        parent, table = parents[i - 1], tables[i - 1]
        for j, above in enumerate(best[parent]):
            merged = {}
            for k, below in enumerate(best[i]):
                for (h1, c1), (h2, c2) in itertools.product(above.items(), below.items()):
                    if h1 + h2 <= budget:
                        merged[h1 + h2] = min(merged.get(h1 + h2, math.inf), c1 + c2 + table[j][k])
            best[parent][j] = merged
    expected = min((cost, harm) for root in best[0] for harm, cost in root.items() if harm <= budget)

    choices = {
        str(i): [Choice(LABELS[j], float(cost), float(harm)) for j, (cost, harm) in enumerate(row)]
        for i, row in enumerate(rows)
    }
    conversions = [
        Conversion((str(parent), str(i)), {
            (LABELS[j], LABELS[k]): float(cost) for j, line in enumerate(table) for k, cost in enumerate(line)
        })
        for i, (parent, table) in enumerate(zip(parents, tables, strict=True), start=1)
    ]
    found = assign(choices, minimise="cost", harm_budget=float(budget), conversions=conversions)
    assert found.status == "optimal"
    assert (found.cost, found.harm) == expected


def test_fractions_and_real_numbers_are_exact():
    choices = {name: [Choice("x", 0.1, 1.0), Choice("y", 0.3, 0.0)] for name in ("a", "b")}
    third = Fraction(1, 3)
    conversions = [Conversion(("a", "b"), {("x", "y"): third, ("y", "x"): -third})]
    found = assign(choices, minimise="cost", harm_budget=1.0, conversions=conversions)
    assert found.labels == {"a": "y", "b": "x"}
    assert found.cost == float(Fraction(0.1) + Fraction(0.3) - third)


def test_memory_is_minimised_under_a_harm_budget():
    choices = {
        f"layer{i}": [Choice(f"w{b}", cost=macs * b, harm=4.0**-b * macs, weight_bits=b * macs) for b in (2, 4, 8)]
        for i, macs in enumerate((3, 5, 9))
    }
    every = list(all_assignments(choices, []))
    for budget in (0.1, 0.3, 1.0):
        found = assign(choices, minimise="weight_bits", harm_budget=budget)
        assert (found.weight_bits, found.harm) == min((bits, harm) for _, _, harm, bits in every if harm <= budget)
        assert (found.minimised, found.lower_bound, found.gap) == ("weight_bits", found.weight_bits, 0.0)


PAIR = {"a": [Choice("x", 1, 1)], "b": [Choice("x", 1, 1), Choice("y", 2, 0)]}


@pytest.mark.parametrize(
    ("conversion", "message"),
    [
        (Conversion(("a",), {}), r"conversions\[0\]\.layers=\('a',\): must be at least two layers"),
        (Conversion(("a", "a"), {}), "each once"),
        (Conversion(("a", "c"), {}), r"conversions\[0\]\.layers=c: no such layer"),
        (Conversion(("a", "b"), {("x", "z"): 1.0}), r"\('x', 'z'\): must be labels of choices"),
        (Conversion(("a", "b"), {("x",): 1.0}), r"\('x',\): must be labels of choices, one of each layer"),
        (Conversion(("a", "b"), {("x", "x"): math.inf}), "must be finite"),
    ],
)
def test_malformed_conversions(conversion, message):
    with pytest.raises(BitmosaicError, match=message):
        assign(PAIR, minimise="cost", conversions=[conversion])


def test_a_table_too_large_and_a_budget_along_the_front_are_refused():
    wide = {str(i): [Choice(str(j), j, -j) for j in range(41)] for i in range(3)}
    with pytest.raises(BitmosaicError, match="too many combinations of choices"):
        assign(wide, minimise="cost", conversions=[Conversion(("0", "1", "2"), {})])
    with pytest.raises(BitmosaicError, match="against='weight_bits': the front goes along it"):
        assignment_front(PAIR, against="weight_bits", weight_bits_budget=3)
    with pytest.raises(InfeasibleError, match="cost_budget=1: the least cost that any assignment reaches is 2"):
        assign(PAIR, minimise="harm", cost_budget=1.0, conversions=[Conversion(("a", "b"), {("x", "y"): 5.0})])
