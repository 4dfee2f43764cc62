"""Tasks: disjoint data, fixed seeds, and scores of networks from optional packages."""

import importlib.util

import networkx as nx
import numpy as np
import pytest

from simulator.errors import MissingPackageError, NetworkError
from simulator.formats import Format
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.library import open_network
from workloads.network import Network
from workloads.tasks import Task, find_task
from workloads.tasks import magika as magika_task
from workloads.tasks import pp_ocrv6 as ocr
from workloads.tasks.digits import DigitsTask
from workloads.tasks.made_files import made_files
from workloads.tasks.user_inputs import UserInputsTask

needs_magika = pytest.mark.skipif(importlib.util.find_spec("magika") is None,
                                  reason="magika is not installed (pip install 'bitmosaic[networks]')")
needs_rapidocr = pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None,
                                    reason="rapidocr is not installed (pip install --no-deps rapidocr)")


def test_find_task():
    digits = open_network("digits_cnn")
    task = find_task(digits)
    assert isinstance(task, DigitsTask) and isinstance(task, Task)
    assert find_task(Network("something else", nx.DiGraph())) is None
    assert find_task(Network("digits_cnn", nx.DiGraph())) is None  # shapes only


# --- arrays of the user ---


@pytest.fixture
def digits_npz(tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, image=np.random.default_rng(1).random((40, 1, 8, 8)).astype(np.float32))
    return path


def test_user_inputs_agree_with_themselves(digits_npz):
    network = open_network("digits_cnn")
    task = UserInputsTask(network, digits_npz)
    evaluator = AccuracyEvaluator(network, task)
    assert evaluator.fp32().metric == "agreement with FP32"
    assert (evaluator.fp32().value, evaluator.fp32().count) == (1.0, 30)
    assert sum(len(feed["image"]) for feed in task.calibration_feeds()) == 10
    coarse = evaluator.measure(uniform(network, LayerPrecision.parse("w2a2")))
    assert coarse.value < evaluator.measure(uniform(network, LayerPrecision.parse("w8a8"))).value


def test_user_inputs_are_split_apart(digits_npz):
    task = UserInputsTask(open_network("digits_cnn"), digits_npz)
    seen = []
    task.evaluate(lambda feed: (seen.extend(feed["image"]), [np.zeros((len(feed["image"]), 10))])[1])
    calibration = {row.tobytes() for feed in task.calibration_feeds() for row in feed["image"]}
    assert len(seen) == 30 and not calibration & {row.tobytes() for row in seen}


@pytest.mark.parametrize("arrays, message", [
    ({"image": np.zeros((4, 8, 8), np.float32)}, "must have the shape any×1×8×8"),
    ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, "picture: no such input"),
    ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, "NaN"),
    ({"image": np.zeros((1, 1, 8, 8), np.float32)}, "at least 2"),
])
def test_user_inputs_that_do_not_fit(tmp_path, arrays, message):
    path = tmp_path / "inputs.npz"
    np.savez(path, **arrays)
    with pytest.raises(NetworkError, match=message):
        UserInputsTask(open_network("digits_cnn"), path)


def test_user_inputs_that_cannot_be_read(tmp_path):
    network = open_network("digits_cnn")
    with pytest.raises(NetworkError, match="no such file"):
        UserInputsTask(network, tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(NetworkError, match=r"no \.npz file"):
        UserInputsTask(network, tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(NetworkError, match="holds one array"):
        UserInputsTask(network, tmp_path / "one.npy")


# --- magika ---


def test_made_files_are_the_same_every_time():
    first, second = list(made_files()), list(made_files())
    assert first == second and len({content for _, _, content in first}) == len(first)


def test_missing_magika_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(MissingPackageError, match=r"pip install 'bitmosaic\[networks\]'"):
        magika_task.MagikaTask().calibration_feeds()


@needs_magika
def test_features_and_labels_equal_magikas_own():
    import magika

    network, features = open_network("magika"), magika_task.read_features()
    contents = [content for _, _, content in list(magika_task.known_files())[::11]]
    contents += [b"  \n\t import os\n" + b" " * 5000, b"x" * 8, b"\x00" * 3000, b"a = 1\n" * 900 + b"\n\n"]
    run = AccuracyEvaluator(network, magika_task.MagikaTask(most=40)).runner({})
    own = magika.Magika()
    for content in contents:
        # One by one, as magika does here: in a batch, sums in another order move its scores by up to 0.003.
        scores = run({"bytes": magika_task.tokens(content, features)[None]})[0][0]
        prediction = own.identify_bytes(content).prediction
        assert features.labels[scores.argmax()] == str(prediction.dl.label)
        assert scores.max() == pytest.approx(prediction.score, abs=1e-4)
    assert magika_task.tokens(b"", features) is None
    assert magika_task.tokens(b"          short", features) is None


@needs_magika
def test_magika_accuracy():
    network = open_network("magika")
    assert isinstance(find_task(network), magika_task.MagikaTask)
    evaluator = AccuracyEvaluator(network, magika_task.MagikaTask(most=120))
    fp32 = evaluator.fp32()
    assert fp32.count == 60 and fp32.value > 0.85
    assert evaluator.measure(uniform(network, LayerPrecision.parse("w8a8"))).value > fp32.value - 0.04
    assert evaluator.measure(uniform(network, LayerPrecision.parse("w2a8"))).value < 0.5


@needs_magika
def test_magika_parts_are_disjoint():
    task = magika_task.MagikaTask()
    evaluated = set()
    labels = len(magika_task.read_features().labels)

    def run(feed):
        evaluated.update(row.tobytes() for row in feed["bytes"])
        return [np.zeros((len(feed["bytes"]), labels))]

    task.evaluate(run)
    assert evaluated and not evaluated & {row.tobytes() for feed in task.calibration_feeds() for row in feed["bytes"]}


# --- PP-OCRv6 ---


def test_lines_are_different_and_seeded():
    lines = ocr.random_lines(300, np.random.default_rng(1))
    assert len(set(lines)) == 300 and max(map(len, lines)) <= 18
    assert lines == ocr.random_lines(300, np.random.default_rng(1))


def test_rendering():
    first, second = (ocr.render(["Winter 2024", "W" * 40], np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (2, 3, 48, 320) and first.dtype == np.float32
    assert -1 <= first.min() < -0.5 and 0.6 < first.max() <= 1
    assert (first[1, 0, :, -6:] > 0).all()  # even the widest line ends before the border


def test_lines_are_calibrated_on_or_evaluated_but_not_both(monkeypatch):
    """What stands in the images is known by their places: each one's first pixel counts the rendered lines."""
    drawn = []

    def numbered(lines, rng):
        drawn.extend(lines)
        images = np.zeros((len(lines), 3, ocr.HEIGHT, ocr.WIDTH), np.float32)
        images[:, 0, 0, 0] = np.arange(len(lines))
        return images

    monkeypatch.setattr(ocr, "render", numbered)
    monkeypatch.setattr(ocr, "read_characters", lambda: ("", "a"))
    task, evaluated = ocr.PpOcrTask(), []

    def run(feed):
        evaluated.extend(feed["x"][:, 0, 0, 0].astype(int).tolist())
        return [np.eye(2, dtype=np.float32)[np.zeros((len(feed["x"]), 40), int)]]

    assert task.evaluate(run).count == len(evaluated) == ocr.EVALUATION_COUNT
    calibrated = [int(place) for feed in task.calibration_feeds() for place in feed["x"][:, 0, 0, 0]]
    assert len(calibrated) == ocr.CALIBRATION_COUNT
    both = [{drawn[place] for place in places} for places in (evaluated, calibrated)]
    assert [len(lines) for lines in both] == [ocr.EVALUATION_COUNT, ocr.CALIBRATION_COUNT]
    assert not both[0] & both[1]


def test_greedy_decoding():
    characters = ("", "a", "b", " ")
    columns = [0, 1, 1, 0, 1, 2, 2, 3, 0, 2]
    assert ocr.decode(np.eye(4, dtype=np.float32)[columns][None], characters) == ["aab b"]


@pytest.mark.parametrize("first, second, edits", [
    ("", "", 0), ("kitten", "sitting", 3), ("abc", "", 3), ("flaw", "lawn", 2),
])
def test_edit_distance(first, second, edits):
    assert ocr.edit_distance(first, second) == ocr.edit_distance(second, first) == edits


def test_missing_rapidocr_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install --no-deps rapidocr"):
        ocr.read_characters()


@needs_rapidocr
def test_ocr_cliff():
    network = open_network("pp_ocrv6")
    task = ocr.PpOcrTask(evaluation_count=20, calibration_count=4)
    evaluator = AccuracyEvaluator(network, task)
    fp32 = evaluator.fp32()
    assert fp32.count == 20 and fp32.value >= 0.9 and fp32.extra["character error rate"] < 0.02
    only_weights = LayerPrecision(weight=Format("int4"), input=Format("fp32"))
    assert evaluator.measure(uniform(network, LayerPrecision.parse("w8a8"))).value >= fp32.value - 0.1
    assert evaluator.measure(uniform(network, only_weights)).value < 0.2
