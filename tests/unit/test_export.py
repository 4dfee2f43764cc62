"""Exported networks: run by onnxruntime and by qonnx, and equal to what accuracies are measured with."""

import functools
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bitmosaic import cli
from bitmosaic.explorations.assignment_file import AssignmentFile, dump_assignment, load_assignment
from bitmosaic.explorations.narrow_channels import LayerChannels, NarrowChannels
from simulator.errors import PrecisionError
from simulator.formats import Format
from simulator.precision import LayerPrecision
from workloads import export_onnx as onnx_module
from workloads import export_qonnx as qonnx_module
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.calibration import ValueRange
from workloads.export_flexiq import export_flexiq
from workloads.export_onnx import export_onnx
from workloads.export_operands import METADATA
from workloads.export_qonnx import export_qonnx
from workloads.fake_quantised_model import Calibrated
from workloads.flexiq import greedy
from workloads.flexiq_model import FlexiqSession
from workloads.onnx_import import import_model
from workloads.quantisation import activation_parameters, quantise_activation
from workloads.tasks import find_task


def precision(text):
    """``w4a8``, or ``w4a8 8`` in groups of 8 weights."""
    name, _, group = text.partition(" ")
    parsed = LayerPrecision.parse(name)
    return parsed.model_copy(update={"weight_group": int(group)}) if group else parsed


def run_model(model, feed):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, dict(feed))


@pytest.fixture
def run_qonnx(monkeypatch):
    """Runs single examples with the package's own executor."""
    pytest.importorskip("qonnx")
    from qonnx.core import onnx_exec
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    # It writes models of one node in the newest version of the file format, which may be too new for onnxruntime.
    make = functools.partial(onnx_exec.qonnx_make_model, ir_version=10)
    monkeypatch.setattr(onnx_exec, "qonnx_make_model", make)

    def run(model, name, rows):
        wrapped = ModelWrapper(model).transform(InferShapes())
        output = wrapped.graph.output[0].name
        return np.concatenate([onnx_exec.execute_onnx(wrapped, {name: row[None]})[output] for row in rows])

    return run


TEXTS = ("w8a8", "w4a4", "w3a5", "w2a2", "w1a1", "w12a9", "w16a16", "w4a8 8", "w8a8 0", "fp8_e4m3", "fp8_e4m3_ieee",
         "fp8_e5m2", "fp16", "bf16", "int4:fp32", "w4:fp8_e4m3", "w3:fp8_e4m3_ieee 40")


@pytest.mark.parametrize("text", TEXTS)
def test_onnxruntime_computes_what_accuracy_is_measured_with(digits, evaluator, text):
    assignment = uniform(digits, precision(text))
    model = export_onnx(evaluator.calibrated, assignment)
    onnx.checker.check_model(model)
    feed = {"image": find_task(digits).calibration_feeds()[0]["image"][:32]}
    np.testing.assert_array_equal(run_model(model, feed)[0], evaluator.runner(assignment)(feed)[0])
    trained = {binding.weight for binding in digits.bindings.values()}
    assert not trained & {tensor.name for tensor in model.graph.initializer}  # no weight in FP32 is left


def test_codes_take_the_room_of_their_width(digits, evaluator):
    kinds = {"w4a8": TensorProto.INT4, "w8a8": TensorProto.INT8, "w4:fp8_e4m3": TensorProto.UINT4,
             "w9a8": TensorProto.INT16, "fp8_e5m2": TensorProto.FLOAT8E5M2, "bf16": TensorProto.BFLOAT16}
    sizes = {}
    for text, kind in kinds.items():
        model = export_onnx(evaluator.calibrated, uniform(digits, precision(text)))
        codes = [tensor for tensor in model.graph.initializer if tensor.name.endswith("trained/codes")]
        assert len(codes) == 6 and {tensor.data_type for tensor in codes} == {kind}
        sizes[text] = sum(len(tensor.raw_data) for tensor in codes)
        (note,) = [item.value for item in model.metadata_props if item.key == METADATA]
        layers = json.loads(note)["layers"]
        assert layers.keys() == digits.bindings.keys() and layers["conv1"]["precision"] == text
    weights = digits.weight_count
    assert sizes["w8a8"] == weights and weights / 2 <= sizes["w4a8"] <= weights / 2 + 6
    assert sizes["w9a8"] == sizes["bf16"] == 2 * weights


def linear_network(weight, opset=13):
    """``y = x · weight``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return import_model(model, name="linear", input_shapes={"x": (1, len(weight))})


widths = st.integers(1, 16)
formats = widths.flatmap(lambda bits: st.sampled_from([f"int{bits}", f"uint{bits}", "fp8_e4m3", "bf16"]))


@given(formats, st.sampled_from([0, -1, 3, 8, 20]), st.booleans(), st.sampled_from([11, 13, 21]))
def test_weights_come_back_bit_for_bit(format, group, has_zero, opset):
    """Fed with unit vectors, the network says what its weights are; groups may be cut short."""
    weight = np.random.default_rng(5).normal(0, 0.3, (20, 6)).astype(np.float32)
    network = linear_network(weight, opset)
    zero_bits = Format(format).bits if has_zero and Format(format).is_integer else 0
    asked = LayerPrecision(weight=Format(format), input=Format("fp32"), weight_group=group, zero_bits=zero_bits)
    layer = network.layers[0].name
    calibrated = Calibrated(network, {"x": ValueRange(-1, 1)})
    model = export_onnx(calibrated, {layer: asked})
    onnx.checker.check_model(model)
    quantised = calibrated.weight(layer, asked).values
    (found,) = run_model(model, {"x": np.eye(20, dtype=np.float32)})
    np.testing.assert_array_equal(found, quantised)


@given(formats, st.sampled_from(["affine", "symmetric"]), st.booleans(), st.floats(-3, 0), st.floats(0.1, 5))
def test_activations_are_rounded_as_in_the_evaluator(format, scheme, fusible, low, high):
    network = linear_network(np.ones((1, 1), np.float32))
    calibrated = Calibrated(network, {"x": ValueRange(low, high)}, scheme)
    layer = network.layers[0].name
    model = export_onnx(calibrated, {layer: LayerPrecision(weight=Format("fp32"), input=Format(format))},
                        fusible=fusible)
    parameters = activation_parameters(low, high, format, scheme)
    steps = (np.arange(-40, 40) / 2).astype(np.float32) * np.float32(parameters.scale)  # ties among them
    x = np.concatenate([steps, np.random.default_rng(2).normal(0, 3, 200), [0, 1e30, -1e30]]).astype(np.float32)
    (found,) = run_model(model, {"x": x[:, None]})
    np.testing.assert_array_equal(found[:, 0], quantise_activation(x, parameters).values)


def test_expanded_beforehand_where_fp32_would_round_twice(digits, evaluator, monkeypatch):
    monkeypatch.setattr(onnx_module, "expands_alike", lambda stored: False)
    assignment = uniform(digits, precision("w4:fp8_e4m3_ieee"))
    model = export_onnx(evaluator.calibrated, assignment)
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("trained/codes")}
    assert kinds == {TensorProto.FLOAT8E4M3FN}
    feed = {"image": find_task(digits).calibration_feeds()[0]["image"][:8]}
    np.testing.assert_array_equal(run_model(model, feed)[0], evaluator.runner(assignment)(feed)[0])


@pytest.mark.parametrize(("text", "beforehand"), [
    ("w8a8", False), ("w3a5", False), ("w4a8 8", False), ("w5a6 0", False), ("w1a1", False), ("fp8_e4m3", False),
    ("w4:fp8_e4m3_ieee", False), ("w4:fp8_e4m3_ieee", True),
])
def test_qonnx_computes_what_accuracy_is_measured_with(digits, evaluator, run_qonnx, monkeypatch, text, beforehand):
    if beforehand:
        monkeypatch.setattr(qonnx_module, "expands_alike", lambda stored: False)
    assignment = uniform(digits, precision(text))
    model = export_qonnx(evaluator.calibrated, assignment)
    quants = [node for node in model.graph.node if node.domain == "qonnx.custom_op.general"]
    assert len(quants) == (18 if text.startswith("w4:") and not beforehand else 12)  # six layers, two operands
    images = find_task(digits).calibration_feeds()[0]["image"][:6]
    expected = evaluator.runner(assignment)({"image": images})[0]
    # Sums of one example alone have another order.
    np.testing.assert_allclose(run_qonnx(model, "image", images), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_qonnx_ties_go_the_other_way_only_where_a_zero_point_is_odd(run_qonnx):
    network = linear_network(np.ones((1, 1), np.float32))
    layer = network.layers[0].name
    for low, high in ((-2.0, 13.0), (-3.0, 12.0)):  # scale 1 in 4 bits
        calibrated = Calibrated(network, {"x": ValueRange(low, high)})
        model = export_qonnx(calibrated, {layer: LayerPrecision(weight=Format("fp32"), input=Format("uint4"))})
        parameters = activation_parameters(low, high, "uint4")
        assert (parameters.scale, parameters.zero_point) == (1.0, -low)
        x = np.arange(-2, 6, 0.25, dtype=np.float32)
        found, ours = run_qonnx(model, "x", x[:, None])[:, 0], quantise_activation(x, parameters).values
        differs = found != ours
        ties = np.abs(x - np.floor(x) - 0.5) < 1e-6
        assert np.array_equal(differs, ties if low == -3 else np.zeros_like(ties))


def test_split_layers_are_refused(digits, evaluator):
    split = {"conv2": LayerPrecision.parse("w8a8/w4a4@0.5")}
    for export in (export_onnx, export_qonnx):
        with pytest.raises(PrecisionError, match="split by channel"):
            export(evaluator.calibrated, split)


def test_gptq_codes_survive(digits, run_qonnx):
    """Codes that are not the nearest ones are still those that are stored."""
    evaluator = AccuracyEvaluator(digits, find_task(digits), quantiser="gptq", threads=1)
    assignment = uniform(digits, precision("w3a8"))
    feed = {"image": find_task(digits).calibration_feeds()[0]["image"][:4]}
    expected = evaluator.runner(assignment)(feed)[0]
    model = export_onnx(evaluator.calibrated, assignment)
    np.testing.assert_array_equal(run_model(model, feed)[0], expected)
    found = run_qonnx(export_qonnx(evaluator.calibrated, assignment), "image", feed["image"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def export_command(*arguments):
    return CliRunner().invoke(cli.main, ["export", *(str(argument) for argument in arguments)])


def test_the_command_writes_runs_and_compares(tmp_path):
    path = tmp_path / "small.onnx"
    result = export_command("digits_cnn", "--precision", "w4a8", "--layer-precision", "conv1=w8a8", "--out", path)
    assert result.exit_code == 0 and "of 1,280 outputs none differs" in result.output
    layers = json.loads({item.key: item.value for item in onnx.load(path).metadata_props}[METADATA])["layers"]
    assert layers["conv1"]["precision"] == "w8a8" and layers["conv2"]["precision"] == "w4a8"
    result = export_command("digits_cnn", "--precision", "fp32", "--layer-precision", "conv*=w3a8", "--to", "qonnx",
                            "--out", path)
    assert result.exit_code == 0 and "Not run here" in result.output
    assert [node.op_type for node in onnx.load(path).graph.node].count("Quant") == 4  # two layers
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_what_the_command_refuses(tmp_path):
    path = tmp_path / "small.onnx"
    for arguments, message in (
        (["digits_cnn", "--layer-precision", "conf1=w4a8"], "did you mean 'conv1'?"),
        (["resnet18"], "nothing to quantise"),
        (["digits_cnn", "--fusible", "--to", "qonnx"], "--fusible: is of --to onnx alone"),
        (["digits_cnn", "--quantiser", "dpq"], "is for weights that are expanded"),
        (["digits_cnn", "--precision", "w8"], "must name weight and activation bits"),
    ):
        result = export_command(*arguments, "--out", path)
        assert result.exit_code == 2 and message in result.output and not path.exists()
    result = export_command("digits_cnn", "--out", tmp_path / "absent" / "small.onnx")
    assert result.exit_code == 2 and "No such file or directory" in result.output


def assignment_text(digits, quantiser="rtn", **changed):
    """A file of ``explore`` with all layers of the digits network."""
    precisions = {layer.name: precision("w4a8" if number % 2 else "w8a8") for number, layer in enumerate(digits.layers)}
    precisions |= {name: precision(text) for name, text in changed.items()}
    return dump_assignment(AssignmentFile(
        network="digits_cnn", hardware="bit_fusion", quantiser=quantiser, precisions=precisions
    ))


def test_an_assignment_of_explore_is_exported_as_it_was_measured(digits, evaluator, tmp_path):
    path, out = tmp_path / "m1.yaml", tmp_path / "out.onnx"
    path.write_text(assignment_text(digits, quantiser="gptq"))
    asked = ["export", "digits_cnn", "--assignment", str(path), "--out", str(out)]
    result = CliRunner().invoke(cli.main, asked)
    assert result.exit_code == 0, result.output
    assert "6 layers quantised" in result.stdout and "none differs" in result.stdout
    chosen = load_assignment(path, digits).precisions
    compensated = AccuracyEvaluator(digits, find_task(digits), quantiser="gptq", threads=1)
    feed = {"image": find_task(digits).calibration_feeds()[0]["image"][:32]}
    written = run_model(onnx.load(out), feed)[0]
    np.testing.assert_array_equal(written, compensated.runner(chosen)(feed)[0])
    assert CliRunner().invoke(cli.main, [*asked, "--quantiser", "rtn"]).exit_code == 0  # goes before the file's
    rounded = run_model(onnx.load(out), feed)[0]
    np.testing.assert_array_equal(rounded, evaluator.runner(chosen)(feed)[0])
    assert not np.array_equal(written, rounded)


def test_assignments_that_cannot_be_exported_are_refused(digits, tmp_path):
    path, out = tmp_path / "m1.yaml", tmp_path / "out.onnx"
    asked = ["export", "digits_cnn", "--assignment", str(path), "--out", str(out)]
    path.write_text(assignment_text(digits, conv1="w8a8/w4a4@0.5", linear2="w8a8/w4a4@1"))
    split = CliRunner().invoke(cli.main, asked)
    assert split.exit_code == 2
    for layer in ("layer conv1=w8a8/w4a4@0.5", "layer linear2=w8a8/w4a4@1"):
        assert f"digits_cnn: {layer}: layers split by channel are not exported without a file" in split.stderr
    path.write_text(assignment_text(digits).replace("  conv1: w8a8\n", ""))
    twice = CliRunner().invoke(cli.main, [*asked, "--precision", "w4a8"])
    assert twice.exit_code == 2 and "--precision: names precisions, and so does --assignment" in twice.stderr
    lacking = CliRunner().invoke(cli.main, asked)
    assert lacking.exit_code == 2 and "precisions=conv1: has no precision for a layer of digits_cnn" in lacking.stderr
    assert not out.exists()


@pytest.mark.parametrize("extraction", ["static", "dynamic"])
def test_lowered_channels_compute_what_flexiq_measures(digits, extraction):
    feeds = find_task(digits).calibration_feeds()
    session = FlexiqSession(digits, feeds, extraction=extraction, threads=1)
    units = session.units(4)
    held_out = np.random.default_rng(3).normal(size=(40, 1, 8, 8)).astype(np.float32)  # beyond the calibrated range
    outputs = []
    for mask in greedy(units, (0.0, 0.1, 0.3, 1.0)):
        channels = session.lowered_channels(units, mask)
        model = export_flexiq(session, channels)
        onnx.checker.check_model(model)
        for images in (feeds[0]["image"][:40], held_out):
            outputs.append(run_model(model, {"image": images})[0])
            np.testing.assert_array_equal(outputs[-1], session.runner(channels)({"image": images})[0])
        layers = json.loads({item.key: item.value for item in model.metadata_props}[METADATA])["layers"]
        for layer, narrow in channels.items():
            assert layers[layer].get("input channels in 4 bits", []) == list(np.flatnonzero(narrow))
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        assert not {binding.weight for binding in digits.bindings.values()} & set(stored)
        codes = numpy_helper.to_array(stored["bitmosaic/conv2/trained/codes"])
        by_channel = np.moveaxis(codes, 1, 0)[channels["conv2"]]
        assert codes.dtype == np.int8
        # A narrow channel has at most 16 codes, all of them multiples of one power of two.
        assert all(len(np.unique(own)) <= 16 for own in by_channel)
    assert not any(np.array_equal(outputs[0], other) for other in outputs[2::2])


def test_a_network_of_an_old_opset_is_brought_to_scales_by_channel():
    rng = np.random.default_rng(4)
    weights = [numpy_helper.from_array(rng.normal(size=(6, 6)).astype(np.float32), f"w{place}") for place in (0, 1)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
         helper.make_node("MatMul", ["h", "w1"], ["y"], name="second")],
        "old", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    network = import_model(model, name="old")
    feed = {"x": rng.normal(size=(4, 6)).astype(np.float32)}
    session = FlexiqSession(network, [feed], threads=1)
    channels = {"second": np.array([True, False, True, True, False, True])}
    model = export_flexiq(session, channels)
    assert model.opset_import[0].version == 13
    np.testing.assert_array_equal(run_model(model, feed)[0], session.runner(channels)(feed)[0])


def flexiq_text(digits, precisions=None, **counts):
    """A file of ``explore --method flexiq``, whose channels are in reverse order."""
    chosen, layers = {}, {}
    for layer in digits.layers:
        extent, count = layer.extent("C"), counts.get(layer.name, 0)
        chosen[layer.name] = precision(f"w8a8/w4a4@{count / extent}" if count else "w8a8")
        if layer.name != "depthwise":
            layers[layer.name] = LayerChannels(max_4bit_ch=count, order=tuple(reversed(range(extent))))
    return dump_assignment(AssignmentFile(
        network="digits_cnn", hardware="flexiq_like", quantiser="rtn", precisions=chosen | (precisions or {}),
        flexiq=NarrowChannels(layers=layers),
    ))


def test_an_assignment_of_flexiq_is_exported_as_it_was_measured(digits, tmp_path):
    path, out = tmp_path / "m1.yaml", tmp_path / "out.onnx"
    path.write_text(flexiq_text(digits, pointwise=10, linear2=64))
    asked = ("digits_cnn", "--assignment", path, "--out", out)
    result = export_command(*asked)
    assert result.exit_code == 0, result.output
    assert "6 layers quantised, 2 of them with input channels in 4 bits" in result.stdout
    assert "of 1,280 outputs none differs" in result.stdout
    task = find_task(digits)
    session = FlexiqSession(digits, task.calibration_feeds(), threads=1)
    channels = {"pointwise": np.arange(32) >= 22, "linear2": np.ones(64, bool)}
    model = onnx.load(out)
    feed = {"image": task.calibration_feeds()[0]["image"][:32]}
    np.testing.assert_array_equal(run_model(model, feed)[0], session.runner(channels)(feed)[0])
    expected = task.evaluate(session.runner(channels))
    assert task.evaluate(lambda given: run_model(model, given)).value == expected.value


def test_what_an_assignment_of_flexiq_leaves_no_room_for(digits, tmp_path):
    path, out = tmp_path / "m1.yaml", tmp_path / "out.onnx"
    asked = ("digits_cnn", "--assignment", path, "--out", out)
    path.write_text(flexiq_text(digits, pointwise=10))
    for options, messages in (
        (["--to", "qonnx"], ["--to=qonnx: contradicts the assignment", "ONNX can say it"]),
        (["--quantiser", "gptq", "--scheme", "affine", "--fusible"],
         ["--quantiser=gptq: contradicts", "--scheme=affine: contradicts", "--fusible: contradicts"]),
    ):
        result = export_command(*asked, *options)
        assert result.exit_code == 2 and all(message in result.stderr for message in messages), result.output
    assert export_command(*asked, "--scheme", "symmetric").exit_code == 0
    out.unlink()
    path.write_text(flexiq_text(digits, {"conv1": precision("w4a8")}, pointwise=10))
    result = export_command(*asked)
    assert result.exit_code == 2 and "layer conv1=w4a8: must be w8a8 with channels in w4a4" in result.stderr
    assert not out.exists()
