"""A few rows of other people's results, kept with the project for the claims made of them; each file says whose.

``python -m benchmarks.reference`` compares the whole sets, where they are at hand.
"""

import csv
from pathlib import Path

import pytest

from benchmarks.reference import hawqv3, rtl, scalesim
from benchmarks.reference.comparison import compare
from mapper.assignment import assign

HERE = Path(__file__).parent
EVALUATED = {
    "scalesim.csv": scalesim.evaluate,
    "rtl_fused_mac.csv": rtl.fused_mac,
    "rtl_serial_1d.csv": rtl.serial_weights,
    "rtl_serial_2d.csv": rtl.serial_both,
    "rtl_stripes_16_lanes.csv": rtl.stripes_lanes,
    "rtl_systolic_fold.csv": rtl.systolic_fold,
}


def golden(name: str) -> list[dict[str, str]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# "), f"{name}: says nothing of where it comes from"
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("name", EVALUATED)
def test_golden_rows_are_exact(name):
    comparison = compare(golden(name), EVALUATED[name])
    assert comparison.is_exact, comparison.mismatches


def test_hawqv3_resnet18_optima_are_exact_and_proven():
    inputs = golden("hawqv3_resnet18_inputs.csv")
    comparison = compare(golden("hawqv3_resnet18_optima.csv"), hawqv3.optimum(inputs))
    assert comparison.is_exact, comparison.mismatches
    assert comparison.total == 9


def test_greedy_misses_the_optimum_of_hawqv3_resnet18_bit_operations():
    """Half-way between 4 and 8 bits, greedy (least harm a saved bit operation first) leaves 0.7 % on the table.

    Harm is Σ trace · ‖ΔW‖² over all layers.
    """
    inputs = golden("hawqv3_resnet18_inputs.csv")
    tied = hawqv3.TIED["resnet18"]
    relative = hawqv3.choices_of(inputs, "resnet18", "bops")
    in_4_bits = sum(float(row["hutchinson_trace_per_param"]) * float(row["dW2_int4"]) for row in inputs)
    budget = hawqv3.limit_of(relative, 0.5)
    optimum = in_4_bits + assign(relative, minimise="harm", cost_budget=budget, tied=tied).harm

    groups = [[layer] for layer in relative if not any(layer in group for group in tied)] + [list(g) for g in tied]
    gain = [-sum(relative[layer][0].harm for layer in group) for group in groups]
    saved = [sum(relative[layer][0].cost - relative[layer][1].cost for layer in group) for group in groups]
    cost, greedy = sum(row[0].cost for row in relative.values()), in_4_bits - sum(gain)
    for i in sorted(range(len(groups)), key=lambda i: gain[i] / saved[i]):
        if cost > budget:
            cost, greedy = cost - saved[i], greedy + gain[i]
    assert (round(greedy, 6), round(optimum, 6)) == (0.217223, 0.215689)
