"""Sampled sweeps: draws that learn, the same ones after a kill, and what they say of themselves."""

from __future__ import annotations

import importlib
import json
import logging
import math
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import optuna
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from bitmosaic import cli
from bitmosaic.report_page.read_sweep import read_sweep as sweep_report
from bitmosaic.sweeps import runner
from bitmosaic.sweeps.description import Sampling, dump_sweep
from bitmosaic.sweeps.local_pool import Call, LocalPool, Outcome
from bitmosaic.sweeps.results import EARLY_FILE, RESULTS_FILE, SweepRecord, read_results
from bitmosaic.sweeps.runner import merge_sweeps, open_status, run_sweep
from bitmosaic.sweeps.sampling import Draw, Draws, point_costs, replay
from bitmosaic.sweeps.space import NOT_BUILT
from bitmosaic.sweeps.tasks import Expansion, SweepTask, expand
from bitmosaic.sweeps.worker import guarded
from simulator.errors import ConfigurationError, MissingPackageError

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.usefixtures("own_cache")
GRID = {
    "grid.rows": [4, 8, 16, 32, 64], "grid.columns": [4, 8, 16, 32], "clock_mhz": [100.0, 200.0, 400.0, 800.0],
    "buffers.weight.size_bits": [65536, 131072, 262144, 524288],
}


def _expand(grid: dict[str, Any] | None = None, sampling: dict[str, Any] | None = None, **more: Any) -> Expansion:
    return expand({
        "hardware": [{"base": "bit_fusion", "grid": GRID if grid is None else grid}], "networks": ["digits_cnn"],
        "precisions": ["w8a8"], "sampling": {"points": 20, "generation": 6, "seed": 3, **(sampling or {})}, **more,
    })


def _made_up(task: SweepTask) -> dict[str, Any]:
    """Costs that are a function of the machine alone; some are shares, so that float digits count."""
    point = task.point
    latency_ms = 1e3 / (point.pe_count * point.machine.clock_mhz)
    energy_pj = point.pe_count * (3.0 + point.machine.clock_mhz / 70) + point.buffer_bits / 1e3
    return {
        "result": {
            "total_cycles": 7, "latency_ms": latency_ms, "energy_pj": energy_pj,
            "energy_by_component_pj": {"dram": energy_pj}, "macs": 5, "area_mm2": point.area_mm2, "worst_gap": 0.01,
            "unproven_layers": 0, "confidence": {"dram": "assumed"}, "not_modelled": [],
        },
        "statistics": {"searches": 1, "search_seconds": 0.25},
    }


class InTurn:
    """Makes calls in this process, the last first where ``backwards``; Ctrl-C comes after ``calls``."""

    def __init__(self, calls: float = math.inf, backwards: bool = False) -> None:
        self.left = calls
        self.backwards = backwards
        self.made: list[SweepTask] = []

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        numbers = range(len(calls))
        for number in reversed(numbers) if self.backwards else numbers:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.made.append(calls[number][1][0])
            yield number, Outcome(*guarded(*calls[number]))


class MadeUpPool(LocalPool):
    """Real workers, which give back what was made up here."""

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        yield from super().outcomes([(json.loads, (json.dumps(_made_up(call[1][0])),)) for call in calls])


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "evaluate", _made_up)


# Drawing -----------------------------------------------------------------------------------------------------------


def test_a_grid_of_a_thousand_million_points_is_not_expanded(made_up: None, tmp_path: Path) -> None:
    many = {"vector_unit.lanes": [*range(1, 101)]}
    for field in ("grid.rows", "grid.columns", "buffers.weight.size_bits", "clock_mhz"):
        many[field] = [16 * number for number in range(1, 101)]
    expansion = _expand(many, {"points": 5})
    assert expansion.space is not None and expansion.space.combination_count == 10**10
    assert expansion.tasks == () and run_sweep(expansion, tmp_path, InTurn()).counts == {"done": 5}


def _cost(choices: dict[str, int]) -> tuple[float, float, float]:
    """A made-up accelerator: PEs and clock against energy and area, buffers against traffic."""
    rows, columns, clock, weights, inputs = (choice + 1 for choice in choices.values())
    cycles = math.ceil(512 / rows) * math.ceil(300 / columns) * 64
    traffic = 1 + 2000 / weights + 1000 / inputs
    buffers = weights + inputs
    energy = cycles * rows * columns * (1 + clock / 100) * 0.01 + traffic * 100 + 2 * buffers
    return max(cycles / clock, 50 * traffic), energy, 0.01 * rows * columns + 0.1 * buffers


def _hypervolume(space: Any, sampler: Any, seed: int) -> float:
    """Of 64 points in the logarithms of their costs."""
    draws = Draws(space, Sampling(points=64, sampler=sampler, seed=seed))
    found = []
    for _ in range(8):
        costs = [_cost(choices) for choices in draws.ask(8)]
        draws.tell(costs)
        found += costs
    return float(moocore.hypervolume(np.log(np.array(found)), ref=np.log([4e6, 2e6, 300.0])))


def test_samplers_that_learn_find_more_than_chance() -> None:
    values = [*range(1, 101)]
    space = _expand({
        "grid.rows": values, "grid.columns": values, "clock_mhz": [10.0 * value for value in values],
        "buffers.weight.size_bits": [4096 * value for value in values],
        "buffers.input.size_bits": [4096 * value for value in values],
    }).space
    found = {
        sampler: np.mean([_hypervolume(space, sampler, seed) for seed in range(3)])
        for sampler in ("random", "nsga2", "tpe")
    }
    assert found["nsga2"] > 1.02 * found["random"] and found["tpe"] > 1.1 * found["random"], found


def test_entries_are_chosen_too_and_no_choice_of_another_entry_counts() -> None:
    expansion = expand({
        "hardware": [{"base": "bit_fusion", "grid": GRID}, {"base": "tpu_like"},
                     {"base": "bit_fusion", "name": "small", "grid": {"clock_mhz": [90.0, 80]}}],
        "networks": ["digits_cnn"], "precisions": ["w8a8"], "sampling": {"points": 3},
    })
    space = expansion.space
    assert space is not None and space.combination_count == 5 * 4 * 4 * 4 + 1 + 2
    names = [parameter.name for parameter in space.parameters]
    assert names == ["hardware", *(f"0.{field.path}" for field in space.entries[0].grid), "2.clock_mhz"]
    choices = dict.fromkeys(names, 1)
    first, second, third = (space.point({**choices, "hardware": number}) for number in range(3))
    assert not isinstance(first, str) and first.fields["grid.axes.rows.size"] == 8 and first.fields["clock_mhz"] == 200
    assert not isinstance(second, str) and (second.hardware, second.fields) == ("tpu_like", {})
    assert not isinstance(third, str) and third.hardware == "small" and third.fields["clock_mhz"] == 90, "ascending"
    with pytest.raises(KeyError):
        space.point({"hardware": 0})


def test_a_grid_and_a_sampled_sweep_have_the_same_tasks(made_up: None, tmp_path: Path) -> None:
    few = {"grid.rows": [4, 8], "clock_mhz": [100.0, 200.0]}
    drawn = _expand(few, {"points": 40, "sampler": "random"})
    grid = expand({**drawn.description.model_dump(mode="json"), "sampling": None})
    status = run_sweep(drawn, tmp_path, InTurn())
    assert status.drawn is not None and (status.point_count, status.drawn.repeated) == (4, 36)
    assert {record.key for record in read_results(tmp_path)} == {task.key for task in grid.tasks}
    assert run_sweep(grid, tmp_path, InTurn(0)).counts == {"done": 4}, "nothing is done again"


def test_costs_are_geometric_means_over_all_tasks() -> None:
    expansion = _expand({"grid.rows": [4]}, {"points": 1, "generation": 2}, objectives=["latency", "energy"])
    search = replay(expansion, {})
    (draw,) = search.generation
    first, second = draw.tasks

    def record(task: SweepTask, **costs: Any) -> SweepRecord:
        result = _made_up(task)["result"] | costs
        return SweepRecord.model_validate_json(json.dumps({
            "key": task.key, "hardware": "h", "fields": {}, "network": "n", "precision": "p", "objective": "o",
            "status": "done", "result": result,
        }))

    records = {first.key: record(first, energy_pj=2.0), second.key: record(second, energy_pj=8.0)}
    energy = Sampling(points=1, minimise=("energy_pj",))
    assert point_costs(draw, records, energy) == (pytest.approx(4.0),)
    failed = records[second.key].model_copy(update={"status": "failed", "result": None})
    assert point_costs(draw, {**records, second.key: failed}, energy) is None
    area = Sampling(points=1, minimise=("area_mm2",))
    assert point_costs(draw, {**records, second.key: record(second, area_mm2=None)}, area) is None
    assert point_costs(Draw(NOT_BUILT), records, energy) is None
    both = Sampling(points=1, minimise=("energy_pj",), maximise=("accuracy_percent",))
    assert point_costs(draw, records, both) is None
    scored = {
        task.key: record(task, energy_pj=2.0, accuracy={"metric": "accuracy", "value": value, "count": 10})
        for task, value in ((first, 0.25), (second, 1.0))
    }
    assert point_costs(draw, scored, both) == (pytest.approx(2.0), pytest.approx(62.5))


BY_ACCURACY = {"points": 16, "minimise": ["area_mm2"], "maximise": ["accuracy_percent"]}


@pytest.mark.parametrize("better", ["w8a8", "w2a2"])
def test_the_more_accurate_precision_is_drawn_more_often(better: str) -> None:
    expansion = _expand(sampling=BY_ACCURACY, precisions=["w8a8", "w2a2"], accuracy=True)
    space, sampling = expansion.space, expansion.description.sampling
    assert space is not None and sampling is not None
    draws = Draws(space, sampling)
    drawn: list[str | None] = []
    for _ in range(8):
        choices = draws.ask(8)
        now = [space.precision(choice) for choice in choices]
        points = [space.point(choice) for choice in choices]
        draws.tell([
            None if isinstance(point, str) else (point.area_mm2 or 0.0, 98.0 if precision == better else 40.0)
            for point, precision in zip(points, now, strict=True)
        ])
        drawn += now
    assert drawn[-32:].count(better) > 16 + 4


def test_precisions_are_drawn_where_accuracy_counts(made_up: None, tmp_path: Path) -> None:
    expansion = _expand(sampling=BY_ACCURACY, precisions=["w8a8", "w2a2"], accuracy=True)
    assert expansion.space is not None and expansion.space.combination_count == 2 * 5 * 4 * 4 * 4
    status = run_sweep(expansion, tmp_path, InTurn())
    records = list(read_results(tmp_path))
    assert status.counts == {"done": len(records)} and status.point_count == len(records), "a task a point"
    assert {record.precision for record in records} == {"w8a8", "w2a2"}
    status = run_sweep(expand(tmp_path / "sweep.yaml"), tmp_path, InTurn(0))
    assert status.counts == {"done": len(records)}, "nothing is drawn or done anew"


# Interrupted, resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_interrupted_again_and_again_it_ends_with_the_same_bytes(made_up: None, tmp_path: Path, sampler: str) -> None:
    expansion = _expand(sampling={"sampler": sampler}, limits={"pe_count": 1024})
    status = run_sweep(expansion, tmp_path / "whole", InTurn())
    whole = (tmp_path / "whole" / RESULTS_FILE).read_bytes()
    assert status.drawn is not None and status.drawn.drawn == 20 and status.left_out.keys() == {"pe_count"}
    assert status.point_count == status.task_count == status.counts["done"] == 20 - (
        status.left_out["pe_count"] + status.drawn.repeated
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump_sweep(expansion.description))
    folder, made, interrupted = tmp_path / "broken", [], 0
    while not made or open_status(folder).left:
        pool = InTurn(3, backwards=True)
        try:
            run_sweep(expand(again), folder, pool)
        except KeyboardInterrupt:
            interrupted += 1
        made += pool.made
        assert pool.made and whole.startswith(b"".join(_bytes(folder)))
    assert interrupted > 2 and (folder / RESULTS_FILE).read_bytes() == whole and not (folder / EARLY_FILE).exists()
    assert len({task.key for task in made}) == len(made) == status.task_count, "nothing is done twice"
    assert open_status(folder) == status
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run_sweep(expansion, folder, InTurn(0))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def _bytes(folder: Path) -> Iterator[bytes]:
    """What stands in the results so far."""
    if (folder / RESULTS_FILE).exists():
        yield (folder / RESULTS_FILE).read_bytes()


def test_bytes_do_not_depend_on_workers(made_up: None, tmp_path: Path) -> None:
    expansion = _expand(sampling={"points": 9, "sampler": "nsga2", "generation": 5})
    run_sweep(expansion, tmp_path / "here", InTurn())
    whole = (tmp_path / "here" / RESULTS_FILE).read_bytes()
    for workers in (1, 2):
        run_sweep(expansion, tmp_path / str(workers), MadeUpPool(workers))
        assert (tmp_path / str(workers) / RESULTS_FILE).read_bytes() == whole


def test_more_points_go_on_where_fewer_ended(made_up: None, tmp_path: Path) -> None:
    run_sweep(_expand(sampling={"points": 8}), tmp_path / "grown", InTurn())
    few = (tmp_path / "grown" / RESULTS_FILE).read_bytes()
    run_sweep(_expand(), tmp_path / "grown", InTurn())
    run_sweep(_expand(), tmp_path / "whole", InTurn())
    whole = (tmp_path / "whole" / RESULTS_FILE).read_bytes()
    assert whole.startswith(few) and (tmp_path / "grown" / RESULTS_FILE).read_bytes() == whole


def test_a_retry_goes_on_with_what_it_finds(made_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expansion = _expand(sampling={"sampler": "nsga2"})
    run_sweep(expansion, tmp_path / "whole", InTurn())
    first = read_results(tmp_path / "whole")

    def fails(task: SweepTask) -> dict[str, Any]:
        if task.key == next(iter(first)).key:
            raise RuntimeError("no")
        return _made_up(task)

    monkeypatch.setattr(runner, "evaluate", fails)
    status = run_sweep(expansion, tmp_path / "bad", InTurn())
    assert status.failed == 1 and status.drawn is not None and status.drawn.costless >= 1
    monkeypatch.setattr(runner, "evaluate", _made_up)
    again = run_sweep(expansion, tmp_path / "bad", InTurn(), retry_failed=True)
    assert again.failed == 0 and again.left == 0 and again.drawn is not None and again.drawn.costless == 0
    assert {record.key for record in first} <= {record.key for record in read_results(tmp_path / "bad")}


def test_parts_of_a_sampled_sweep_merge(made_up: None, tmp_path: Path) -> None:
    expansion = _expand()
    run_sweep(expansion, tmp_path / "whole", InTurn())
    with pytest.raises(KeyboardInterrupt):
        run_sweep(expansion, tmp_path / "part", InTurn(8, backwards=True))
    merge_sweeps([tmp_path / "part", tmp_path / "whole"], tmp_path / "both")
    assert (tmp_path / "both" / RESULTS_FILE).read_bytes() == (tmp_path / "whole" / RESULTS_FILE).read_bytes()


# What it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampling", "more", "words"), [
    ({"minimise": ["accuracy"]}, {}, "sampling.minimise: names what is to be large: maximise: [accuracy_percent]"),
    ({"maximise": ["accuracy_percent"]}, {}, "sampling.maximise: needs `accuracy: true`"),
    ({"maximise": ["latency_ms"]}, {"accuracy": True}, "allowed: accuracy_percent"),
    ({"minimise": ["energy_pj", "energy_pj"]}, {}, "names a cost twice"),
    ({"minimise": ["latency_cycles"]}, {}, "allowed: latency_ms, energy_pj, area_mm2"),
    ({"sampler": "nsga"}, {}, "did you mean 'nsga2'"),
    ({"points": 0}, {}, "sampling.points=0: must be at least 1"),
    ({}, {"grid": {"grid.columns": [8, 0]}}, "size=0: must be at least 1"),
    ({}, {"grid": {"clock_mhz": ["fast"]}}, "clock_mhz='fast': must be a number"),
    ({}, {"grid": {"grid.column": [8]}}, "did you mean 'grid.columns'"),
    ({}, {"grid": {"clock_mhz": []}}, "at least 1 value"),
])
def test_mistakes(sampling: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace("[", r"\[")):
        _expand(sampling=sampling, **more)


def test_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="shard=2/3: a sampled sweep has no shares"):
        run_sweep(_expand(), tmp_path / "r", InTurn(), shard=(2, 3))
    assert not (tmp_path / "r").exists()


def test_without_the_package_it_says_which_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr("bitmosaic.sweeps.sampling.importlib.import_module", missing)
    with pytest.raises(MissingPackageError, match=r"bitmosaic\[sampling\]"):
        run_sweep(_expand(), tmp_path / "r", InTurn())
    assert not (tmp_path / "r").exists()


def test_optuna_is_silent_here_and_as_it_was_elsewhere(made_up: None, tmp_path: Path, caplog: Any, capsys: Any) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            run_sweep(_expand(sampling={"points": 4}), tmp_path, InTurn())
    finally:
        optuna.logging.disable_propagation()
    assert not [record for record in caplog.records if record.name.startswith("optuna")]
    assert capsys.readouterr().err == "" and optuna.logging.get_verbosity() == before


def test_a_description_without_sampling_is_written_as_ever() -> None:
    grid = expand({**_expand({"grid.rows": [4]}).description.model_dump(mode="json"), "sampling": None})
    assert grid.space is None and "sampling" not in dump_sweep(grid.description)


def _one_convolution() -> onnx.ModelProto:
    """A 1 x 1 convolution of an image [1, 2, 4, 4]."""
    weights = onnx.numpy_helper.from_array(np.ones((4, 2, 1, 1), dtype=np.float32), "w")
    image, scores = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 2, 4, 4]), ("scores", None))
    )
    node = onnx.helper.make_node("Conv", ["image", "w"], ["scores"], name="conv")
    graph = onnx.helper.make_graph([node], "small", [image], [scores], [weights])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def in_earnest(tmp_path_factory: pytest.TempPathFactory, own_cache: None) -> Iterator[Path]:
    """A folder with a real sampled sweep of few points, run by the command."""
    folder = tmp_path_factory.mktemp("sampled")
    onnx.save(_one_convolution(), folder / "small.onnx")
    (folder / "s.yaml").write_text(
        "bitmosaic_version: 1\nnetworks: [small.onnx]\nprecisions: [w8a8]\ntarget_gap: 0.5\n"
        "hardware: [{base: bit_fusion, grid: {grid.rows: [4, 8, 16], grid.columns: [4, 8, 16]}}]\n"
        "sampling: {points: 4, generation: 2, minimise: [latency_ms, energy_pj]}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "local_pool", lambda description, workers: InTurn())
        result = _run("run", folder / "s.yaml", "--output", folder / "r")
    assert result.exit_code == 0, result.output
    assert "4 of 4 points are drawn" in result.stdout
    yield folder / "r"


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["sweep", *map(str, arguments)])


def test_commands_know_sampled_sweeps(in_earnest: Path) -> None:
    assert "4 of 4 points are drawn" in _run("status", in_earnest).stdout
    shown = _run("show", in_earnest, "--front")
    assert shown.exit_code == 0 and "front" in shown.stdout
    report = sweep_report(in_earnest)
    assert report.points and all(point.machine is not None and point.command for point in report.points)
    assert not [note for note in report.notes if "not known" in note or "not finished" in note]
    refused = _run("run", in_earnest.parent / "s.yaml", "--shard", "1/2", "--output", in_earnest)
    assert refused.exit_code == 2 and "has no shares" in refused.stderr


def test_the_example_holds() -> None:
    found = expand(DOCS / "sweep_sampled.yaml")
    assert found.space is not None and found.space.combination_count == 1890
    assert found.description.sampling == Sampling(points=48)
    (line,) = re.findall(r"```yaml\nsampling: (.*)\n```", (DOCS / "sweep.md").read_text())
    assert Sampling.model_validate(YAML(typ="safe").load(line)) == found.description.sampling


def test_points_that_cannot_be_built_are_counted(made_up: None, tmp_path: Path) -> None:
    """A shared port wants a bandwidth: each value is right beside some other."""
    buffer = "memories.weight_buffer"
    expansion = expand({
        "hardware": [{"base": "bit_fusion", "override": {f"{buffer}.write_bandwidth_bits_per_cycle": 64}, "grid": {
            f"{buffer}.ports": ["separate", "shared"], f"{buffer}.read_bandwidth_bits_per_cycle": [None, 32, 64, 128],
        }}],
        "networks": ["digits_cnn"], "precisions": ["w8a8"], "sampling": {"points": 20, "sampler": "random"},
    })
    status = run_sweep(expansion, tmp_path, InTurn())
    assert 0 < status.left_out[NOT_BUILT] < 20 and status.counts == {"done": 7}
