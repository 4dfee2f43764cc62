"""The pages on concepts, extending and claims: what they show runs, and what they cite is what the README claims."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import bitmosaic
from hw_configs.technology_tables import Technology

ROOT = Path(bitmosaic.__file__).parents[1]
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
CLAIMS = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_element_of_ones_own_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)
    names: dict[str, Any] = {"__name__": "extending"}
    exec(compile(code, "extending.md", "exec", dont_inherit=True), names)
    narrow, wide = map(int, capsys.readouterr().out.split())
    assert wide == 2 * narrow > 0, "wide weights take two cycles"
    layer, machine, solution = names["layer"], names["machine"], names["wide"]
    values = bitmosaic.statistical_values(layer, solution.precision)
    whole, by_halves = (
        bitmosaic.compute_layer(
            layer, solution.precision, machine, solution.mapping, values.weights, values.inputs, bit_level=bit_level
        )
        for bit_level in (False, True)
    )
    assert (values.weights < -8).any() and (whole == by_halves).all(), "the two halves make the product"


def test_the_technology_shown_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(name: 45nm-example.*?)```", EXTENDING, re.DOTALL)
    table = Technology.model_validate(YAML(typ="safe", pure=True).load(text))
    assert table.unit("dram_energy_pj_per_bit") == "pJ a bit"


def test_files_that_a_new_kind_needs_are_there() -> None:
    steps = EXTENDING[EXTENDING.index("To add a kind for good"):EXTENDING.index("## A technology")]
    paths = re.findall(r"`((?:simulator|tests|docs|tools)/[\w/.]+|python tools/\w+\.py)`", steps)
    assert len(paths) >= 7
    for path in paths:
        assert (ROOT / path.removeprefix("python ").replace("NAME.py", "fixed.py")).exists(), path


def _commands(text: str) -> set[str]:
    """Commands in the tables of a page, as whole cells."""
    return set(re.findall(r"\| `((?:python -m|bitmosaic) [^`]+)`", text))


def test_every_claim_of_the_readme_is_there() -> None:
    claimed = _commands(README[README.index("## What was measured"):])
    assert len(claimed) >= 15 and claimed <= _commands(CLAIMS), claimed - _commands(CLAIMS)


def test_the_modules_and_references_of_claims_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", CLAIMS))
    assert len(modules) >= 8 and all(importlib.util.find_spec(name) for name in modules)
    folder = ROOT / "../shared/reference"
    if folder.is_dir():
        files = re.findall(r"`(\w+\.(?:json|csv))` \|", CLAIMS)
        assert len(files) >= 5 and all((folder / file).is_file() for file in files)


def test_the_figure_is_drawn_by_the_command() -> None:
    picture = (ROOT / "docs/images/concepts.svg").read_text(encoding="utf-8")
    assert all(f">{title}<" in picture for title in ("The machine", "The nest", "The cycle", "DRAM channel"))
