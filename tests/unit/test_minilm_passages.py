"""Passages of docstrings: what counts as a pair, that none is on both sides, and how pairs are scored."""

import configparser
import fractions
import inspect
import math
import re
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from workloads.tasks import minilm_passages
from workloads.tasks.docstrings import REQUIRED, docstrings, needed_packages, source_files
from workloads.tasks.minilm_passages import PassageTask, documented, paragraphs, ranked

FIRST, OTHER = "Return the number of words here.", "Words are what blanks keep apart."


@pytest.mark.parametrize(("docstring", "found"), [
    (f"{FIRST}\n\n{OTHER}", (FIRST, OTHER)),
    (f"{FIRST[:10]}\n  {FIRST[11:]}\n\n\n\n{OTHER}\n\nAnd more.", (FIRST, f"{OTHER} And more.")),
    (FIRST, None),
    (f"{FIRST}\n\nToo short.", None),
    (f"Too short.\n\n{OTHER}", None),
    ("", None),
])
def test_paragraphs(docstring, found):
    assert paragraphs(docstring) == found


def test_a_module_gives_its_own_docstrings_and_none_that_it_imports():
    found = list(documented("fractions"))
    assert inspect.getdoc(fractions.Fraction) in found and inspect.getdoc(fractions.Fraction.limit_denominator) in found
    assert inspect.getdoc(fractions.Decimal) not in found and inspect.getdoc(fractions.math.gcd) not in found
    assert list(documented("no_such_module_at_all")) == []


SOURCE = '''
"""Of the file.

    What is indented."""
raise SystemExit("nothing may run this")
def _private():
    """Private."""
def public():
    """Of a function."""
    def inner():
        """Not a name of the file."""
class Public:
    """Of a class."""
    @property
    def own(self):
        """Of a property, with \\d."""
    def __init__(self):
        """Private."""
    class Inner:
        async def deep(self):
            """Of a coroutine."""
def bare():
    pass
'''


def test_sources_are_read_and_not_run(tmp_path, recwarn):
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    assert list(filter(None, docstrings(path))) == [
        "Of the file.\n\nWhat is indented.", "Of a function.", "Of a class.", "Of a property, with \\d.",
        "Of a coroutine.",
    ]
    assert not recwarn.list  # of \d, which is no escape
    for broken in (b"def {{name}}():", b"\0", b"# coding: latin-7777\n", b"'\xff'"):
        path.write_bytes(broken)
        assert list(docstrings(path)) == []


def test_the_packages_read_are_those_that_are_required_and_what_they_require():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    assert [re.split("[<>=]", line)[0] for line in lines] == list(REQUIRED)
    names = [package.name.lower() for package in needed_packages(("click", "matplotlib", "no-such-package", "Click"))]
    assert names == sorted(names) and len(names) == len(set(names))
    assert {"click", "matplotlib", "pillow", "pyparsing"} <= set(names) and "pytest" not in names


def test_files_are_the_standard_librarys_and_the_packages_without_tests():
    files = list(source_files([distribution("numpy")]))
    assert files == list(source_files([distribution("numpy")]))
    packages = [package for package, _ in files]
    assert set(packages) - set(sys.stdlib_module_names) == {"numpy"} and packages[-1] == "numpy"
    own = [path.relative_to(sysconfig.get_path("stdlib")).parts for package, path in files if package != "numpy"]
    assert ("email", "mime", "text.py") in own and ("fractions.py",) in own
    assert not {"site-packages", "test", "tests", "idle_test"} & {part for parts in own for part in parts}
    inside = {"/".join(path.parts[path.parts.index("numpy") :]) for package, path in files if package == "numpy"}
    assert "numpy/_core/fromnumeric.py" in inside and "numpy/linalg/__init__.py" in inside
    assert not [name for name in inside if "/tests/" in name or name.endswith("conftest.py")]


def test_namespaces_come_first_and_then_the_sources(tmp_path, monkeypatch):
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(minilm_passages, "modules", lambda: ["math", "email.message"])
    monkeypatch.setattr(minilm_passages, "source_files", lambda packages: iter([("three", path)]))
    found = list(minilm_passages.all_docstrings())
    assert list(dict.fromkeys(package for package, _ in found)) == ["math", "email", "three"]
    assert ("math", inspect.getdoc(math.sqrt)) in found and found[-1] == ("three", "")


def documents(monkeypatch, *texts):
    """Have ``texts`` be all docstrings there are: the first three of one package, the others of another one."""
    monkeypatch.setattr(minilm_passages, "all_docstrings",
                        lambda: iter([("two" if place > 2 else "one", text) for place, text in enumerate(texts)]))


@pytest.fixture
def task(monkeypatch, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]))
    # "b … b" comes twice, and "c … c" is a text to calibrate on: neither makes a second pair.
    documents(monkeypatch, "a a a a a\n\nb b b b b", "c c c c c\n\nd d d d d", "b b b b b\n\nd d d d a",
              "d d d d d\n\na a a a b", "b a b a b\n\nc d c d c", "a a a a c", "a a a a a\n\nb b b b b")
    found = PassageTask(vocabulary=vocabulary, length=8)
    found.__dict__["texts"] = [], [], ["c c c c c"]
    return found


def test_pairs_have_every_text_once_and_none_to_calibrate_on(task):
    pairs = task.pairs
    assert pairs.firsts == ["a a a a a", "d d d d d", "b a b a b"]
    assert pairs.others == ["b b b b b", "a a a a b", "c d c d c"]
    assert pairs.first_tokens.tolist() == task._tokens(pairs.firsts).tolist()
    assert pairs.other_tokens.tolist() == task._tokens(pairs.others).tolist()
    assert pairs.packages.tolist() == task.groups.tolist() == [0, 1, 1]


def test_texts_are_the_same_where_the_network_reads_the_same(task, monkeypatch):
    """Six tokens of each are read."""
    documents(monkeypatch, "a a a a a a c\n\nb b b b b", "a a a a a a d\n\nd d d d d", "b b b a a\n\nA a a a a a",
              "d d d d d d a\n\nd d d d d d b", "c c d d d\n\nd d c c c")
    assert task.pairs.firsts == ["a a a a a a c", "c c d d d"]
    assert task.pairs.others == ["b b b b b", "d d c c c"]


@pytest.mark.parametrize(("vectors", "near", "ranks"), [
    ({"a": 0, "b": 0, "d": 1, "aab": 1, "bab": 2, "cdc": 2}, [0, 1, 2], [1, 1, 1]),  # each beside its own
    ({"a": 0, "b": 1, "d": 1, "aab": 0, "bab": 2, "cdc": 2}, [1, 0, 2], [3, 3, 1]),  # two crossed; ties rank before
])
def test_a_pair_counts_where_its_text_is_the_nearest(task, vectors, near, ranks):
    kinds = {"aaaaa": "a", "bbbbb": "b", "ddddd": "d", "aaaab": "aab", "babab": "bab", "cdcdc": "cdc"}
    letters = "????abcd"  # by token

    def run(feed):
        texts = ["".join(letters[token] for token in row if token > 3) for row in feed[task.input_name]]
        return [np.eye(3)[[vectors[kinds[text]] for text in texts]]]

    answers = task.answers(run)
    assert answers.near.tolist() == near
    assert answers.figures["reciprocal rank"].tolist() == [1 / rank for rank in ranks]
    score = task.evaluate(run)
    assert (score.value, score.count) == (pytest.approx(sum(rank == 1 for rank in ranks) / 3), 3)
    assert score.extra == {"reciprocal rank": pytest.approx(sum(1 / rank for rank in ranks) / 3)}


@pytest.mark.parametrize("block", [1, 3, 7, 20, 50])
def test_ranks_are_places_in_the_order_of_nearness(block):
    """Against sorting, one row after the other."""
    rng = np.random.default_rng(block)
    first, other = rng.normal(size=(2, 20, 4))
    near, ranks = ranked(first, other, block)
    for row in range(20):
        order = sorted(range(20), key=lambda place: -sum(x * y for x, y in zip(first[row], other[place], strict=True)))
        assert near[row] == order[0] and ranks[row] == 1 + order.index(row)


def test_vectors_that_say_nothing_find_nothing():
    alike = np.ones((5, 3))
    assert ranked(alike, alike)[1].tolist() == [5] * 5
    assert ranked(alike, np.full((5, 3), np.nan))[1].tolist() == [5] * 5
