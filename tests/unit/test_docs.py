"""The documentation holds: links lead somewhere, commands parse, and what it lists is what the code has."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import click
import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.explorations.exploration import Exploration
from bitmosaic.explorations.explorer import DEFAULT_BUDGET, DEFAULT_POINTS
from hw_configs.loader import VERSION_FIELD
from simulator import accelerator as machine
from simulator import processing_elements as elements
from simulator.floating_point_unit import FloatingPointUnit
from simulator.interconnect import Interconnect
from simulator.output_stage import OutputStage
from simulator.provenance import Source
from simulator.tiled import Tile, TiledAccelerator
from workloads.tasks.digits import DigitsTask
from workloads.tasks.magika import MOST_OF_A_KIND
from workloads.tasks.pp_ocrv6 import PpOcrTask

ROOT = Path(bitmosaic.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HARDWARE = (ROOT / "docs/hardware.md").read_text(encoding="utf-8")
EXPLORE = (ROOT / "docs/explore.md").read_text(encoding="utf-8")
Row = dict[str, str]

SECTIONS: dict[str, type[BaseModel]] = {
    "The file": machine.Accelerator,
    "The file of a machine of several tiles": TiledAccelerator,
    "Tile": Tile,
    "Memory: `dram`": machine.Dram,
    "DRAM rows": machine.DramRows,
    "Memory: `buffer`": machine.Buffer,
    "Memory: `register_file`": machine.RegisterFile,
    "Grid": machine.Grid,
    "Grid: axis": machine.Axis,
    "Grid passing: `multicast`": machine.MulticastPassing,
    "Grid passing: `systolic`": machine.SystolicPassing,
    "Grid: interconnect": Interconnect,
    "Processing element: `fixed`": elements.FixedElement,
    "Processing element: `bit_fusion`": elements.BitFusionElement,
    "Processing element: `bit_serial`": elements.BitSerialElement,
    "Processing element: `bit_sparse`": elements.BitSparseElement,
    "Processing element: `floating_point`": elements.FloatingPointElement,
    "Processing element: energy by precision": elements.PrecisionEnergy,
    "Processing element: `dual_precision`": elements.DualPrecisionElement,
    "Vector unit": machine.VectorUnit,
    "Output stage": OutputStage,
    "Floating-point unit": FloatingPointUnit,
    "Sources": Source,
}
UNITS = {
    "_pj_per_bit": "pJ a bit", "_bits_per_cycle": "bits a cycle", "_pj_per_cycle": "pJ a cycle",
    "_pj_per_operation": "pJ", "_pj_per_bit_hop": "pJ a bit and hop", "_pj_per_weight": "pJ a weight",
    "_energy_pj": "pJ", "_um2": "µm²", "_mw": "mW",
    "_cycles": "cycles", "_bits": "bits", "_mhz": "MHz",
}


def _section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def _tables(text: str) -> list[list[Row]]:
    """Tables of a text: rows by column heading, back quotes around a whole cell taken off."""
    tables: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in block.splitlines()]
        head, rule, *body = lines
        assert all(set(cell) == {"-"} for cell in rule)
        tables.append([dict(zip(head, map(_unquoted, row), strict=True)) for row in body])
    return tables


def _unquoted(cell: str) -> str:
    return cell[1:-1] if re.fullmatch(r"`[^`]+`", cell) else cell


def _table(text: str, heading: str) -> list[Row]:
    (table,) = _tables(_section(text, heading))
    return table


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType, tuple, dict):
        for argument in get_args(annotation):
            yield from _models(argument)


def _reached(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all models inside it."""
    inside = {member for field in model.model_fields.values() for member in _models(field.annotation)}
    return {model}.union(*(_reached(member) for member in inside))


# Links and commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = page if not file else page.parent / file
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def _commands(text: str) -> list[str]:
    """Commands in code blocks, indented lines and back quotes that begin with ``bitmosaic`` and a word."""
    pattern = r"(?:^|&& |`|    )(?:\.venv/bin/)?(bitmosaic [a-z][^`\n&]*)"
    return [found.strip() for found in re.findall(pattern, text, re.MULTILINE)]


def _parse(command: click.Command, arguments: list[str]) -> None:
    # Below the group, as on a real command line: click keeps a command's help option as it is first asked for.
    command.make_context(command.name, arguments, parent=click.Context(main, **main.context_settings))


def test_documented_commands_parse() -> None:
    commands = [(page.name, command) for page in PAGES for command in _commands(page.read_text(encoding="utf-8"))]
    assert len(commands) >= 10
    for page, line in commands:
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = main.commands.get(name)
        assert command is not None, f"{page}: {line}"
        try:
            _parse(command, arguments)
        except click.ClickException as error:
            if line.split()[1:] == [name]:
                continue  # a command's name alone, in running text
            pytest.fail(f"{page}: {line}: {error.format_message()}")


def test_a_wrong_command_would_be_found() -> None:
    assert _commands("x\n    bitmosaic explore --speed\n`bitmosaic hardware`, bitmosaic is") == [
        "bitmosaic explore --speed", "bitmosaic hardware",
    ]
    with pytest.raises(click.ClickException):
        _parse(main.commands["explore"], ["--speed"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_python_names_what_there_is(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "bitmosaic":
                assert node.func.attr in bitmosaic.__all__
                called: Callable[..., Any] = getattr(bitmosaic, node.func.attr)
                options = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(called).bind(*node.args, **options)


# docs/hardware.md -------------------------------------------------------------------------------------------------


def test_every_part_of_a_machine_has_a_section() -> None:
    assert set(SECTIONS.values()) == _reached(machine.Accelerator) | _reached(TiledAccelerator)
    documented = re.findall(r"^### (.+)$", HARDWARE, re.MULTILINE)
    assert [heading for heading in documented if heading != "Technology tables"] == list(SECTIONS)


@pytest.mark.parametrize("heading", SECTIONS)
def test_fields_units_and_defaults_are_those_of_the_schema(heading: str) -> None:
    model, rows = SECTIONS[heading], _table(HARDWARE, heading)
    assert all(row["meaning"] for row in rows)
    fields = {row["field"]: row for row in rows}
    assert len(fields) == len(rows)
    if model in (machine.Accelerator, TiledAccelerator):
        assert fields.pop(VERSION_FIELD)["default"] == "required"
    assert set(fields) == set(model.model_fields)
    for name, row in fields.items():
        unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
        assert unit is None or row["unit"] == unit, name
        field = model.model_fields[name]
        # A kind tells the reader which model it is: it cannot be left out, whatever the model's own default.
        if name == "kind" or field.is_required():
            assert row["default"] == "required", name
        else:
            value = field.get_default(call_default_factory=True)
            shown = ast.literal_eval(row["default"].replace("null", "None").replace("true", "True")
                                     .replace("false", "False"))
            assert shown == (list(value) if isinstance(value, tuple) else value), name


def test_presets_are_listed_with_their_numbers_and_sources() -> None:
    sizes, sources, tiles = _tables(_section(HARDWARE, "Presets"))
    names = [preset.name for preset in bitmosaic.list_presets() if not preset.tiles]
    assert [row["preset"] for row in sizes] == [row["preset"] for row in sources] == names
    for size, source in zip(sizes, sources, strict=True):
        found = bitmosaic.open_accelerator(size["preset"])
        assert size["grid"] == " × ".join(str(axis.size) for axis in found.grid.axes)
        assert size["PE kind"] == found.processing_element.kind and size["passing"] == found.grid.passing.kind
        assert int(size["on chip (KiB)"]) * 8192 == sum(buffer.size_bits for buffer in found.buffers)
        assert int(size["DRAM (bits a cycle)"]) == found.dram.bandwidth_bits_per_cycle
        assert float(size["clock (MHz)"]) == found.clock_mhz
        assert float(size["area (mm²)"]) == pytest.approx(found.area_mm2, abs=0.05)
        counts = Counter(source.confidence for source in found.sources.values())
        assert {kind: int(count) for kind, count in source.items() if kind != "preset"} == {
            "measured": counts["measured"], "extracted": counts["extracted"], "scaled": counts["scaled"],
            "recalled": counts["recalled"], "assumed": counts["assumed"],
        }
        assert f"- **`{found.name}`**" in HARDWARE or f"and **`{found.name}`**" in HARDWARE
    (tiled,) = (preset.name for preset in bitmosaic.list_presets() if preset.tiles)
    assert f"- **`{tiled}`**" in HARDWARE
    frame = bitmosaic.tiles_frame(bitmosaic.open_machine(tiled))
    for row, tile in zip(tiles, frame.itertuples(), strict=True):
        assert (row["tile"], row["grid"], row["PE kind"]) == (tile.tile, tile.grid, tile.element)
        assert (row["passing"], row["from preset"]) == (tile.passing, tile.preset)
        assert float(row["on chip (KiB)"]) == tile.buffers_kib
        assert float(row["area (mm²)"]) == pytest.approx(tile.area_mm2, abs=0.05)


def _example() -> str:
    (example,) = re.findall(r"```yaml\n(bitmosaic_version.*?)```", HARDWARE, re.DOTALL)
    return str(example)


def test_the_example_is_valid_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edge_npu.yaml").write_text(_example(), encoding="utf-8")
    result = CliRunner().invoke(main, ["validate", "edge_npu.yaml"])
    assert result.exit_code == 0 and result.output == "edge_npu.yaml: valid\n"
    network = bitmosaic.open_network("digits_cnn")
    budget = bitmosaic.SearchBudget(cpu_seconds=0.2, target_gap=0.5)
    accelerator = bitmosaic.open_accelerator("edge_npu.yaml")
    precisions = [bitmosaic.LayerPrecision.parse(label) for label in ("w8a8", "w2a8")]
    wide, narrow = (
        bitmosaic.map_layer(network.layers[0], precision, accelerator, budget=budget) for precision in precisions
    )
    assert narrow.cost < wide.cost, "weights arrive bit by bit"


def test_the_example_of_tiles_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(name: duo.*?)```", HARDWARE, re.DOTALL)
    (tmp_path / "duo.yaml").write_text(example, encoding="utf-8")
    found = bitmosaic.open_machine(tmp_path / "duo.yaml")
    assert [tile.name for tile in found.tiles] == ["integer", "float"]


def test_the_messages_shown_are_those_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = _example()
    for right, wrong in (("size_bits: 1048576", "size_bits: 128 KB"), ("  pipeline_cycles:", "  pipeline_cycle:"),
                         ("keeps: [weight]\n", "keeps: [weights]\n")):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    Path("edge_npu.yaml").write_text(text, encoding="utf-8")
    (shown,) = re.findall(r"```\n(edge_npu.yaml:.*?)```", HARDWARE, re.DOTALL)
    assert shown.splitlines() == [str(problem) for problem in bitmosaic.validate_file("edge_npu.yaml")]


# docs/explore.md --------------------------------------------------------------------------------------------------


def test_options_are_those_of_the_command() -> None:
    rows = {row["option"]: row["default"] for row in _table(EXPLORE, "Options")}
    options = {
        parameter.opts[-1]: parameter.default
        for parameter in main.commands["explore"].params if isinstance(parameter, click.Option)
    }
    assert set(rows) == set(options)
    for name in ("--hardware", "--objective", "--sensitivity", "--points"):
        assert rows[name] == str(options[name])
    assert int(rows["--points"]) == DEFAULT_POINTS
    assert float(rows["--seconds-per-layer"]) == DEFAULT_BUDGET.cpu_seconds
    assert float(rows["--gap"]) == DEFAULT_BUDGET.target_gap


def test_sizes_of_the_tasks() -> None:
    rows = {row["network"]: row for row in _table(EXPLORE, "How accuracy is measured")}
    digits, reading = DigitsTask(), PpOcrTask()
    (feed,) = digits.calibration_feeds()
    score = digits.evaluate(lambda feed: [np.zeros((len(feed["image"]), 10))])
    assert rows["digits_cnn"]["evaluated on"] == f"{score.count} images"
    assert rows["digits_cnn"]["calibrated on"] == f"{len(feed['image'])} images"
    assert rows["pp_ocrv6"]["evaluated on"] == f"{reading.evaluation_count} lines"
    assert rows["pp_ocrv6"]["calibrated on"] == f"{reading.calibration_count} lines"
    assert f"at most {MOST_OF_A_KIND} a suffix" in rows["magika"]["labels from"]
    assert (rows["digits_cnn"]["metric"], rows["pp_ocrv6"]["metric"]) == (digits.metric, reading.metric)


@pytest.fixture(scope="module")
def exploration(tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """A small exploration of the digits network, as a user's own ONNX file with inputs."""
    folder = tmp_path_factory.mktemp("explored")
    image = DigitsTask().calibration_feeds()[0]["image"]
    np.savez(folder / "images.npz", image=image[:8])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITMOSAIC_CACHE_DIR", str(folder / "cache"))
        return bitmosaic.explore(
            _fixed_batch(folder), "bit_fusion",
            menu=["w8a8", "w2a8"], points=2, inputs=folder / "images.npz", results=folder / "results", workers=1,
            budget=bitmosaic.SearchBudget(cpu_seconds=0.05, target_gap=0.9),
        )


def _fixed_batch(folder: Path) -> Path:
    """The digits network as an ONNX file with batch 1."""
    network = bitmosaic.open_network("digits_cnn")
    assert network.model is not None
    (folder / "digits.onnx").write_bytes(network.model.SerializeToString())
    return folder / "digits.onnx"


def test_the_folder_holds_what_is_listed(exploration: Exploration) -> None:
    listed = {row["file"] for row in _table(EXPLORE, "The results folder")}
    listed |= {name.replace(".png", ".svg") for name in listed if name.endswith(".png")}
    there = {
        path.relative_to(exploration.folder).as_posix() for path in exploration.folder.rglob("*") if path.is_file()
    }
    patterns = {name for name in listed if "*" in name}
    assert all(fnmatchcase("assignments/m1.yaml", pattern) for pattern in patterns) and len(patterns) == 1
    there = {name for name in there if not any(fnmatchcase(name, pattern) for pattern in patterns)} | patterns
    # What methods and --minimise memory write is in tests of theirs.
    assert listed - there == {
        "inputs/network.json", "entropy.jsonl", "selections.jsonl", "distances.jsonl", "plots/memory_accuracy.png",
        "plots/memory_accuracy.svg",
    } and there <= listed


def test_columns_are_those_of_the_frames(exploration: Exploration) -> None:
    points = [row["column"] for row in _table(EXPLORE, "Columns of `points.csv`")]
    assert points == list(bitmosaic.points_frame(exploration).columns)
    layers = [row["column"] for row in _table(EXPLORE, "Columns of `layers.csv`")]
    frame = bitmosaic.layers_frame(exploration, exploration.points[0])
    names = [re.sub(r"^energy_.+_uj$", "energy_<component>_uj", name) for name in frame]
    assert layers == list(dict.fromkeys(names))
    units = {row["column"]: row["unit"] for row in _table(EXPLORE, "Columns of `layers.csv`")}
    for name, unit in units.items():
        for suffix, expected in (("_cycles", "cycles"), ("_uj", "µJ"), ("_percent", "%")):
            assert not name.endswith(suffix) or unit == expected
    parts = frame.columns[frame.columns.get_loc("total_cycles") + 1:][:8]
    assert (frame[parts].sum(axis=1) == frame["total_cycles"]).all(), "the next eight"
