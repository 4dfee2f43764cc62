"""Layers that stay in floating point beside an integer grid: their borders, their cost in a network, and SEADA."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import networkx as nx
import pytest
from click.testing import CliRunner

from bitmosaic.cli import main
from bitmosaic.explorations.assignment_file import load_assignment
from bitmosaic.explorations.baseline_cost import mixed_run, uniform_run
from bitmosaic.explorations.exploration import Exploration
from bitmosaic.explorations.explorer import explore
from bitmosaic.explorations.floating_layers import border_precisions, closed_form, floating_results, unit_precision
from bitmosaic.explorations.identity import accelerator_identity
from bitmosaic.views.layer_plots import write_plots
from bitmosaic.views.text_tables import report_text
from bitmosaic.views.timeline import write_trace
from hw_configs import dump_accelerator, open_accelerator
from mapper.cache import problem_key
from mapper.network import network_precisions
from mapper.solution import SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, PrecisionError
from simulator.floating_layer import FloatingPointUnit, floating_layer_cost
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.provenance import energy_confidence
from workloads import Network

BF16, W8, W4 = (LayerPrecision.parse(text) for text in ("bf16", "w8a8", "w4a4"))
UNIT = FloatingPointUnit(macs_per_cycle=16, utilization=0.5, energy_pj_per_mac=1.5, conversion_energy_pj=0.4)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def machine() -> Accelerator:
    """Bit Fusion with a unit of 16 multiply-accumulates beside it."""
    return open_accelerator("bit_fusion").model_copy(update={"floating_point_unit": UNIT})


@pytest.fixture(scope="module")
def network() -> Network:
    """A layer that two read, one of which a last one reads."""
    graph: nx.DiGraph = nx.DiGraph()
    for name, inputs, outputs in (("a", 8, 16), ("b", 16, 4), ("c", 16, 8), ("d", 4, 10)):
        graph.add_node(name, op=Layer(name=name, dims={"P": 6, "C": inputs, "K": outputs}))
    graph.add_edges_from([("a", "b"), ("a", "c"), ("b", "d")])
    return Network("fork", graph)


def test_a_border_lies_in_integers_and_the_unit_converts(network: Network, machine: Accelerator) -> None:
    def conversions(**assignment: LayerPrecision) -> dict[str, tuple[str, float]]:
        """Layer → the format that it writes, and how many numbers the unit converts for it."""
        exact = border_precisions(network, assignment, BF16)
        found = floating_results(network, exact, machine, BF16)
        return {
            name: (str(exact[name].output), round(found[name].energy_pj["conversion"] / 0.4) if name in found else 0)
            for name in assignment
        }

    # Alone among integers: 6 · 16 inputs and 6 · 4 outputs.
    assert conversions(a=W8, b=BF16, c=W4, d=W8) == {"a": ("int4", 0), "b": ("int8", 120), "c": ("int4", 0),
                                                     "d": ("int8", 0)}
    # Behind each other nothing is converted; what an integer layer reads is written for it, and read so by all.
    assert conversions(a=BF16, b=BF16, c=BF16, d=BF16) == dict.fromkeys("abcd", ("bf16", 0))
    assert conversions(a=BF16, b=BF16, c=W8, d=BF16) == {"a": ("int8", 96), "b": ("bf16", 96), "c": ("int8", 0),
                                                         "d": ("bf16", 0)}
    # An integer layer that floating-point ones alone read writes its own format.
    assert conversions(a=W4, b=BF16, c=BF16, d=BF16)["a"] == ("int4", 0)


def test_narrow_integers_are_read_as_they_lie(network: Network, machine: Accelerator) -> None:
    layer = network.layers[1]
    result = closed_form(layer, BF16, machine, 4)
    assert result.moved_bits("dram") == (16 * 64 + 4 * 96, 16 * 24)
    assert result.moved_bits("dram", "input") == (4 * 96, 0)
    plain = floating_layer_cost(layer, BF16, machine, UNIT)
    assert closed_form(layer, BF16, machine).total_cycles == plain.latency_cycles
    assert closed_form(layer, BF16, machine).total_energy_pj == plain.total_energy_pj
    assert result.total_cycles == result.compute_cycles + result.stall_cycles["input"]


def test_without_such_layers_formats_are_those_of_every_network(network: Network) -> None:
    for picked in itertools.product((W8, W4), repeat=4):
        assignment = dict(zip("abcd", picked, strict=True))
        assert border_precisions(network, assignment, BF16) == network_precisions(network, assignment)


def test_the_unit_is_part_of_a_description_and_of_no_mapping(machine: Accelerator, tmp_path: Path) -> None:
    plain = open_accelerator("bit_fusion")
    assert unit_precision(machine) == BF16 and unit_precision(plain) is None
    grid_has_it = open_accelerator("gaudi_like").model_copy(update={"floating_point_unit": UNIT})
    assert unit_precision(grid_has_it) is None
    path = tmp_path / "own.yaml"
    path.write_text(dump_accelerator(machine))
    assert open_accelerator(path) == machine
    layer, budget = Layer(name="x", dims={"K": 4}), SearchBudget()
    keys = {problem_key(layer, W8, each, "edp", budget) for each in (plain, machine)}
    assert len(keys) == 1 and accelerator_identity(plain) != accelerator_identity(machine)
    assert "floating_point_unit" in energy_confidence(machine) and "floating_point_unit" not in energy_confidence(plain)
    assert machine.area_mm2 is None and plain.area_mm2 is not None  # the unit's is not modelled
    path.write_text(dump_accelerator(machine).replace("number_format: bf16", "number_format: int8"))
    with pytest.raises(ConfigurationError, match=r"floating_point_unit\.number_format.*must be bf16, fp16 or fp32"):
        open_accelerator(path)


def _explore(network: Network, machine: Accelerator | str, folder: Path) -> Exploration:
    return explore(network, machine, method="seada", menu=["w8a8", "w2a8"], points=4, results=folder, workers=1,
                   budget=SearchBudget(cpu_seconds=0.05, target_gap=0.9))


@pytest.fixture(scope="module")
def explored(digits: Network, own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """SEADA on the preset that has a unit; nothing is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitmosaic.explorations.folder.save_figure", lambda *arguments: ())
        return _explore(digits, "bit_fusion_float", tmp_path_factory.mktemp("seada") / "digits")


def test_seada_lets_layers_stay_in_floating_point(digits: Network, explored: Exploration) -> None:
    machine = open_accelerator("bit_fusion_float")
    assert explored.settings.floating == "bf16" and explored.settings.menu == ("w8a8", "w2a8", "bf16")
    assert "Layers in bf16 stay in floating point on the machine's unit" in " ".join(report_text(explored).split())
    whole = explored.point("bf16").record
    for row, layer in zip(whole.layers, digits.layers, strict=True):
        assert row.status == "closed form" and row.total_cycles == closed_form(layer, BF16, machine).total_cycles
    fp32 = explored.fp32
    assert fp32 is not None and whole.accuracy is not None and abs(whole.accuracy.value - fp32.value) <= 0.005
    mixed = [point.record for point in explored.points if len(set(point.record.assignment.values())) > 1]
    assert any("bf16" in record.assignment.values() for record in mixed)
    assert "threshold" in {record.origin for record in mixed} and whole.confidence["floating_point_unit"] == "scaled"
    # A depthwise layer fills one column of the grid: even the small unit is faster there.
    rows = {label: explored.point(label).record.layers[2] for label in ("w8a8", "bf16")}
    assert rows["bf16"].layer == "depthwise" and rows["bf16"].total_cycles < rows["w8a8"].total_cycles
    for record in (point.record for point in explored.points):
        rows = [*record.layers, *record.vector]
        assert record.total_cycles == sum(row.total_cycles for row in rows)
        assert record.energy_pj == pytest.approx(sum(row.total_energy_pj for row in rows), rel=1e-12)
        for row in record.layers:
            assert (row.status == "closed form") == (record.assignment[row.layer] == "bf16")
            assert ("floating_point_unit" in row.energy_pj) == (row.status == "closed form")
    # Nothing is lost in floating point; the integer program may choose it, at its cost.
    assert all(explored.harms[layer, "bf16"] == 0.0 for layer in whole.assignment if (layer, "bf16") in explored.harms)


def test_a_layer_between_integers_converts_in_a_point(digits: Network, explored: Exploration) -> None:
    layers = {layer.name: layer for layer in digits.layers}
    writing = reading = 0
    for record in (point.record for point in explored.points):
        exact = border_precisions(
            digits, {name: LayerPrecision.parse(label) for name, label in record.assignment.items()}, BF16
        )
        for row in record.layers:
            if row.status != "closed form":
                continue
            layer, converted = layers[row.layer], row.energy_pj["conversion"] / 0.4
            rows, columns = layer.stored_input_size
            held = rows * columns * layer.extent("G") * layer.extent("N") * layer.extent("C")
            written = layer.output_count if exact[row.layer].output.is_integer else 0
            # Its outputs where an integer layer reads them, and its inputs, all or none, where one wrote them.
            assert round(converted - written, 6) in (0, held)
            writing += written > 0
            reading += round(converted - written, 6) > 0
    assert writing >= 2 and reading >= 2, "points with borders of both kinds are among those explored"


def test_an_assignment_read_back_costs_what_its_point_does(digits: Network, explored: Exploration) -> None:
    read = 0
    for point in explored.points:
        record = point.record
        file = load_assignment(explored.folder / f"assignments/{point.label}.yaml", digits)
        machine = file.machine(explored.folder / f"assignments/{point.label}.yaml")
        run = mixed_run(digits, machine, dict(file.precisions), objective=file.objective,
                        budget=file.budget(SearchBudget()), workers=1)
        found = run.point().record
        assert (found.total_cycles, found.energy_pj) == (record.total_cycles, record.energy_pj), point.label
        assert [row.model_dump() for row in found.layers] == [row.model_dump() for row in record.layers]
        read += any(row.status == "closed form" for row in found.layers)
    assert read >= 2
    point = next(each for each in explored.points if len({*each.record.assignment.values()} & {"bf16", "w8a8"}) == 2)
    path = explored.folder / f"assignments/{point.label}.yaml"
    result = CliRunner().invoke(main, ["simulate", "digits_cnn", "--assignment", str(path), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert f": {point.record.total_cycles:,} cycles" in result.stdout and "floating-point unit, closed" in result.stdout
    assert f"{point.record.energy_uj:.4g} µJ" in result.stdout


def test_a_run_on_the_unit_is_drawn_without_mappings(network: Network, machine: Accelerator, tmp_path: Path) -> None:
    budget = SearchBudget(cpu_seconds=0.05, target_gap=0.9)
    run = mixed_run(network, machine, {"a": "bf16", "*": "w8a8"}, budget=budget, workers=1)
    assert set(run.solutions) == set(run.plans()) == {"b", "c", "d"} and set(run.closed_forms) == {"a"}
    exact = border_precisions(network, run.assignment, BF16)
    assert run.precisions == exact and str(exact["a"].output) == "int8"
    summary = write_trace(run, tmp_path / "all.json")
    assert summary.total_cycles == run.result.total_cycles
    alone = write_trace(run, tmp_path / "a.json", layers=["a"])
    assert alone.total_cycles == run.point().record.layers[0].total_cycles and alone.slices == 0
    (drawn,) = [each for each in json.loads((tmp_path / "a.json").read_text())["traceEvents"] if each["ph"] == "X"]
    assert drawn["name"] == "a" and drawn["args"]["mapping"] == "floating-point unit, closed form"
    assert {path.stem for path in write_plots(run, tmp_path)} == {"breakdown", "roofline", "utilization"}
    whole = uniform_run(network, machine, "bf16", budget=budget, workers=1)
    assert not whole.solutions and {path.stem for path in write_plots(whole, tmp_path)} == {"breakdown"}
    assert all(row.status == "closed form" for row in whole.point().record.layers)


def test_a_machine_without_such_a_unit_says_so(network: Network, machine: Accelerator) -> None:
    no_unit = r"precision bf16: does not run on the grid of accelerator bit_fusion, which states no floating_point_unit"
    with pytest.raises(PrecisionError, match=no_unit):
        uniform_run(network, "bit_fusion", "bf16")
    with pytest.raises(PrecisionError, match=r"precision fp16: .* has a floating_point_unit that runs bf16"):
        mixed_run(network, machine, {"a": "fp16", "*": "bf16"})
    with pytest.raises(PrecisionError, match="the processing element cannot run this format"):
        uniform_run(network, machine, "fp8_e4m3")  # such layers are quantised: no unit takes them


def test_where_there_is_no_unit_the_report_says_so(digits: Network, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitmosaic.explorations.folder.save_figure", lambda *arguments: ())
        found = _explore(digits, "bit_fusion", tmp_path / "plain")
    text = " ".join(report_text(found).split())
    assert found.settings.floating is None and "No layer stays in floating point: the machine states no" in text
