"""Train the small digit classifier that ships with Bitmosaic: ``python -m workloads.train_digits``.

The data are scikit-learn's 1797 handwritten digits (8×8 pixels, UCI "Optical Recognition of Handwritten
Digits"), the network is a convolutional one of six layers, and the training is plain NumPy on one thread,
so that two runs on one machine give the same bits. It writes ``data/digits_cnn.onnx`` (symbolic batch) and
``data/digits_test.npz`` (test and calibration images, neither of them seen in training, with the indices of
all three parts). The network is small on purpose: 2-bit weights hurt it, 8-bit weights do not, and a
measurement of its accuracy takes milliseconds, so whole sweeps can be re-scored by measurement.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import MissingPackageError

Array = NDArray[np.float32]
Parameters = dict[str, Array]

DATA = Path(__file__).parent / "data"
TEST_COUNT, CALIBRATION_COUNT = 400, 128
CLASSES = 10
SMOOTHING = 0.1  # share of the target spread over all classes (Szegedy et al., arXiv 1512.00567, §7)


class Convolution(NamedTuple):
    """Shape of one 3×3 or 1×1 convolution; ``groups`` is 1, or ``inputs`` for a depthwise one."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    groups: int

    @property
    def padding(self) -> int:
        """Zeros on each side: keeps the size at stride 1."""
        return self.kernel // 2


CONVOLUTIONS = (
    Convolution("conv1", 1, 16, 3, 1, 1),
    Convolution("conv2", 16, 32, 3, 2, 1),
    Convolution("depthwise", 32, 32, 3, 1, 32),
    Convolution("pointwise", 32, 48, 1, 2, 1),
)
LINEAR = (("linear1", 48 * 2 * 2, 64), ("linear2", 64, CLASSES))


@dataclass(frozen=True)
class DigitsSplit:
    """Images float32 [n, 1, 8, 8] in 0 … 1, labels int64 [n], and each one's index in scikit-learn's set."""

    images: Array
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def load_splits(seed: int = 0) -> tuple[DigitsSplit, DigitsSplit, DigitsSplit]:
    """Return the training, calibration and test parts: disjoint, drawn with ``seed``.

    Raises ``MissingPackageError`` without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "scikit-learn is needed to train the digits network: pip install 'bitmosaic[train]'"
        ) from error
    digits = load_digits()
    images = (digits.images[:, None] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels)).astype(np.int64)
    held_out = TEST_COUNT + CALIBRATION_COUNT
    parts = order[held_out:], order[TEST_COUNT:held_out], order[:TEST_COUNT]
    training, calibration, test = (
        DigitsSplit(images[part], labels[part], part) for part in (np.sort(part) for part in parts)
    )
    return training, calibration, test


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Draw weights with He's normal scale (variance 2 / fan-in); biases are zero."""
    parameters: Parameters = {}
    for conv in CONVOLUTIONS:
        shape = (conv.outputs, conv.inputs // conv.groups, conv.kernel, conv.kernel)
        fan_in = shape[1] * shape[2] * shape[3]
        parameters[f"{conv.name}.weight"] = _normal(rng, shape, fan_in)
        parameters[f"{conv.name}.bias"] = np.zeros(conv.outputs, np.float32)
    for name, inputs, outputs in LINEAR:
        parameters[f"{name}.weight"] = _normal(rng, (outputs, inputs), inputs)
        parameters[f"{name}.bias"] = np.zeros(outputs, np.float32)
    return parameters


def loss_and_gradients(parameters: Parameters, images: Array, labels: NDArray[np.int64]) -> tuple[float, Parameters]:
    """Mean cross-entropy with smoothed labels over a batch, and its gradient by every parameter (back-propagation).

    Computes in the type of ``images``: float32 to train, float64 to check against finite differences.
    """
    # Forward, keeping what the way back needs: the input windows of convolutions, the inputs of linear layers.
    kept, x = [], images
    for conv in CONVOLUTIONS:
        windows = _windows(x, conv)
        y = _convolve(windows, parameters[f"{conv.name}.weight"], conv)
        y += parameters[f"{conv.name}.bias"][:, None, None]
        kept.append((x.shape, windows, y > 0))
        x = np.maximum(y, 0)
    folded_shape, x = x.shape, x.reshape(len(x), -1)
    inputs = []
    for index, (name, _, _) in enumerate(LINEAR):
        inputs.append(x)
        x = x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        if index < len(LINEAR) - 1:
            x = np.maximum(x, 0)
    shifted = x - x.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = np.full_like(x, SMOOTHING / CLASSES)
    target[np.arange(len(labels)), labels] += 1 - SMOOTHING
    loss = -float((target * log_probabilities).sum(axis=1).mean())

    gradients: Parameters = {}
    upstream = (np.exp(log_probabilities) - target) / len(labels)
    for index in reversed(range(len(LINEAR))):
        name = LINEAR[index][0]
        gradients[f"{name}.weight"] = upstream.T @ inputs[index]
        gradients[f"{name}.bias"] = upstream.sum(axis=0)
        # Every linear layer reads the output of a ReLU, so zeros of its input stop the gradient.
        upstream = (upstream @ parameters[f"{name}.weight"]) * (inputs[index] > 0)
    upstream = upstream.reshape(folded_shape)
    for conv, (input_shape, windows, active) in zip(reversed(CONVOLUTIONS), reversed(kept), strict=True):
        upstream = upstream * active
        gradients[f"{conv.name}.bias"] = upstream.sum(axis=(0, 2, 3))
        weight = parameters[f"{conv.name}.weight"]
        gradients[f"{conv.name}.weight"] = _weight_gradient(windows, upstream, conv)
        upstream = _input_gradient(upstream, weight, conv, input_shape)
    return loss, gradients


def train(
    training: DigitsSplit, *, epochs: int = 40, seed: int = 0, batch: int = 32, learning_rate: float = 3e-3,
    decay: float = 0.02,
) -> Parameters:
    """Train with Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), cosine learning rate, weight decay.

    Images move by at most one pixel, at random, so that 1269 of them are enough. Deterministic: one BLAS
    thread, one generator. Returns the parameters after ``epochs`` passes.
    """
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(rng)
    first = {name: np.zeros_like(value) for name, value in parameters.items()}
    second = {name: np.zeros_like(value) for name, value in parameters.items()}
    count = len(training.labels)
    steps_in_all = epochs * -(-count // batch)
    step = 0
    with _one_thread():
        for _ in range(epochs):
            order = rng.permutation(count)
            for start in range(0, count, batch):
                chosen = order[start : start + batch]
                images = _shifted(training.images[chosen], rng)
                _, gradients = loss_and_gradients(parameters, images, training.labels[chosen])
                rate = learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps_in_all))
                step += 1
                for name, value in parameters.items():
                    gradient = gradients[name]
                    first[name] += 0.1 * (gradient - first[name])
                    second[name] += 0.001 * (gradient * gradient - second[name])
                    mean = first[name] / (1 - 0.9**step)
                    spread = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
                    value -= np.float32(rate) * (mean / spread + np.float32(decay) * value)
    return parameters


def export(parameters: Parameters) -> onnx.ModelProto:
    """Write the network as ONNX: ``image`` float32 [batch, 1, 8, 8] → ``logits`` [batch, 10], batch symbolic."""
    nodes, current = [], "image"
    for conv in CONVOLUTIONS:
        nodes.append(
            helper.make_node(
                "Conv", [current, f"{conv.name}.weight", f"{conv.name}.bias"], [f"{conv.name}.out"], name=conv.name,
                kernel_shape=[conv.kernel] * 2, strides=[conv.stride] * 2, pads=[conv.padding] * 4, group=conv.groups,
            )
        )
        current = f"{conv.name}.relu"
        nodes.append(helper.make_node("Relu", [f"{conv.name}.out"], [current], name=current))
    nodes.append(helper.make_node("Flatten", [current], ["features"], name="flatten", axis=1))
    current = "features"
    for index, (name, _, _) in enumerate(LINEAR):
        last = index == len(LINEAR) - 1
        out = "logits" if last else f"{name}.out"
        nodes.append(
            helper.make_node("Gemm", [current, f"{name}.weight", f"{name}.bias"], [out], name=name, transB=1)
        )
        if not last:
            current = f"{name}.relu"
            nodes.append(helper.make_node("Relu", [out], [current], name=current))
    graph = helper.make_graph(
        nodes, "digits_cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in parameters.items()],
    )
    model = helper.make_model(graph, producer_name="bitmosaic", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, write both data files, and print the accuracy on the test part."""
    began = time.process_time()
    training, calibration, test = load_splits()
    parameters = train(training)
    DATA.mkdir(exist_ok=True)
    onnx.save(export(parameters), DATA / "digits_cnn.onnx")
    np.savez_compressed(
        DATA / "digits_test.npz",
        test_images=test.images, test_labels=test.labels, test_indices=test.indices,
        calibration_images=calibration.images, calibration_labels=calibration.labels,
        calibration_indices=calibration.indices, train_indices=training.indices,
    )
    correct = int((predict(parameters, test.images).argmax(axis=1) == test.labels).sum())
    print(
        f"digits_cnn: {correct} of {len(test.labels)} test digits right ({correct / len(test.labels):.2%}), "
        f"{sum(value.size for value in parameters.values())} parameters, "
        f"{time.process_time() - began:.1f} s of processor time"
    )


def predict(parameters: Parameters, images: Array) -> Array:
    """Logits float32 [n, 10] of images [n, 1, 8, 8]."""
    x = images
    for conv in CONVOLUTIONS:
        y = _convolve(_windows(x, conv), parameters[f"{conv.name}.weight"], conv)
        x = np.maximum(y + parameters[f"{conv.name}.bias"][:, None, None], 0)
    x = x.reshape(len(x), -1)
    for index, (name, _, _) in enumerate(LINEAR):
        x = x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
        x = x if index == len(LINEAR) - 1 else np.maximum(x, 0)
    return x


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Array:
    return np.asarray(rng.standard_normal(shape) * np.sqrt(2.0 / fan_in), np.float32)


def _shifted(images: Array, rng: np.random.Generator) -> Array:
    """Move each image by -1, 0 or 1 pixels in both directions; what comes in from outside is zero."""
    padded: Array = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    eight = np.arange(8)
    moved: Array = padded[
        np.arange(len(images))[:, None, None], 0, (rows[:, None] + eight)[:, :, None],
        (columns[:, None] + eight)[:, None, :],
    ]
    return moved[:, None]


def _windows(x: Array, conv: Convolution) -> Array:
    """All kernel windows of a padded input: [n, c, p, q, r, s]."""
    pad = conv.padding
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (conv.kernel, conv.kernel), axis=(2, 3))
    strided: Array = windows[:, :, :: conv.stride, :: conv.stride]
    return strided


def _convolve(windows: Array, weight: Array, conv: Convolution) -> Array:
    if conv.groups > 1:
        return np.asarray(np.einsum("ncpqrs,crs->ncpq", windows, weight[:, 0]), windows.dtype)
    return np.ascontiguousarray(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2))


def _weight_gradient(windows: Array, upstream: Array, conv: Convolution) -> Array:
    if conv.groups > 1:
        return np.asarray(np.einsum("ncpqrs,ncpq->crs", windows, upstream)[:, None], windows.dtype)
    return np.asarray(np.tensordot(upstream, windows, ((0, 2, 3), (0, 2, 3))), windows.dtype)


def _input_gradient(upstream: Array, weight: Array, conv: Convolution, shape: tuple[int, ...]) -> Array:
    """Scatter the gradient back, one kernel tap at a time."""
    count, channels, height, width = shape
    pad, step = conv.padding, conv.stride
    padded = np.zeros((count, channels, height + 2 * pad, width + 2 * pad), upstream.dtype)
    rows, columns = upstream.shape[2:]
    for r in range(conv.kernel):
        for s in range(conv.kernel):
            if conv.groups > 1:
                tap = upstream * weight[:, 0, r, s][:, None, None]
            else:
                tap = np.tensordot(upstream, weight[:, :, r, s], (1, 0)).transpose(0, 3, 1, 2)
            padded[:, :, r : r + rows * step : step, s : s + columns * step : step] += tap
    return padded[:, :, pad : pad + height, pad : pad + width]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Hold BLAS to one thread: with more, the order of additions could change from run to run."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    with threadpool_limits(limits=1):
        yield


if __name__ == "__main__":
    main()
