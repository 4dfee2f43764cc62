"""Assignments as YAML files: a precision for each layer, with what else it takes to get the same cost again.

``explore`` writes one for each point; ``simulate --assignment`` reads it back. A precision is a short form
(``w4a8``, ``w8a8/w4a4@0.5``) where that says it all, else its fields in braces::

    assignment_version: 1
    network: digits_cnn
    hardware: bit_fusion
    quantiser: rtn
    objective: edp
    cpu_seconds_per_layer: 2.0
    target_gap: 0.0
    precisions:
      conv1: w8a8
      conv2: w4a4

Of a point of FlexiQ the field ``flexiq`` says which channels are narrow (``narrow_channels``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from bitmosaic.explorations.narrow_channels import NarrowChannels
from hw_configs import list_presets, open_machine
from hw_configs.model_reader import Schema, read_model
from hw_configs.yaml_reader import read_document
from hw_configs.yaml_writer import yaml_text
from mapper.solution import Objective, SearchBudget
from simulator.errors import ConfigurationError, PrecisionError, Problem, closest
from simulator.layer import Frozen
from simulator.precision import LayerPrecision
from simulator.shown import Shown
from simulator.tiled import Machine
from workloads.network import Network
from workloads.weight_quantisers import DEFAULT_QUANTISER, Quantiser


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return LayerPrecision.parse(value)
    except PrecisionError as error:
        raise ValueError("; ".join(problem.rule for problem in error.problems)) from error


class AssignmentFile(Shown, Frozen):
    """What a file says.

    Attributes:
        network: what the layers are of: a name or a path, for the reader; ``simulate`` is told its network itself.
        hardware: a preset, or a YAML file, its path relative to this file.
        precisions: layer → precision; every layer of the network stands here.
        quantiser: of the weights; costs do not depend on it.
        objective, cpu_seconds_per_layer, target_gap: what mappings were searched for, and for how long.
        flexiq: of layers that are split by channel, which channels are narrow; costs do not depend on it.
    """

    network: str
    hardware: str
    quantiser: Quantiser = DEFAULT_QUANTISER
    objective: Objective = "edp"
    cpu_seconds_per_layer: float = Field(default=2.0, gt=0)
    target_gap: float = Field(default=0.0, ge=0)
    precisions: dict[str, Annotated[LayerPrecision, BeforeValidator(_parsed)]] = Field(min_length=1)
    flexiq: NarrowChannels | None = None

    def budget(self, default: SearchBudget) -> SearchBudget:
        """A budget with this file's time and gap."""
        return default.model_copy(
            update={"cpu_seconds": self.cpu_seconds_per_layer, "target_gap": self.target_gap}
        )

    def machine(self, path: str | Path) -> Machine:
        """Open the hardware that the file at ``path`` names. Raises ``ConfigurationError`` where there is none."""
        if self.hardware in {preset.name for preset in list_presets()}:
            return open_machine(self.hardware)
        return open_machine(Path(path).parent / self.hardware)


SCHEMA = Schema(AssignmentFile, "assignment_version", 1)


def dump_assignment(assignment: AssignmentFile, comment: str = "") -> str:
    """Write an assignment as YAML that loads back to an equal one; ``comment`` stands above it."""
    lines = [f"# {line}".rstrip() + "\n" for line in comment.splitlines()]
    data = {SCHEMA.version_field: SCHEMA.version, **assignment.model_dump(mode="json")}
    data["precisions"] = {layer: _short(precision) for layer, precision in assignment.precisions.items()}
    if assignment.flexiq is None:
        del data["flexiq"]
    return "".join(lines) + yaml_text(data)


def load_assignment(path: str | Path, network: Network | None = None) -> AssignmentFile:
    """Read an assignment; with ``network`` hold its layers against those of the network.

    Raises ``ConfigurationError`` with every mistake in the file: of its layers those that the network has not, and
    those that it lacks, and channels that do not go with them.
    """
    path = Path(path)
    found, problems = read_model(path, SCHEMA)
    if found is None:
        raise ConfigurationError(problems)
    assert isinstance(found, AssignmentFile)
    if network is None:
        return found
    document = read_document(path)
    names = [layer.name for layer in network.layers]
    problems = [
        Problem(f"{network.name} has no such layer", where=document.where(("precisions", name)),
                path=f"precisions.{name}", did_you_mean=closest(name, names))
        for name in found.precisions if name not in names
    ]
    problems += [
        Problem(f"has no precision for a layer of {network.name}", where=document.where(("precisions",)),
                path="precisions", value=name)
        for name in names if name not in found.precisions
    ]
    if found.flexiq is not None:
        problems += [
            Problem(rule, where=document.where(("flexiq", *place)), path=".".join(("flexiq", *place)))
            for place, rule in found.flexiq.mistakes(network, found.precisions)
        ]
    if problems:
        raise ConfigurationError(problems)
    return found


def _short(precision: LayerPrecision) -> Any:
    """The short form where it stands for the same precision, else the fields that differ from the defaults."""
    if LayerPrecision.parse(precision.label) == precision:
        return precision.label
    return precision.model_dump(mode="json", exclude_defaults=True)
