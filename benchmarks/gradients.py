"""Our gradients beside torch's, on trained networks: ``python -m benchmarks.gradients [NETWORK]…``.

Needs the extra ``torch``. For each network: how far the gradients of one ±1 sum of the outputs lie apart, over all
slots that sensitivities read (‖torch − own‖ / ‖own‖), and the CPU seconds of a forward and of a backward pass. Each
first pass is left out of the seconds: torch makes its threads and kernels ready in it.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from simulator.errors import MissingPackageError
from workloads import Network, open_network
from workloads.calibration import trained_model, with_free_batch
from workloads.gradients import GRADIENTS, check_gradients, open_pass
from workloads.reverse_pass import Slot, input_sites, weight_slots
from workloads.tasks import find_task
from workloads.tasks.task import Feed, batches
from workloads.vector_jacobian import Array, Gradients

SEED = 20249


def slots_of(network: Network) -> list[Slot]:
    """Where ``taylor`` asks for gradients: weights of the trained layers, and their inputs."""
    layers = [layer for layer, binding in network.bindings.items() if binding.weight is not None]
    sites = input_sites(network, layers).values()
    return [*weight_slots(network, layers).values(), *((site.node, site.slot) for site in sites)]


def measure(
    network: Network, feed: Feed, gradients: Gradients, repeats: int
) -> tuple[dict[Slot, Array], float, float]:
    """Gradients of one ±1 sum of the outputs, and the mean CPU seconds of a forward and of a backward pass."""
    passes = open_pass(with_free_batch(trained_model(network)), slots_of(network), gradients, threads=1)
    seconds: list[list[float]] = []
    found: dict[Slot, Array] = {}
    for _ in range(repeats + 1):
        ends = [time.process_time()]
        run = passes.forward(feed)
        ends.append(time.process_time())
        rng = np.random.default_rng(SEED)
        signs: dict[str, Any] = {
            name: (2 * rng.integers(0, 2, output.shape) - 1).astype(output.dtype)
            for name, output in run.outputs.items()
        }
        began = time.process_time()
        found = passes.backward(run, signs)
        seconds.append([ends[1] - ends[0], time.process_time() - began])
    forward, backward = np.mean(seconds[1:], axis=0)
    return found, float(forward), float(backward)


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--examples", type=click.IntRange(min=1), default=1, show_default=True, help="That share a pass.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Passes that are timed.")
def main(networks: tuple[str, ...], examples: int, repeats: int) -> None:
    """Compare our gradients with torch's on NETWORKS (default: digits_cnn)."""
    try:
        check_gradients("torch")
    except MissingPackageError as error:
        raise click.ClickException(str(error)) from error
    table = Table(title="Gradients by torch beside our own")
    for heading in ("network", "slots", "largest difference", "median", "forward own (CPU s)", "torch",
                    "backward own (CPU s)", "torch"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name in networks or ("digits_cnn",):
        network = open_network(name)
        task = find_task(network)
        if task is None:
            raise click.UsageError(f"{name} has no data to run on")
        feed = next(iter(batches(task.calibration_feeds()[0], examples)))
        own, by_torch = (measure(network, feed, each, repeats) for each in GRADIENTS)
        apart = [
            float(np.linalg.norm(by_torch[0][slot] - gradient) / max(np.linalg.norm(gradient), 1e-30))
            for slot, gradient in own[0].items()
        ]
        table.add_row(
            name, str(len(apart)), f"{max(apart):.1e}", f"{np.median(apart):.1e}", f"{own[1]:.3f}",
            f"{by_torch[1]:.3f}", f"{own[2]:.3f}", f"{by_torch[2]:.3f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
