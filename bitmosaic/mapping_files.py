"""Mappings, layers and constraints as YAML files: edited by hand, read back, refused with the line that is wrong.

A mapping's file holds the mapping alone; layer, precision and machine are given beside it. What a file says is checked
twice: by itself when it is read, and against the layer and the machine by ``check_mapping`` (``simulator.plan``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from hw_configs.model_reader import Schema, read_model
from hw_configs.yaml_reader import Document, Place, path_text, read_document
from hw_configs.yaml_writer import yaml_text
from mapper.constraints import MappingConstraints
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, MappingError, Problem
from simulator.layer import DIMS, Layer
from simulator.mapping import Mapping
from simulator.plan import Plan, channel_places
from simulator.plan_checks import problems_of_nothing
from simulator.precision import LayerPrecision

MAPPING_SCHEMA = Schema(Mapping, "mapping_version", 1)
LAYER_SCHEMA = Schema(Layer, "layer_version", 1)
CONSTRAINTS_SCHEMA = Schema(MappingConstraints, "constraints_version", 1)
Model = TypeVar("Model", bound=BaseModel)


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping. Raises ``ConfigurationError`` with every mistake in the file, in the order of its lines."""
    return _load(Path(path), MAPPING_SCHEMA, Mapping)


def dump_mapping(mapping: Mapping, comment: str = "") -> str:
    """Write a mapping as YAML that loads back to an equal one; ``comment`` stands above it."""
    levels = tuple(
        level.model_copy(update={"tile": {dim: level.tile[dim] for dim in DIMS if dim in level.tile}})
        for level in mapping.levels
    )
    return _dump(mapping.model_copy(update={"levels": levels}), MAPPING_SCHEMA, comment)


def load_layer(path: str | Path) -> Layer:
    """Read a layer. Raises ``ConfigurationError`` with every mistake in the file, in the order of its lines."""
    return _load(Path(path), LAYER_SCHEMA, Layer)


def dump_layer(layer: Layer, comment: str = "") -> str:
    """Write a layer as YAML that loads back to an equal one; ``comment`` stands above it."""
    return _dump(layer, LAYER_SCHEMA, comment)


def load_constraints(path: str | Path) -> MappingConstraints:
    """Read constraints. Raises ``ConfigurationError`` with every mistake in the file, in the order of its lines."""
    return _load(Path(path), CONSTRAINTS_SCHEMA, MappingConstraints)


def check_mapping(
    path: str | Path, mapping: Mapping, layer: Layer, precision: LayerPrecision, accelerator: Accelerator
) -> None:
    """Hold a mapping that was read from a file against its layer and machine; what counts for nothing is a problem too.

    Raises ``MappingError`` with every problem, and the line of the file where one stands; ``PrecisionError`` where the
    PE cannot run the precision.
    """
    problems: list[Problem] = []
    try:
        Plan(layer, precision, accelerator, mapping)
    except MappingError as error:
        problems += error.problems
    extents = list(layer.shape)
    extents[DIMS.index("C")] = channel_places(layer, precision, accelerator).count
    problems += problems_of_nothing(layer, extents, accelerator, mapping)
    if problems:
        document = read_document(Path(path))
        raise MappingError([_placed(problem, document, mapping) for problem in problems])


def _load(path: Path, schema: Schema, model: type[Model]) -> Model:
    found, problems = read_model(path, schema)
    if found is None:
        raise ConfigurationError(problems)
    assert isinstance(found, model)
    return found


def _dump(model: BaseModel, schema: Schema, comment: str) -> str:
    lines = [f"# {line}".rstrip() + "\n" for line in comment.splitlines()]
    data = {schema.version_field: schema.version, **model.model_dump(mode="json")}
    return "".join(lines) + yaml_text(data, compact=True)


def _placed(problem: Problem, document: Document, mapping: Mapping) -> Problem:
    """A plan's problem, with the line of the file that it is about; memories have no line."""
    first, *rest = problem.path.split(".")
    name, _, number = first.partition(" ")
    last = len(mapping.levels) - 1
    levels = {"dram": 0, "buffer": int(number) if number else last - 1, "register": last}
    place: Place
    if name in levels and rest:
        place = ("levels", levels[name], *rest)
    elif first in Mapping.model_fields:
        place = (first, *rest)
    else:
        return Problem(problem.rule, f"{document.name}: {problem.where}", problem.path, problem.value, problem.allowed,
                       problem.did_you_mean)
    return Problem(problem.rule, document.where(place), path_text(place), problem.value, problem.allowed,
                   problem.did_you_mean)
