"""What a sweep is: the data model of a sweep file, and its reader.

Paths of files in a sweep are relative to the sweep file; what is read has them absolute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from hw_configs.loader import SCHEMA_VERSION, VERSION_FIELD
from hw_configs.model_reader import Schema, model_of
from hw_configs.yaml_reader import Document, read_document
from hw_configs.yaml_writer import yaml_text
from mapper.solution import Objective, SearchBudget
from simulator.errors import ConfigurationError, Problem
from simulator.layer import Frozen


class HardwareEntry(Frozen):
    """A machine, or a grid of machines.

    Attributes:
        base: a preset's name or a YAML file.
        name: what results call it; None: the base.
        override: place in the description (``clock_mhz``, ``memories.dram.bandwidth_bits_per_cycle``) → value.
        grid: place → values; every combination of them is a point.
    """

    base: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1)
    override: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)


class Limits(Frozen):
    """The most that a point may have; None: any amount. Points beyond are left out, and counted.

    Attributes:
        area_mm2: of the chip, where it is modelled.
        pe_count: processing elements of the grid.
        buffer_bits: of all buffers together.
        leakage_mw: of what is on the chip.
    """

    area_mm2: float | None = Field(default=None, gt=0)
    pe_count: int | None = Field(default=None, ge=1)
    buffer_bits: int | None = Field(default=None, ge=1)
    leakage_mw: float | None = Field(default=None, gt=0)


MinimisedCost = Literal["latency_ms", "energy_pj", "area_mm2"]


class Sampling(Frozen):
    """Points are drawn from the grids in place of every combination, by a sampler that learns from their costs.

    Attributes:
        points: how many are drawn, those counted that are beyond limits, cannot be built, or come again.
        seed: of the sampler; the same sweep with the same seed draws the same points.
        sampler: ``tpe``, tree-structured Parzen estimators (Ozaki et al., JAIR 73, 2022); ``nsga2`` (Deb et al., IEEE
            Trans. Evol. Comput. 6(2), 2002); ``random``.
        generation: points drawn before any of them is costed; ``nsga2`` has as many parents.
        minimise: costs to be small; of a point, the geometric mean over networks, precisions and objectives.
        maximise: ``accuracy_percent``, the mean over networks, or nothing. With it a point has one precision, which is
            drawn like a field of the hardware; without it each point has every precision.
    """

    points: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    generation: int = Field(default=8, ge=2)
    minimise: tuple[MinimisedCost, ...] = Field(default=("latency_ms", "energy_pj", "area_mm2"), min_length=1)
    maximise: tuple[Literal["accuracy_percent"], ...] = Field(default=(), max_length=1)

    @property
    def draws_precision(self) -> bool:
        """Whether a point has one precision, which is drawn with it."""
        return bool(self.maximise)

    @field_validator("minimise", mode="before")
    @classmethod
    def _known_costs(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        names = tuple(value)
        if any(isinstance(name, str) and name.startswith("accuracy") for name in names):
            raise ValueError("names what is to be large: maximise: [accuracy_percent]")
        if len(set(map(str, names))) < len(names):
            raise ValueError("names a cost twice")
        return names


class SweepDescription(Frozen):
    """Hardware × networks × precisions × objectives: each combination is a task.

    Attributes:
        hardware: machines and grids of machines.
        networks: built-in networks or ONNX files.
        precisions: precisions of all layers, ``w8a8``.
        layer_precisions: name of a policy → pattern of layers' names → precision; the first that fits a layer counts.
        objectives: what mappings are searched for.
        limits: which hardware points are left out.
        scale_buffers: whether a buffer of another size gets other energies, area and leakage too, by the exponents of
            the 45 nm SRAM fit, where a point does not give them.
        cpu_seconds_per_layer, target_gap: when the search for one mapping may stop.
        task_seconds: wall time after which a task is given up; None: never.
        accuracy: whether the accuracy of each network in each precision is measured; all must be trained, with data.
        sampling: points are drawn from the grids; None: every combination is a point.
    """

    hardware: tuple[HardwareEntry, ...] = Field(min_length=1)
    networks: tuple[str, ...] = Field(min_length=1)
    precisions: tuple[str, ...] = ()
    layer_precisions: dict[str, dict[str, str]] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] = Field(default=("edp",), min_length=1)
    limits: Limits = Limits()
    scale_buffers: bool = True
    cpu_seconds_per_layer: float = Field(default=10.0, gt=0)
    target_gap: float = Field(default=0.01, ge=0, le=1)
    task_seconds: float | None = Field(default=3600.0, gt=0)
    accuracy: bool = False
    sampling: Sampling | None = None

    @property
    def budget(self) -> SearchBudget:
        """The budget of one search."""
        return SearchBudget(cpu_seconds=self.cpu_seconds_per_layer, target_gap=self.target_gap)


SCHEMA = Schema(SweepDescription, VERSION_FIELD, SCHEMA_VERSION)


@dataclass(frozen=True)
class SweepSource:
    """A sweep's description and the document that it was read from, for the lines in messages.

    ``description`` is None where it could not be read whole; ``readable`` then holds those parts of it that could,
    so that what is wrong in them is said too.
    """

    document: Document
    description: SweepDescription | None
    readable: SweepDescription | None
    problems: tuple[Problem, ...]


def read_sweep(source: SweepDescription | Mapping[str, Any] | str | Path) -> SweepSource:
    """Read a sweep from a YAML file, or from the same content as a mapping.

    Mistakes are in ``problems``; raises ``ConfigurationError`` where nothing can be made of the file at all.
    """
    if isinstance(source, SweepDescription):
        source = source.model_dump(mode="json")
    if isinstance(source, Mapping):
        document = Document("sweep", {VERSION_FIELD: SCHEMA_VERSION, **_plain(dict(source))})
        folder = Path.cwd()
    else:
        document = read_document(Path(source))
        folder = Path(source).resolve().parent
    _resolve_files(document.data, folder)
    content = dict(document.data)
    found, problems = model_of(document, SCHEMA)
    readable = found
    if found is None:
        wrong = {re.split(r"[.\[]", problem.path)[0] for problem in problems}
        kept = {name: value for name, value in content.items() if name in SweepDescription.model_fields}
        kept = {name: value for name, value in kept.items() if name not in wrong}
        # What is missing is stood in for by something that has no mistakes.
        stand_in = {"hardware": [{"base": "bit_fusion"}], "networks": ["digits_cnn"]}
        rest = Document(document.name, {VERSION_FIELD: SCHEMA_VERSION, **stand_in, **kept})
        readable, _ = model_of(rest, SCHEMA)
    assert found is None or isinstance(found, SweepDescription)
    assert readable is None or isinstance(readable, SweepDescription)
    return SweepSource(document, found, readable, tuple(problems))


def dump_sweep(description: SweepDescription) -> str:
    """Write a sweep as YAML that reads back to an equal one."""
    content = description.model_dump(mode="json")
    # So that the file of a sweep without them is the one that earlier releases wrote.
    if description.sampling is None:
        del content["sampling"]
    if not description.accuracy:
        del content["accuracy"]
    return yaml_text({VERSION_FIELD: SCHEMA_VERSION, **content})


def raise_problems(document: Document, problems: list[Problem]) -> None:
    """Raise what is wrong, each mistake once, in the order of the file's lines. Of a mapping there are no lines."""
    if not problems:
        return
    if not document.lines:
        problems = [replace(problem, where=problem.where.removesuffix(":1")) for problem in problems]
    order = {problem: number for number, problem in enumerate(dict.fromkeys(problems))}
    raise ConfigurationError(sorted(order, key=lambda problem: (_line_of(problem), order[problem])))


def _line_of(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _plain(value: Any) -> Any:
    """Mappings, lists and plain values of what a caller put together from others (tuples, NumPy's numbers, paths)."""
    if isinstance(value, Frozen):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _resolve_files(data: dict[str, Any], folder: Path) -> None:
    """Make the paths of files absolute; names of presets and built-in networks stay."""
    networks = data.get("networks")
    if isinstance(networks, list):
        data["networks"] = [_resolved(name, folder, (".onnx",)) for name in networks]
    for entry in data["hardware"] if isinstance(data.get("hardware"), list) else ():
        if isinstance(entry, dict) and "base" in entry:
            entry["base"] = _resolved(entry["base"], folder, (".yaml", ".yml"))


def _resolved(name: Any, folder: Path, suffixes: tuple[str, ...]) -> Any:
    is_file = isinstance(name, str) and (len(Path(name).parts) > 1 or Path(name).suffix.lower() in suffixes)
    return str(folder / name) if is_file else name
