"""The tasks of a sweep, each under the hash of everything that affects its result, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bitmosaic.explorations.baseline_cost import pattern_fits, precisions_by_layer
from bitmosaic.explorations.identity import Json, accelerator_identity, content_key, network_identity, network_shapes
from bitmosaic.explorations.menu import for_layer
from bitmosaic.sweeps.accuracy import unmeasurable
from bitmosaic.sweeps.description import SweepDescription, SweepSource, raise_problems, read_sweep
from bitmosaic.sweeps.points import HardwarePoint, Points, at_place, expand_points, has_values
from bitmosaic.sweeps.space import Space, open_space
from hw_configs.yaml_reader import Document, Place, path_text
from mapper.cache import MODEL_VERSION
from mapper.solution import Objective, SearchBudget
from simulator.errors import BitmosaicError, Problem, closest
from simulator.precision import LayerPrecision
from workloads import Network, open_network


@dataclass(frozen=True)
class SweepTask:
    """A network in a precision policy on a hardware point, mapped for an objective.

    Attributes:
        key: SHA-256 of what affects the result.
        network: a built-in network's name or the path of an ONNX file, as it is opened.
        fingerprint: of the network's content (with its weights where time depends on values).
        precision: name of the policy.
        asked: layer → the precision asked for.
    """

    key: str
    point: HardwarePoint
    network: str
    fingerprint: str
    precision: str
    asked: dict[str, LayerPrecision]
    objective: Objective
    budget: SearchBudget

    @property
    def label(self) -> str:
        """The task in one line."""
        fields = " ".join(f"{path}={value}" for path, value in self.point.fields.items())
        machine = f"{self.point.hardware} {fields}".strip()
        return f"{machine} · {network_name(self.network)} · {self.precision} · {self.objective}"


Policies = dict[tuple[str, str], dict[str, LayerPrecision]]


@dataclass(frozen=True)
class Expansion:
    """All tasks of a sweep in their order: hardware, network, precision, objective, the last changing fastest.

    Attributes:
        left_out: limit → the number of points that it left out.
        policies: (network, policy) → layer → precision.
        space: what points are drawn from where the sweep samples, else None. Its tasks are then those of the points
            drawn so far (``sampling.drawn_so_far``), none at first.
    """

    description: SweepDescription
    tasks: tuple[SweepTask, ...]
    point_count: int
    left_out: dict[str, int]
    policies: Policies
    space: Space | None = None


def network_name(network: str) -> str:
    """What results call a network: a built-in one's name, a file's without its ending."""
    return Path(network).stem if Path(network).suffix.lower() == ".onnx" else network


def fingerprint(network: str, with_weights: bool) -> str:
    """Hash of a network's graph, and of its weights where they count."""
    return _fingerprint(network, _stamp(network), with_weights)


def opened_network(network: str) -> Network:
    """Open a network; once in a process, unless its file changes."""
    return _opened(network, _stamp(network))


def _stamp(network: str) -> tuple[int, int] | None:
    """What changes with a file; None for a built-in network."""
    path = Path(network)
    if not path.is_file():
        return None
    return path.stat().st_mtime_ns, path.stat().st_size


@cache
def _fingerprint(network: str, stamp: tuple[int, int] | None, with_weights: bool) -> str:
    opened = _opened(network, stamp)
    return content_key("network", network_identity(opened) if with_weights else network_shapes(opened))


@cache
def _opened(network: str, stamp: tuple[int, int] | None) -> Network:
    return open_network(network)


def expand(source: SweepDescription | Mapping[str, Any] | str | Path) -> Expansion:
    """Read a sweep and lay out its tasks; equal ones are one task.

    Raises ``ConfigurationError`` with every mistake, in the order of the file's lines.
    """
    read = read_sweep(source)
    problems = list(read.problems)
    if read.readable is None:
        raise_problems(read.document, problems)
    assert read.readable is not None
    policies = _policies(read, problems)
    space = None
    if read.document.data.get("sampling") is not None:  # right or wrong: its grids may be too large to enumerate
        space, found = open_space(read.readable, read.document)
        points = Points((), {}, found)
    else:
        points = expand_points(read.readable, read.document)
    problems += points.problems
    if not points.points and not problems and space is None:
        names = ", ".join(points.left_out)
        problems.append(at_place(read.document, ("limits",), f"leave no hardware point: all are beyond {names}"))
    raise_problems(read.document, problems)
    description = read.description
    assert description is not None
    tasks: dict[str, SweepTask] = {}
    for point in points.points:
        for task in tasks_of(point, policies, description):
            tasks.setdefault(task.key, task)
    return Expansion(description, tuple(tasks.values()), len(points.points), points.left_out, policies, space)


def tasks_of(point: HardwarePoint, policies: Policies, description: SweepDescription) -> Iterator[SweepTask]:
    """The tasks of a point: network, precision, objective, the last changing fastest."""
    with_weights = has_values(point.machine)
    machine = content_key("machine", accelerator_identity(point.machine))
    for (network, name), asked in policies.items():
        content = fingerprint(network, with_weights)
        formats: Json = {layer: precision.model_dump(mode="json") for layer, precision in asked.items()}
        assignment = content_key("assignment", formats)
        for objective in description.objectives:
            key = content_key("sweep_task", {
                "model": MODEL_VERSION, "machine": machine, "network": content, "assignment": assignment,
                "objective": objective, "budget": description.budget.model_dump(mode="json"),
                **({"accuracy": True} if description.accuracy else {}),
            })
            yield SweepTask(key, point, network, content, name, asked, objective, description.budget)


def _policies(read: SweepSource, problems: list[Problem]) -> Policies:
    """(network, policy) → layer → precision; mistakes are added to ``problems``."""
    description, document = read.readable, read.document
    assert description is not None
    networks: dict[str, Network] = {}
    for index, name in enumerate(description.networks):
        try:
            networks[name] = opened_network(name)
        except BitmosaicError as error:
            problems += _placed(error, document, ("networks", index))
            continue
        if description.accuracy and (why := unmeasurable(networks[name])):
            problems.append(at_place(document, ("networks", index), why))
    policies: dict[str, dict[str, LayerPrecision]] = {}
    for index, text in enumerate(description.precisions):
        place: Place = ("precisions", index)
        try:
            policies[text] = {"*": LayerPrecision.parse(text)}
        except BitmosaicError as error:
            problems += _placed(error, document, place)
    for name, patterns in description.layer_precisions.items():
        place = ("layer_precisions", name)
        if name in policies:
            problems.append(at_place(document, place, "is the name of a precision already"))
        policy = {}
        for pattern, text in patterns.items():
            try:
                policy[pattern] = LayerPrecision.parse(text)
            except BitmosaicError as error:
                problems += _placed(error, document, (*place, pattern))
        if len(policy) == len(patterns):
            policies[name] = policy
    if read.description is not None and not description.precisions and not description.layer_precisions:
        problems.append(at_place(document, (), "must name precisions or layer_precisions"))
    layers = {network: [layer.name for layer in opened.layers] for network, opened in networks.items()}
    for name, policy in policies.items() if networks else ():
        for pattern in policy if name in description.layer_precisions else ():
            if not any(pattern_fits(layer, pattern) for names in layers.values() for layer in names):
                near = closest(pattern, [layer for names in layers.values() for layer in names])
                problems.append(replace(
                    at_place(document, ("layer_precisions", name, pattern), "fits no layer of any network"),
                    did_you_mean=near,
                ))
    found = {}
    for network, opened in networks.items():
        for name, policy in policies.items():
            # A pattern may be for another network of the sweep.
            fitting = {
                pattern: precision for pattern, precision in policy.items()
                if any(pattern_fits(layer, pattern) for layer in layers[network])
            }
            try:
                asked = precisions_by_layer(opened, fitting)
            except BitmosaicError as error:
                problems += _placed(error, document, ("layer_precisions", name))
            else:
                found[network, name] = {
                    layer.name: for_layer(layer, asked[layer.name]) for layer in opened.layers
                }
    return found


def _placed(error: BitmosaicError, document: Document, place: Place) -> list[Problem]:
    """What an error says, at a place of the sweep file."""
    return [
        replace(problem, where=document.where(place),
                path=": ".join(part for part in (path_text(place), problem.where, problem.path) if part))
        for problem in error.problems
    ]
