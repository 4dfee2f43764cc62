"""Passages of docstrings: what counts as a pair, that none is on both sides, and how pairs are scored."""

import fractions
import inspect

import numpy as np
import pytest

from workloads.tasks import minilm_passages
from workloads.tasks.minilm_passages import PassageTask, documented, paragraphs

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


@pytest.fixture
def task(monkeypatch, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]))
    # "b … b" comes twice, and "c … c" is a text to calibrate on: neither makes a second pair.
    docstrings = [
        "a a a a a\n\nb b b b b", "c c c c c\n\nd d d d d", "b b b b b\n\nd d d d a", "d d d d d\n\na a a a b",
        "b a b a b\n\nc d c d c", "a a a a c",
    ]
    monkeypatch.setattr(minilm_passages, "modules", lambda: ["one", "two.more"])
    monkeypatch.setattr(minilm_passages, "documented",
                        lambda module: docstrings[:3] if module == "one" else docstrings[3:])
    found = PassageTask(vocabulary=vocabulary, length=8)
    found.__dict__["texts"] = [], [], ["c c c c c"]
    return found


def test_pairs_have_every_text_once_and_none_to_calibrate_on(task):
    firsts, others, packages = task.pairs
    assert firsts == ["a a a a a", "d d d d d", "b a b a b"]
    assert others == ["b b b b b", "a a a a b", "c d c d c"]
    assert packages == [0, 1, 1]
    assert task.groups.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("vectors", "near"), [
    ({"a": 0, "b": 0, "d": 1, "aab": 1, "bab": 2, "cdc": 2}, [0, 1, 2]),  # each beside its own
    ({"a": 0, "b": 1, "d": 1, "aab": 0, "bab": 2, "cdc": 2}, [1, 0, 2]),  # two crossed
])
def test_a_pair_counts_where_its_text_is_the_nearest(task, vectors, near):
    kinds = {"aaaaa": "a", "bbbbb": "b", "ddddd": "d", "aaaab": "aab", "babab": "bab", "cdcdc": "cdc"}
    letters = "????abcd"  # by token

    def run(feed):
        texts = ["".join(letters[token] for token in row if token > 3) for row in feed[task.input_name]]
        return [np.eye(3)[[vectors[kinds[text]] for text in texts]]]

    assert task.nearest(run).tolist() == near
    score = task.evaluate(run)
    assert (score.value, score.count) == (pytest.approx(sum(n == i for i, n in enumerate(near)) / 3), 3)
