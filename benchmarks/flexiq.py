"""FlexiQ's ratio of 4-bit channels against time, energy and accuracy, on the preset ``flexiq_like``.

    python -m benchmarks.flexiq [--shapes resnet18] [--trained digits_cnn] [--width N] [--seconds-per-layer S]
                                [--generations N] [--examples N] [--accuracy-only] [--plot FOLDER]

For a network of published shapes each layer has the same ratio. For trained networks the channels are selected,
greedily and by evolution, with static and dynamic extraction of effective bits, and accuracy is measured. Every layer
is mapped for least latency; a layer without 4-bit channels is w8a8, outputs have 8 bits. The *share of the speed-up* is
of what lowering all channels that can be lowered saves: the paper (arXiv:2510.02822) has 40 % of it at half of the
channels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitmosaic.explorations.menu import for_layer
from bitmosaic.views.plots import BLUE, VERMILION, new_figure, save_figure, tidy
from hw_configs import open_accelerator
from mapper.cache import MappingCache
from mapper.network import MappingJob, map_many, simulate_network
from mapper.solution import SearchBudget
from simulator.errors import BitmosaicError, NetworkError, Problem
from simulator.precision import LayerPrecision
from workloads.flexiq import DEFAULT_EVOLUTION, RATIOS, Evolution, Extraction, Mask, Unit, evolutionary, greedy
from workloads.flexiq_model import FlexiqSession
from workloads.library import open_network
from workloads.network import Network
from workloads.tasks import Task, find_task
from workloads.tasks.task import Feed

PAPER = (0.5, 0.4)
_EXTRACTIONS: tuple[Extraction, ...] = ("static", "dynamic")
WIDE, NARROW = LayerPrecision.parse("w8a8"), LayerPrecision.parse("w8a8/w4a4@1")


@dataclass(frozen=True)
class Cost:
    """Cycles and energy of one inference, and cycles of each layer."""

    latency_cycles: int
    energy_pj: float
    by_layer: Mapping[str, int]


class Machine:
    """Costs of a network's assignments on one accelerator; mappings come from the cache where they are known."""

    def __init__(self, hardware: str, budget: SearchBudget) -> None:
        self.accelerator = open_accelerator(hardware)
        self.budget = budget

    def cost(self, network: Network, precisions: Mapping[str, LayerPrecision]) -> Cost:
        """Map and simulate; layers that have no entry, and products of activations, are w8a8."""
        chosen = {layer.name: for_layer(layer, precisions.get(layer.name, WIDE)) for layer in network.layers}
        jobs = [MappingJob(layer, chosen[layer.name]) for layer in network.layers]
        solutions = map_many(jobs, self.accelerator, "latency", budget=self.budget, cache=MappingCache(), workers=1)
        by_layer = dict(zip(chosen, solutions, strict=True))
        result = simulate_network(network, self.accelerator, chosen, by_layer)
        return Cost(result.total_cycles, result.total_energy_pj,
                    {name: solution.result.total_cycles for name, solution in by_layer.items()})


def share_of_speed_up(cost: Cost, wide: Cost, narrow: Cost) -> float:
    """Cycles saved against all-8-bit, over what all-4-bit saves."""
    return (wide.latency_cycles - cost.latency_cycles) / max(1, wide.latency_cycles - narrow.latency_cycles)


def line(label: str, cost: Cost, wide: Cost, narrow: Cost, rest: str = "") -> str:
    """Return one line of a table."""
    return (f"  {label:34} {cost.latency_cycles:>12,} cycles  {wide.latency_cycles / cost.latency_cycles:5.3f}×"
            f"  {100 * share_of_speed_up(cost, wide, narrow):5.1f} %  {cost.energy_pj / 1e6:9.3f} µJ{rest}")


def show_shapes(name: str, machine: Machine, width: int) -> list[tuple[float, float]]:
    """Print what the same ratio in every layer costs. Returns points (ratio, share of the speed-up)."""
    network = open_network(name)
    layers = [layer.name for layer in network.layers]

    def uniform(ratio: float) -> Cost:
        group = f":{width}" if width > 1 else ""
        precision = LayerPrecision.parse(f"w8a8/w4a4@{ratio}{group}") if ratio else WIDE
        return machine.cost(network, dict.fromkeys(layers, precision))

    wide, narrow = uniform(0.0), uniform(1.0)
    print(f"{name} on {machine.accelerator.name}, the same ratio in each layer, groups of {width} channels; "
          "speed and share of the speed-up")
    points = []
    for ratio in (0.0, *RATIOS):
        cost = uniform(ratio)
        points.append((ratio, share_of_speed_up(cost, wide, narrow)))
        print(line(f"{100 * ratio:.0f} %", cost, wide, narrow), flush=True)
    return points


def show_trained(
    name: str, machine: Machine, width: int, evolution: Evolution, examples: int
) -> list[tuple[float, float]]:
    """Print selections with their measured accuracy. Returns greedy's points (ratio of channels, share of speed-up)."""
    network = open_network(name)
    task = _task(network)
    feeds = _first(task.calibration_feeds(), examples)
    wide = machine.cost(network, {})
    sessions: dict[Extraction, FlexiqSession] = {
        extraction: FlexiqSession(network, feeds, extraction=extraction)
        for extraction in _EXTRACTIONS
    }
    static = sessions["static"]
    narrow = machine.cost(network, dict.fromkeys(static.lowerable, NARROW))
    gains = {layer: float(max(1, wide.by_layer[layer] - narrow.by_layer[layer])) for layer in static.lowerable}
    eight = task.evaluate(static.runner({}))
    print(f"{name} on {machine.accelerator.name}, selected channels, units of {width}; speed, share of the speed-up, "
          f"{task.metric}, output MSE to w8a8 on {len(feeds)} calibration feeds")
    print(line("w8a8", wide, wide, narrow, f"  {100 * eight.value:6.2f} %  of {eight.count}"), flush=True)
    points = [(0.0, 0.0)]
    for extraction, session in sessions.items():
        units = session.units(width, gains=gains)
        selections: dict[str, list[Mask]] = {"greedy": greedy(units)}
        if evolution.generations:
            selections["evolution"] = evolutionary(units, _fitness(session, units), RATIOS, evolution)
        for kind, masks in selections.items():
            for ratio, mask in zip(RATIOS, masks, strict=True):
                cost = machine.cost(network, session.precisions(units, mask))
                lowered = session.lowered_channels(units, mask)
                score = task.evaluate(session.runner(lowered))
                rest = f"  {100 * score.value:6.2f} %  {session.distance(lowered):9.3g}"
                print(line(f"{kind}, {extraction}, {100 * ratio:.0f} %", cost, wide, narrow, rest), flush=True)
                if (kind, extraction) == ("greedy", "static"):
                    channels = sum(own.sum() for own in lowered.values()) / sum(map(len, lowered.values()))
                    points.append((float(channels), share_of_speed_up(cost, wide, narrow)))
    _show_reordering(network, task, static, width, gains)
    return points


def show_accuracy(name: str, width: int) -> None:
    """Print what greedy selections keep of a network; multiplications stand for time, and nothing is simulated."""
    network = open_network(name)
    task = _task(network)
    for extraction in _EXTRACTIONS:
        session = FlexiqSession(network, task.calibration_feeds(), extraction=extraction)
        units = session.units(width)
        if extraction == "static":
            eight = task.evaluate(session.runner({}))
            pinned = sum(unit.size for unit in units if unit.channel_class in session.classes.pinned)
            total = sum(unit.size for unit in units)
            print(f"{name}, selected channels, units of {width}: {total} input channels of {len(session.lowerable)} "
                  f"layers (of {len(session.layers)}), {pinned} of them all or none; {task.metric}, output MSE to w8a8")
            print(f"  {'w8a8':34} {100 * eight.value:6.2f} %  of {eight.count}", flush=True)
        for ratio, mask in zip(RATIOS, greedy(units), strict=True):
            lowered = session.lowered_channels(units, mask)
            score = task.evaluate(session.runner(lowered))
            print(f"  {f'greedy, {extraction}, {100 * ratio:.0f} %':34} {100 * score.value:6.2f} %  "
                  f"{session.distance(lowered):9.3g}", flush=True)


def _task(network: Network) -> Task:
    task = find_task(network)
    if task is None:
        raise NetworkError(Problem("has no data to measure an accuracy on", where=network.name))
    return task


def _fitness(session: FlexiqSession, units: tuple[Unit, ...]):  # type: ignore[no-untyped-def]
    return lambda mask: session.distance(session.lowered_channels(units, mask))


def _first(feeds: object, examples: int) -> list[Feed]:
    """Calibration feeds, or at most so many examples of the first one (0: all)."""
    given = list(feeds)  # type: ignore[call-overload]
    return [{key: array[:examples] for key, array in given[0].items()}] if examples else given


def _show_reordering(
    network: Network, task: Task, session: FlexiqSession, width: int, gains: Mapping[str, float]
) -> None:
    """How many of the channels stand in the order of greedy's selection, and how far that moves the outputs."""
    units = session.units(width, gains=gains)
    moved = FlexiqSession(session.reordered(units, greedy(units)), task.calibration_feeds())
    free = {unit.channel_class for unit in units} - session.classes.pinned
    layers = [name for name in session.lowerable if session.classes.of_layer(network, name) in free]
    first, second = (task.evaluate(each.runner({})).value for each in (session, moved))
    print(f"  channels of {len(layers)} layers in {len(free)} classes reordered, of {len(session.layers)} layers; "
          f"{len(session.lowerable) - len(layers)} layers are lowered as a whole; reordered, w8a8 scores "
          f"{100 * second:.2f} % ({100 * first:.2f} %)")


def draw(curves: Mapping[str, list[tuple[float, float]]], folder: Path) -> Path:
    """Write the curves beside the paper's point. Returns the PNG file."""
    figure = new_figure(5.2, 4.0)
    axes = figure.subplots()
    for place, (label, points) in enumerate(curves.items()):
        axes.plot(*zip(*[(100 * x, 100 * y) for x, y in points], strict=True), marker="os^D"[place % 4], markersize=4,
                  linewidth=1.2, label=label, color=(BLUE, "#555555", "#009E73")[place % 3])
    axes.plot(100 * PAPER[0], 100 * PAPER[1], "*", markersize=12, color=VERMILION, linestyle="none",
              label="arXiv:2510.02822")
    axes.set_xlabel("channels in 4 bits (%)")
    axes.set_ylabel("share of the 4-bit speed-up (%)")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
    return save_figure(figure, folder, "flexiq")[0]


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, and write the curve where a folder is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flexiq", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="resnet18", help="networks of shapes, comma-separated (default: resnet18)")
    parser.add_argument("--trained", default="digits_cnn", help="trained networks (default: digits_cnn)")
    parser.add_argument("--width", type=int, default=0,
                        help="channels lowered together; 0: 128 for shapes, which cost nothing, 8 for trained ones")
    parser.add_argument("--seconds-per-layer", type=float, default=1.0, help="of search (default: %(default)s)")
    parser.add_argument("--generations", type=int, default=DEFAULT_EVOLUTION.generations,
                        help="of evolution; 0: greedy alone (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=0, help="calibration examples for the selection (default: all)")
    parser.add_argument("--accuracy-only", action="store_true",
                        help="trained networks: greedy selections and their accuracy, without mapping")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write flexiq.png and .svg here")
    options = parser.parse_args(arguments)
    machine = Machine("flexiq_like", SearchBudget(cpu_seconds=options.seconds_per_layer))
    curves = {}
    try:
        for name in filter(None, options.shapes.split(",")):
            curves[name] = show_shapes(name, machine, options.width or 128)
        for name in filter(None, options.trained.split(",")):
            if options.accuracy_only:
                show_accuracy(name, options.width or 8)
                continue
            curves[f"{name}, greedy"] = show_trained(name, machine, options.width or 8,
                                                     Evolution(generations=options.generations), options.examples)
    except BitmosaicError as error:
        print(error, file=sys.stderr)
        return 2
    if options.plot is not None:
        print(f"wrote {draw(curves, options.plot)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
