"""The shipped digits network and its data, and the training that made them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from workloads import train_digits
from workloads.tasks.digits import DATA, DigitsTask

MODEL = DATA.with_name("digits_cnn.onnx")


def shipped_run():
    session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))


def test_shipped_accuracy():
    score = DigitsTask().evaluate(shipped_run())
    assert score.count == 400
    assert score.value == pytest.approx(0.985, abs=0.0026)  # one digit may fall otherwise on another processor


def test_batch_is_symbolic_and_nodes_are_named():
    model = onnx.load(str(MODEL))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")] == [
        "conv1", "conv2", "depthwise", "pointwise", "linear1", "linear2",
    ]


def test_parts_are_disjoint_and_complete():
    with np.load(DATA) as data:
        parts = [data[f"{part}_indices"] for part in ("train", "calibration", "test")]
        assert data["test_images"].shape == (400, 1, 8, 8)
        assert data["calibration_images"].shape == (128, 1, 8, 8)
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together) == 1797


def test_shipped_data_are_scikit_learns():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install 'bitmosaic[train]')")
    training, calibration, test = train_digits.load_splits()
    with np.load(DATA) as data:
        np.testing.assert_array_equal(data["test_images"], test.images)
        np.testing.assert_array_equal(data["test_labels"], test.labels)
        np.testing.assert_array_equal(data["calibration_images"], calibration.images)
        np.testing.assert_array_equal(data["train_indices"], training.indices)


def test_training_is_deterministic_and_learns():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install 'bitmosaic[train]')")
    training, _, test = train_digits.load_splits()
    first, second = (train_digits.train(training, epochs=1) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert train_digits.export(first).SerializeToString() == train_digits.export(second).SerializeToString()
    assert (train_digits.predict(first, test.images).argmax(axis=1) == test.labels).mean() > 0.3  # chance: 0.1


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(3)
    parameters = {name: value.astype(np.float64) for name, value in train_digits.initial_parameters(rng).items()}
    for value in parameters.values():
        value += rng.normal(0, 0.05, value.shape)  # no bias at exactly zero, where ReLU has no derivative
    images, labels = rng.random((3, 1, 8, 8)), np.array([1, 5, 9])
    _, gradients = train_digits.loss_and_gradients(parameters, images, labels)
    step = 1e-6
    for name, value in parameters.items():
        for index in rng.integers(0, value.size, 4):
            at = np.unravel_index(index, value.shape)
            losses = []
            for sign in (1, -1):
                value[at] += sign * step
                losses.append(train_digits.loss_and_gradients(parameters, images, labels)[0])
                value[at] -= sign * step
            assert gradients[name][at] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=1e-8), name


def test_exported_model_computes_what_numpy_computes():
    parameters = train_digits.initial_parameters(np.random.default_rng(4))
    images = np.random.default_rng(5).random((7, 1, 8, 8)).astype(np.float32)
    session = ort.InferenceSession(
        train_digits.export(parameters).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(
        session.run(None, {"image": images})[0], train_digits.predict(parameters, images), rtol=1e-4, atol=1e-5
    )
