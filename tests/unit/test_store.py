"""The store: whole lines only, torn ends healed, what is there never rewritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitmosaic.explorations.identity import canonical_json, content_key
from bitmosaic.explorations.store import Record, RecordFile, sole_writer
from simulator.errors import ConfigurationError


class Number(Record):
    value: float


def test_records_come_back_in_order_and_by_key(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "numbers.jsonl", Number)
    for key, value in (("b", 2.0), ("a", 1.5)):
        file.append(Number(key=key, value=value))
    again = RecordFile(tmp_path / "numbers.jsonl", Number)
    assert [record.key for record in again] == ["b", "a"]
    assert again.get("a") == Number(key="a", value=1.5)
    assert again.get("c") is None and "b" in again and len(again) == 2


def test_a_known_key_writes_nothing(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "numbers.jsonl", Number)
    file.append(Number(key="a", value=1.0))
    before = file.path.read_bytes()
    assert file.append(Number(key="a", value=9.0)).value == 1.0
    assert RecordFile(file.path, Number).append(Number(key="a", value=9.0)).value == 1.0
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_last_line_is_lost_alone_and_cut_off_by_the_next_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "numbers.jsonl"
    file = RecordFile(path, Number)
    file.append(Number(key="a", value=1.0))
    whole = path.read_bytes()
    file.append(Number(key="b", value=2.0))
    finished = path.read_bytes()
    path.write_bytes(finished[:-cut])
    again = RecordFile(path, Number)
    assert [record.key for record in again] == ["a"]
    assert path.read_bytes() == finished[:-cut], "reading must change nothing"
    again.append(Number(key="b", value=2.0))
    assert path.read_bytes() == finished and finished.startswith(whole)


def test_a_damaged_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"key":"a","value":1.0}\n{"key":"b","value":"two"}\n{"key":"c","value":3.0}\n')
    with pytest.raises(ConfigurationError, match=r"numbers\.jsonl:2: value"):
        RecordFile(path, Number)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with sole_writer(folder), pytest.raises(ConfigurationError, match="another run is writing"), sole_writer(folder):
        pass
    with sole_writer(folder):
        pass


def test_keys_depend_on_content_not_on_order() -> None:
    assert content_key("x", {"a": 1, "b": [1, 2]}) == content_key("x", {"b": [1, 2], "a": 1})
    assert content_key("x", {"a": 1}) != content_key("x", {"a": 2})
    assert content_key("x", {"a": 1}) != content_key("y", {"a": 1})
    assert len(content_key("x", None)) == 64
    assert json.loads(canonical_json({"é": [None, True, 0.1]})) == {"é": [None, True, 0.1]}
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})
