"""What ``--assignment FILE`` of a command means: the file's, but for what the command line says otherwise."""

from __future__ import annotations

from glob import escape
from pathlib import Path

import click
from click.core import ParameterSource

from bitmosaic.explorations.assignment_file import load_assignment
from mapper.solution import Objective, SearchBudget
from simulator.errors import ConfigurationError, Problem
from simulator.precision import LayerPrecision
from simulator.tiled import Machine
from workloads.network import Network


def asked_for(
    path: Path, network: Network, context: click.Context, budget: SearchBudget
) -> tuple[dict[str, LayerPrecision], Machine | str, Objective, SearchBudget]:
    """Precisions by layer (as patterns of ``mixed_run``), machine, objective, and budget before other options.

    Raises ``ConfigurationError`` for mistakes in the file, and for options that name precisions beside it.
    """
    check_alone(context)
    found = load_assignment(path, network)
    machine = context.params["hardware"] if _is_given(context, "hardware") else found.machine(path)
    objective = context.params["objective"] if _is_given(context, "objective") else found.objective
    # A layer's name is a pattern that fits itself alone.
    precisions = {escape(layer): precision for layer, precision in found.precisions.items()}
    return precisions, machine, objective, found.budget(budget)


def check_alone(context: click.Context) -> None:
    """Raise ``ConfigurationError`` for options that name precisions beside ``--assignment``."""
    others = {"precision": "--precision", "layer_precisions": "--layer-precision"}
    problems = [
        Problem("names precisions, and so does --assignment: give one of them", path=option)
        for name, option in others.items() if _is_given(context, name)
    ]
    if problems:
        raise ConfigurationError(problems)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE
