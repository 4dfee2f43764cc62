"""What exploring and comparing begin with: network, machine and data opened and checked, keys, and books of records.

A job holds what is the same for all of its plans; ``points`` gives the network points of one of them. Books and record
files are opened once, so that nothing is measured, mapped or written twice within a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.exploration import MAPPINGS_FILE, POINTS_FILE
from bitmosaic.explorations.flexiq_book import FlexiqBook
from bitmosaic.explorations.identity import Json, accelerator_identity, content_key, file_sha256, subject_key
from bitmosaic.explorations.layer_rules import LayerRules
from bitmosaic.explorations.mapping_book import MappingBook
from bitmosaic.explorations.menu import check_fits
from bitmosaic.explorations.methods import MethodPlan
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.records import FlexiqVariant, PointCount, PointRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Progress
from hw_configs import open_machine
from mapper.cache import MODEL_VERSION
from mapper.solution import OBJECTIVES, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, NetworkError, Problem
from simulator.tiled import single_tile
from workloads import Network, open_network
from workloads.tasks import Task, find_task
from workloads.tasks.user_inputs import UserInputsTask
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import Quantiser


@dataclass(frozen=True)
class Job:
    """A network, a machine and data to measure on, and what mappings are searched for.

    Attributes:
        task: data and metric; None where there is a cost only.
        data: hash of the user's own data, else None.
        folder: the results folder.
    """

    network: Network
    accelerator: Accelerator
    task: Task | None
    data: str | None
    objective: Objective
    budget: SearchBudget
    folder: Path
    workers: int | None
    progress: Progress
    _books: dict[tuple[Quantiser, Gradients], AccuracyBook] = field(default_factory=dict)
    _flexiq: dict[FlexiqVariant, FlexiqBook] = field(default_factory=dict)
    _files: list[tuple[MappingBook, RecordFile[PointRecord]]] = field(default_factory=list)

    @cached_property
    def subject(self) -> str:
        """Key of network and task."""
        return subject_key(self.network, self.task.name if self.task else None, self.data)

    def context(self, plan: MethodPlan) -> str:
        """Key of all that costs and accuracies of a plan's points depend on, but for their assignments."""
        return content_key("context", {
            "subject": self.subject, "model": MODEL_VERSION,
            "accelerator": accelerator_identity(self.accelerator), "clock_mhz": self.accelerator.clock_mhz,
            "objective": self.objective, "budget": self.budget.model_dump(mode="json"),
            **_how_measured(plan),
        })

    def check_fits(self, plan: MethodPlan) -> None:
        """Refuse what fits in no way before anything is written; a folder with mappings has been through it."""
        if not (self.folder / MAPPINGS_FILE).exists():
            mapped = [precision for precision in plan.menu if precision != plan.floating]
            check_fits(mapped, self.accelerator, self.progress)

    def book(self, quantiser: Quantiser, gradients: Gradients = "own") -> AccuracyBook | None:
        """Accuracies and harms with weights of one quantiser, by those gradients; None where there is a cost only."""
        if self.task is None:
            return None
        key = (quantiser, gradients)
        if key not in self._books:
            self._books[key] = AccuracyBook(
                self.network, self.task, self.subject, self.folder, quantiser, gradients=gradients
            )
        return self._books[key]

    def points(
        self, plan: MethodPlan, rules: LayerRules | None = None, weight_bits_limit: int | None = None
    ) -> NetworkPoints:
        """The network points of a plan, with what its proposals must keep (``NetworkPoints``)."""
        if not self._files:
            mappings = MappingBook(self.accelerator, self.objective, self.budget, self.folder, self.workers)
            self._files.append((mappings, RecordFile(self.folder / POINTS_FILE, PointRecord)))
        mappings, records = self._files[0]
        accuracy: AccuracyBook | FlexiqBook | None = self.book(plan.quantiser, plan.gradients)
        if self.task is not None and plan.selection == "channels":
            if plan.flexiq not in self._flexiq:
                self._flexiq[plan.flexiq] = FlexiqBook(
                    self.network, self.task, self.subject, self.folder, plan.flexiq, self.progress
                )
            accuracy = self._flexiq[plan.flexiq]
        return NetworkPoints(
            network=self.network, accelerator=self.accelerator, context=self.context(plan), accuracy=accuracy,
            mappings=mappings, records=records, progress=self.progress, baseline=plan.menu[0],
            rules=rules or LayerRules(), weight_bits_limit=weight_bits_limit, floating=plan.floating,
        )


def open_subject(
    network: Network | str | Path, accelerator: Accelerator | str | Path, command: str
) -> tuple[Network, Accelerator]:
    """Open the network and the machine. Raises ``ConfigurationError`` for machines that ``command`` does not take."""
    network = network if isinstance(network, Network) else open_network(network)
    machine = open_machine(accelerator) if isinstance(accelerator, str | Path) else accelerator
    accelerator = single_tile(machine, command)
    if accelerator.processing_element.depends_on_values:
        rule = f"{command} takes no machine whose time depends on values yet; simulate does"
        raise ConfigurationError(Problem(rule, where=f"accelerator {accelerator.name}", path="processing_element"))
    return network, accelerator


def find_data(
    network: Network, inputs: str | Path | None, task: Task | None
) -> tuple[Task | None, str | None]:
    """The task to measure on, and a hash of the user's own data. Raises ``NetworkError`` for data without weights."""
    if inputs is not None and network.model is None:
        raise NetworkError(Problem("has no trained weights to run inputs on: leave inputs out", where=network.name))
    if task is not None:
        return task, _fingerprint(task)
    if network.model is None:
        return None, None
    if inputs is None:
        return find_task(network), None
    own = UserInputsTask(network, inputs)  # says what is wrong with the file, before it is hashed
    return own, file_sha256(Path(inputs))


def settings_problems(
    objective: str, points: PointCount, known: Mapping[str, tuple[str, tuple[str, ...]]]
) -> list[Problem]:
    """What is wrong with plain settings; ``known``: name → value, and what is allowed."""
    problems = []
    for name, (value, allowed) in {"objective": (objective, OBJECTIVES), **known}.items():
        if value not in allowed:
            problems.append(Problem("is not known", path=name, value=repr(value), allowed=tuple(allowed)))
    if points != "all" and (not isinstance(points, int) or isinstance(points, bool) or points < 2):
        problems.append(Problem("must be at least 2 (the ends belong to a front), or \"all\"", path="points",
                                value=str(points)))
    return problems


def _how_measured(plan: MethodPlan) -> dict[str, Json]:
    """What a context's key says of how accuracies are measured: nothing of rounding to nearest.

    Of FlexiQ's variants each has its own: they narrow other channels where layers are split in the same shares.
    """
    if plan.selection == "channels":
        return {"quantiser": "flexiq", **({"flexiq": plan.flexiq.identity} if plan.flexiq.identity else {})}
    return {} if plan.quantiser == "rtn" else {"quantiser": plan.quantiser}


def _fingerprint(task: Task) -> str:
    """Hash of a user's own calibration data."""
    feeds: Json = [
        {name: [str(array.dtype), list(array.shape), array.tobytes().hex()] for name, array in feed.items()}
        for feed in task.calibration_feeds()
    ]
    return content_key("data", feeds)
