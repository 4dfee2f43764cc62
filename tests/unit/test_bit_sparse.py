"""What ``bit_sparse`` sends, counted by hand and by the digits of numbers written out; and how it reaches the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.explorations.baseline_cost import uniform_run
from hw_configs import open_accelerator
from mapper.planned_steps import planned_machine, planned_step_cycles
from mapper.search import map_layer
from mapper.solution import SearchBudget
from simulator.engine import simulate
from simulator.errors import ConfigurationError
from simulator.formats import Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSparseElement
from workloads.layer_values import statistical_values

W8A8 = LayerPrecision.parse("w8a8")
QUICK = SearchBudget(cpu_seconds=0.05, target_gap=0.9)


def element(skipping: str, **changes: Any) -> BitSparseElement:
    fields: dict[str, Any] = {
        "energy_pj_per_cycle": 1.0, "serial_operands": ("input",), "skipped_operands": ("input",),
        "skipping": skipping, "lane_count": 4,
    }
    return BitSparseElement(**(fields | changes))


def cycles(unit: BitSparseElement, inputs: list[int], precision: LayerPrecision = W8A8) -> int:
    row = np.array([inputs + [0] * (unit.lane_count - len(inputs))])
    return unit.grid_step_cycles(np.ones_like(row), row, precision)


def written(code: int, bits: int = 8) -> str:
    """The two's complement, as text."""
    return format(code % (1 << bits), f"0{bits}b")


@pytest.mark.parametrize("code", range(-128, 128))
def test_one_value_sends_the_digits_that_it_is_written_with(code: int) -> None:
    text, magnitude = written(code), format(abs(code), "b")
    assert cycles(element("zero_bits"), [code]) == max(1, text.count("1"))
    assert cycles(element("zero_bits", encoding="sign_magnitude"), [code]) == max(1, magnitude.count("1"))
    signed = element("zero_bits", encoding="sign_magnitude", sign_cycles=1)
    assert cycles(signed, [code]) == max(1, f"{code:b}".count("1") + f"{code:b}".count("-"))
    # The shortest text that still says the number: leading copies of the sign digit left out.
    shortest = text.lstrip(text[0])
    assert cycles(element("leading_bits"), [code]) == len(shortest) + 1
    assert cycles(element("leading_bits", encoding="sign_magnitude"), [code]) == max(1, len(magnitude))


@pytest.mark.parametrize(
    ("inputs", "bits", "columns", "leading"),
    [
        ([0b0101, 0b1010, 0, 0], 2, 4, 5),  # no lane has more than two bits, together they fill four places
        ([0b0100, 0b0100, 0b0110, 0b0010], 2, 2, 4),
        ([64, 1, 1, 1], 1, 2, 8),
        ([0, 0, 0, 0], 1, 1, 1),
        ([127, 0, 0, 0], 7, 7, 8),
        ([-1, 0, 0, 0], 8, 8, 1),
    ],
)
def test_groups_by_hand(inputs: list[int], bits: int, columns: int, leading: int) -> None:
    assert cycles(element("zero_bits"), inputs) == bits
    assert cycles(element("zero_columns"), inputs) == columns
    assert cycles(element("leading_bits"), inputs) == leading


@pytest.mark.parametrize(
    ("inputs", "by_stage"),
    [
        # Reach of one place: every place in which a lane has a bit is a turn of its own.
        ([0b1, 0b1000, 0b10000000 - 1, 0], {0: 7, 1: 7, 2: 7}),
        ([0b00000001, 0b00010000, 0b00100000, 0b01000000], {0: 4, 1: 3, 2: 2, 3: 1}),
        # Turn 1: places 0 and 2 (3 places reach from 0). Turn 2: lowest left is 4, 7 lies within its reach.
        ([0b00010001, 0b10000100 - 128, 0b01000000, 0], {2: 2}),
        ([0, 0, 0, 0], {0: 1, 2: 1}),
    ],
)
def test_two_stage_shifting_by_hand(inputs: list[int], by_stage: dict[int, int]) -> None:
    for stage, expected in by_stage.items():
        assert cycles(element("zero_bits", first_stage_bits=stage), [code % 128 for code in inputs]) == expected


def test_groups_are_neighbours_and_the_slowest_decides() -> None:
    inputs = [0b0001, 0b0010, 0b0100, 0b1000]
    assert [cycles(element("zero_columns", group_size=size), inputs) for size in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert cycles(element("zero_columns", group_size=2), [0b0011, 0, 0b0111, 0]) == 3


def test_both_operands_meet_bit_by_bit() -> None:
    both = {"serial_operands": ("weight", "input"), "skipped_operands": ("weight", "input")}
    weights, inputs = np.array([[0b0111, 0b0001, 0, 0]]), np.array([[0b0001, 0b0011, 0b1111, 0]])
    assert element("zero_bits", **both).grid_step_cycles(weights, inputs, W8A8) == 3
    assert element("zero_columns", **both).grid_step_cycles(weights, inputs, W8A8) == 3 * 4
    loom = element("leading_bits", serial_operands=("weight", "input"))
    assert loom.grid_step_cycles(weights, inputs, LayerPrecision.parse("w4a8")) == 4 * 5


def test_the_grid_waits_for_its_slowest_element() -> None:
    rows = np.array([[0b1, 0, 0, 0], [0b111, 0, 0, 0], [0, 0, 0, 0]])
    unit = element("zero_bits", overlapped_cycles=1)
    assert unit.grid_step_cycles(np.ones_like(rows), rows, W8A8) == 2
    assert element("zero_bits", min_step_cycles=5).grid_step_cycles(rows, rows, W8A8) == 5


@pytest.mark.parametrize(
    ("skipping", "changes", "rule"),
    [
        ("zero_bits", {"skipped_operands": ("weight",)}, "skipped only of what arrives serially"),
        ("zero_bits", {"sign_cycles": 1}, "only sign_magnitude has a sign apart"),
        ("zero_columns", {"first_stage_bits": 2}, "only zero_bits shifts in two stages"),
        ("zero_bits", {"first_stage_bits": 2, "sign_cycles": 1, "encoding": "sign_magnitude"}, "a sign is not shifted"),
        ("zero_bits", {"serial_operands": ("input", "input")}, "must not repeat"),
        ("zero_bits", {"min_step_cycles": 0}, "greater than or equal to 1"),
    ],
)
def test_elements_that_make_no_sense_are_refused(skipping: str, changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        element(skipping, **changes)


# The way to the user ----------------------------------------------------------------------------------------------


def test_fast_says_that_it_needs_values_and_bound_does_not() -> None:
    machine, layer = open_accelerator("bitwave_like"), Layer(name="fc", dims={"K": 64, "C": 64, "P": 4})
    solution = map_layer(layer, W8A8, machine, budget=QUICK)
    with pytest.raises(ConfigurationError, match=r"layer fc: bitwave_like: the time .* depends on values"):
        simulate(layer, W8A8, machine, solution.mapping)
    below = simulate(layer, W8A8, machine, solution.mapping, engine="bound")
    result = simulate(layer, W8A8, machine, solution.mapping, values=statistical_values(layer, W8A8))
    assert below.total_cycles <= result.total_cycles and solution.result.total_cycles == solution.cost
    assert solution.result.mean_step_cycles == planned_step_cycles(machine, W8A8) == 7
    assert (result.value_source, solution.result.value_source, below.value_source) == ("statistical", None, None)


def test_a_machine_that_does_not_look_at_values_ignores_them() -> None:
    machine, layer = open_accelerator("stripes"), Layer(name="fc", dims={"K": 64, "C": 64, "P": 4})
    solution = map_layer(layer, W8A8, machine, budget=QUICK)
    with_values = simulate(layer, W8A8, machine, solution.mapping, values=statistical_values(layer, W8A8))
    assert with_values == solution.result and with_values.mean_step_cycles == 8.0


@pytest.mark.parametrize("name", ["pragmatic_like", "bitwave_like"])
def test_planned_steps_are_those_of_a_full_grid_of_drawn_values(name: str) -> None:
    machine = open_accelerator(name)
    lanes = machine.processing_element.lanes(W8A8)
    sizes = [axis.size for axis in machine.grid.axes]
    layer = Layer(name="fc", dims={"K": 4 * sizes[0], "P": 4 * sizes[1], "C": 40 * lanes})
    spatial = {machine.grid.axes[0].name: {"K": sizes[0]}, machine.grid.axes[1].name: {"P": sizes[1]},
               "lanes": {"C": lanes}}
    mapping = bitmosaic.Mapping(
        spatial=spatial,  # type: ignore[arg-type]
        levels=(
            bitmosaic.MappingLevel(level="dram", order=("K", "P", "C")),
            bitmosaic.MappingLevel(level="buffer", tile={"K": sizes[0], "P": sizes[1], "C": lanes}),
            bitmosaic.MappingLevel(level="register"),
        ),
    )
    result = simulate(layer, W8A8, machine, mapping, values=statistical_values(layer, W8A8))
    planned = planned_step_cycles(machine, W8A8)
    assert planned == pytest.approx(result.mean_step_cycles, abs=0.6)
    assert planned_machine(machine, W8A8).processing_element.cycles_per_step(W8A8) == planned


def test_an_element_with_steps_of_a_given_time_takes_that_time() -> None:
    for unit in (element("zero_bits"), element("leading_bits", min_step_cycles=3), element("none"),
                 element("zero_columns", encoding="sign_magnitude", sign_cycles=1, overlapped_cycles=1)):
        for wanted in range(unit.fewest_cycles_per_step(W8A8), unit.cycles_per_step(W8A8) + 1):
            fixed = unit.with_steps_of(wanted, W8A8)
            assert not fixed.depends_on_values and fixed.cycles_per_step(W8A8) == wanted


@pytest.fixture(scope="module")
def _cache(own_cache: None) -> None:
    """Mappings apart from the user's."""


@pytest.mark.usefixtures("_cache")
def test_digits_take_recorded_values_and_other_examples_other_times() -> None:
    runs = [uniform_run("digits_cnn", "pragmatic_like", budget=QUICK, workers=1, example=place) for place in (0, 1)]
    for run in runs:
        assert {layer.value_source for layer in run.result.layers} == {"recorded"}
        assert all(1 <= (layer.mean_step_cycles or 0) <= 7 for layer in run.result.layers)
    assert runs[0].result.total_cycles != runs[1].result.total_cycles
    assert runs[0].value_notes == {"weights of the network, activations of digits, calibration example 0"}
    drawn = uniform_run("digits_cnn", "pragmatic_like", budget=QUICK, workers=1, values="statistical")
    assert {layer.value_source for layer in drawn.result.layers} == {"statistical"}
    again = uniform_run("digits_cnn", "pragmatic_like", budget=QUICK, workers=1, values="statistical")
    assert again.result == drawn.result


@pytest.mark.usefixtures("_cache")
def test_the_command_line_says_what_the_values_were(tmp_path: Path) -> None:
    arguments = ["--hardware", "pragmatic_like", "--seconds-per-layer", "0.05", "--gap", "0.9", "--workers", "1"]
    shown = CliRunner().invoke(main, ["simulate", "digits_cnn", *arguments, "--trace", str(tmp_path / "trace.json"),
                                      "--plots", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(" recorded ") == 6 and "cycles a step" in shown.output
    assert "with every step at the mean of drawn values" in shown.output
    assert "Values: weights of the network, activations of digits, calibration example 0" in shown.output
    assert (tmp_path / "roofline.png").is_file() and (tmp_path / "trace.json").is_file()
    drawn = CliRunner().invoke(main, ["simulate", "digits_cnn", *arguments, "--values", "statistical"])
    assert drawn.output.count(" statistical ") == 6 and "Values: normal, standard deviation 0.25" in drawn.output
    plain = CliRunner().invoke(main, ["simulate", "digits_cnn", "--hardware", "stripes", *arguments[2:]])
    assert "Values:" not in plain.output and "cycles a step" not in plain.output
    wrong = CliRunner().invoke(main, ["simulate", "digits_cnn", *arguments, "--example", "128"])
    assert wrong.exit_code == 2 and "example=128: there are 128 calibration examples" in wrong.output


def test_explore_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pragmatic_like: .*explore takes no machine whose time depends"):
        bitmosaic.explore("digits_cnn", "pragmatic_like", results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_unsigned_inputs_have_no_sign() -> None:
    precision = LayerPrecision(weight=Format("int8"), input=Format("uint4"))
    assert cycles(element("leading_bits"), [15], precision) == 4
    assert cycles(element("zero_bits"), [15], precision) == 4
