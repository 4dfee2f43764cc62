"""The proven optimum against brute force and an exact dynamic program, and what the arguments promise."""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mapper.assignment import Assignment, Choice, assign, assignment_front
from simulator.errors import BitmosaicError, InfeasibleError

WHOLE = st.integers(-20, 40).map(float)
REAL = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: value * math.pi)


def problems(values, max_layers=5):
    """Layers with one to four choices each, labelled by number."""
    choice = st.tuples(values, values, st.integers(0, 9))
    return st.lists(st.lists(choice, min_size=1, max_size=4), min_size=1, max_size=max_layers).map(
        lambda rows: {
            f"layer{i}": tuple(Choice(str(j), cost, harm, bits) for j, (cost, harm, bits) in enumerate(row))
            for i, row in enumerate(rows)
        }
    )


def all_assignments(choices):
    for picked in itertools.product(*choices.values()):
        yield (
            {layer: choice.label for layer, choice in zip(choices, picked, strict=True)},
            math.fsum(choice.cost for choice in picked),
            math.fsum(choice.harm for choice in picked),
            sum(choice.weight_bits for choice in picked),
        )


def check_sums(choices, found: Assignment):
    picked = [next(c for c in row if c.label == found.labels[layer]) for layer, row in choices.items()]
    assert found.cost == math.fsum(choice.cost for choice in picked)
    assert found.harm == math.fsum(choice.harm for choice in picked)
    assert found.weight_bits == sum(choice.weight_bits for choice in picked)


@given(problems(WHOLE), st.integers(-40, 80), st.none() | st.integers(0, 25), st.sampled_from(["cost", "harm"]))
def test_whole_numbers_equal_brute_force_exactly(choices, budget, weight_bits, minimise):
    other = "harm" if minimise == "cost" else "cost"
    feasible = [
        (cost, harm) if minimise == "cost" else (harm, cost)
        for _, cost, harm, bits in all_assignments(choices)
        if (harm if minimise == "cost" else cost) <= budget and (weight_bits is None or bits <= weight_bits)
    ]
    arguments = {"minimise": minimise, f"{other}_budget": float(budget), "weight_bits_budget": weight_bits}
    if not feasible:
        with pytest.raises(InfeasibleError, match="least"):
            assign(choices, **arguments)
        return
    found = assign(choices, **arguments)
    check_sums(choices, found)
    best = min(feasible)
    # Of equal optima it is the one with least of the other quantity.
    assert (getattr(found, minimise), getattr(found, other)) == best
    assert (found.status, found.lower_bound, found.gap, found.resolution) == ("optimal", best[0], 0.0, 0.0)


@given(problems(REAL), st.floats(0, 1))
def test_real_numbers_equal_brute_force_and_never_break_the_budget(choices, share):
    harms = [harm for _, _, harm, _ in all_assignments(choices)]
    budget = min(harms) + share * (max(harms) - min(harms))
    budget = min((harm for harm in harms if harm >= budget), default=max(harms))  # one that is met exactly
    best = min(cost for _, cost, harm, _ in all_assignments(choices) if harm <= budget)
    found = assign(choices, minimise="cost", harm_budget=budget)
    check_sums(choices, found)
    assert found.status == "optimal"
    assert found.harm <= budget
    assert best <= found.cost <= best + found.resolution
    assert found.lower_bound <= best
    assert found.resolution <= 1e-9


@given(problems(WHOLE, max_layers=4))
def test_the_whole_front_equals_brute_force(choices):
    pairs = {(cost, harm) for _, cost, harm, _ in all_assignments(choices)}
    expected = sorted(
        pair for pair in pairs
        if not any(a <= pair[0] and b <= pair[1] and (a, b) != pair for a, b in pairs)
    )
    front = assignment_front(choices)
    assert [(point.cost, point.harm) for point in front] == expected
    assert all(point.status == "optimal" for point in front)


# With the presolve of OR-Tools 9.15 as it comes, (2π, −π) was missing, and what stood for it called optimal.
PRESOLVE_LOST = {
    "layer0": (Choice("0", 0.0, 0.0), Choice("1", math.pi, -math.pi)),
    "layer1": (Choice("0", 0.0, 0.0), Choice("1", 2 * math.pi, -2 * math.pi)),
    "layer2": (
        Choice("0", 0.0, 349 * math.pi), Choice("1", math.pi, 0.0), Choice("2", -11 * math.pi, 350 * math.pi)
    ),
}


@given(problems(REAL, max_layers=3))
@example(PRESOLVE_LOST)
def test_the_whole_front_of_real_numbers_lies_on_the_true_one(choices):
    pairs = [(cost, harm) for _, cost, harm, _ in all_assignments(choices)]
    front = assignment_front(choices)
    assert front[0].cost == pytest.approx(min(cost for cost, _ in pairs), abs=1e-9)
    assert front[-1].harm == pytest.approx(min(harm for _, harm in pairs), abs=1e-9)
    for cost, harm in pairs:  # every assignment is matched or beaten, to the resolution
        assert any(point.cost <= cost + 1e-8 and point.harm <= harm + 1e-8 for point in front)
    for left, right in itertools.pairwise(front):
        assert left.cost < right.cost
        assert left.harm > right.harm


@given(st.data())
def test_larger_problems_equal_a_dynamic_program(data):
    layers = data.draw(st.integers(6, 14))
    numbers = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10**6)), min_size=2, max_size=6)
    rows = [data.draw(numbers) for _ in range(layers)]
    budget = data.draw(st.integers(sum(min(c for c, _ in row) for row in rows), 60 * layers))
    least = [0.0] + [math.inf] * budget
    for row in rows:
        step = [math.inf] * (budget + 1)
        for used, harm in enumerate(least):
            for cost, more in row if harm < math.inf else ():
                if used + cost <= budget:
                    step[used + cost] = min(step[used + cost], harm + more)
        least = step
    choices = {
        str(i): [Choice(str(j), float(cost), float(harm)) for j, (cost, harm) in enumerate(row)]
        for i, row in enumerate(rows)
    }
    found = assign(choices, minimise="harm", cost_budget=float(budget))
    assert (found.status, found.harm) == ("optimal", min(least))
    assert found.cost == least.index(min(least))


@given(problems(WHOLE), st.data())
def test_tied_layers_take_one_label(choices, data):
    layers = list(choices)
    tied = data.draw(st.lists(st.lists(st.sampled_from(layers), min_size=1, max_size=3), max_size=2))

    def agrees(labels):
        return all(len({labels[layer] for layer in group}) == 1 for group in tied)

    allowed = [(cost, harm) for labels, cost, harm, _ in all_assignments(choices) if agrees(labels)]
    found = assign(choices, minimise="cost", tied=tied)
    assert agrees(found.labels)
    assert (found.cost, found.harm) == min(allowed)


MENU = {
    f"layer{i}": [Choice(f"w{b}", cost=macs * b, harm=sensitivity * 4.0**-b, weight_bits=b) for b in (2, 4, 8)]
    for i, (macs, sensitivity) in enumerate([(10, 3.0), (40, 1.0), (7, 9.0), (22, 0.3), (5, 5.0)])
}


def test_points_are_spread_over_the_cost_and_include_both_ends():
    front = assignment_front(MENU, points=6)
    assert front[0].cost == sum(row[0].cost for row in MENU.values())
    assert front[-1].harm == math.fsum(row[2].harm for row in MENU.values())
    whole = {(point.cost, point.harm) for point in assignment_front(MENU)}
    assert {(point.cost, point.harm) for point in front} <= whole
    assert 2 <= len(front) <= 6
    assert all(left.harm > right.harm for left, right in itertools.pairwise(front))


def test_equal_arguments_give_equal_answers():
    hinted = assign(MENU, minimise="cost", harm_budget=0.2, hint=dict.fromkeys(MENU, "w8"))
    runs = [assign(MENU, minimise="cost", harm_budget=0.2) for _ in range(3)]
    assert all(run.labels == runs[0].labels for run in runs)
    assert hinted.cost == runs[0].cost


def test_an_impossible_budget_says_what_is_possible():
    with pytest.raises(InfeasibleError, match=r"harm_budget=0: the least harm that any assignment reaches is 0\.00027"):
        assign(MENU, minimise="cost", harm_budget=0.0)
    # Each budget can be kept alone, but not both.
    with pytest.raises(InfeasibleError) as caught:
        assign(MENU, minimise="cost", harm_budget=0.01, weight_bits_budget=12)
    assert "within the other budgets the least harm found is" in str(caught.value)
    assert "weight_bits_budget=12: within the other budgets the least weight_bits found is" in str(caught.value)


def test_a_budget_reached_exactly_is_kept():
    tenths = {str(i): [Choice("a", 1.0, 0.1), Choice("b", 0.0, 0.2)] for i in range(3)}
    # 0.1 + 0.1 + 0.1 is the float next above 0.3; as exact sums round, so the budget is judged.
    assert assign(tenths, minimise="cost", harm_budget=math.fsum([0.1] * 3)).cost == 3.0
    assert assign(tenths, minimise="cost", harm_budget=math.fsum([0.1, 0.1, 0.2])).cost == 2.0


MANY = {
    str(i): [
        Choice(str(j), math.sin(97 * i + j) + 1.0 + j, math.cos(31 * i + 7 * j) - j, (13 * i * j + 5 * j) % 11)
        for j in range(8)
    ] for i in range(400)
}
HARM = 0.6 * sum(min(choice.harm for choice in row) for row in MANY.values())


def test_out_of_time_is_told_and_the_gap_shown():
    """Two budgets that bind are for CP-SAT, which proves nothing in a thousandth of a second."""
    relaxed = assign(MANY, minimise="cost", harm_budget=HARM)
    bits = int(0.6 * relaxed.weight_bits)
    start = assign(MANY, minimise="harm", weight_bits_budget=bits)
    budgets = {"harm_budget": HARM, "weight_bits_budget": bits}
    found = assign(MANY, minimise="cost", **budgets, time_limit_seconds=1e-3, hint=start.labels)
    check_sums(MANY, found)
    assert found.status == "feasible"
    assert found.harm <= HARM and found.weight_bits <= bits
    # What one budget less costs is below any assignment that keeps both.
    assert found.lower_bound <= relaxed.cost < found.cost
    assert found.gap == (found.cost - found.lower_bound) / found.cost > 0.1
    with pytest.raises(BitmosaicError, match=r"time_limit_seconds=0\.001: no assignment found in this time"):
        assign(MANY, minimise="cost", **budgets, time_limit_seconds=1e-3)


def test_the_dynamic_program_is_not_cut_short():
    in_no_time = assign(MANY, minimise="cost", harm_budget=HARM, time_limit_seconds=1e-6)
    at_leisure = assign(MANY, minimise="cost", harm_budget=HARM)
    assert in_no_time.status == "optimal"
    assert (in_no_time.cost, in_no_time.lower_bound) == (at_leisure.cost, at_leisure.lower_bound)


@pytest.mark.parametrize(
    ("choices", "arguments", "message"),
    [
        ({}, {}, "at least one layer"),
        ({"a": []}, {}, "choices.a: has no choice"),
        ({"a": [Choice("x", 1, 1), Choice("x", 2, 0)]}, {}, "labels must differ"),
        ({"a": [Choice("x", math.nan, 1)]}, {}, r"choices\.a\.x\.cost=nan: must be finite"),
        ({"a": [Choice("x", 1, math.inf)]}, {}, r"choices\.a\.x\.harm=inf"),
        ({"a": [Choice("x", 1, 1)]}, {"tied": [["a", "b"]]}, "no such layer"),
        ({"a": [Choice("x", 1, 1)], "b": [Choice("y", 1, 1)]}, {"tied": [["a", "b"]]}, "no label in common"),
        ({"a": [Choice("x", 1, 1)]}, {"harm_budget": math.nan}, "harm_budget=nan"),
        ({"a": [Choice("x", 1, 1)]}, {"hint": {"a": "z"}}, r"hint\.a=z"),
        ({"a": [Choice("x", 1, 1)]}, {"minimise": "power"}, "nothing to minimise"),
    ],
)
def test_malformed_arguments(choices, arguments, message):
    with pytest.raises(BitmosaicError, match=message):
        assign(choices, **{"minimise": "cost", **arguments})


def test_a_front_too_long_to_list_is_refused():
    binary = {str(i): [Choice("a", float(2**i), 0.0), Choice("b", 0.0, float(2**i))] for i in range(6)}
    assert len(assignment_front(binary)) == 64
    with pytest.raises(BitmosaicError, match="max_points=10"):
        assignment_front(binary, max_points=10)
    with pytest.raises(BitmosaicError, match="points=1"):
        assignment_front(binary, points=1)
