"""What commands share: options, how they read names and shapes, and how they print and report progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.table import Table

from bitmosaic.progress import PlainProgress, Progress, TerminalProgress
from simulator.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from workloads.network import Network

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
PIPE_WIDTH = 150
INTEGER_QUANTISERS = ("rtn", "rtn_least_error", "gptq", "gptq_act")
QUANTISERS = (*INTEGER_QUANTISERS, "dpq", "dpq_natural")
DEFAULT_QUANTISER = "rtn_least_error"
"""Those of ``workloads.weight_quantisers``, said here so that help needs not load them."""

HARDWARE = click.option(
    "--hardware", default="bit_fusion", show_default=True, metavar="NAME|FILE",
    help="The accelerator: a preset (see `bitmosaic hardware`) or a YAML file.",
)
OBJECTIVE = click.option(
    "--objective", type=click.Choice(["edp", "latency", "energy"]), default="edp", show_default=True,
    help="What the mapping of each layer is searched for; edp is energy times latency.",
)
SHAPE = click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=DIMS",
    help="The shape of an input that is dynamic in the ONNX file, e.g. x=1,3,48,320. May be given several times.",
)
SECONDS = click.option(
    "--seconds-per-layer", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="CPU time after which the search for one mapping stops; its gap is then reported.",
)
GAP = click.option(
    "--gap", type=click.FloatRange(min=0, max=1), metavar="FRACTION",
    help="The proven gap at which the search for one mapping stops: 0.05 is 5 %, 0 asks for the optimum.",
)
WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N",
    help="Processes that search for mappings; by default one for each core.",
)


class _PointCount(click.ParamType[int | str]):
    """A number of at least 2, or ``all``."""

    name = "points"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read what was given."""
        if value == "all":
            return "all"
        try:
            count = int(value)
        except ValueError:
            count = 0
        if count < 2:
            self.fail(f"{value!r} is neither a number of at least 2 nor all.", param, ctx)
        return count


POINT_COUNT = _PointCount()

_FLEXIQ = (
    click.option("--flexiq-selection", type=click.Choice(["greedy", "evolutionary"]),
                 help="How the method flexiq selects channels: greedy (the default), or evolutionary, which measures "
                      "up to 306 selections on the calibration data."),
    click.option("--flexiq-extraction", type=click.Choice(["static", "dynamic"]),
                 help="Where the method flexiq has the effective bits of activations from: static (the default), from "
                      "the calibration data, or dynamic, from each example."),
    click.option("--flexiq-width", type=click.IntRange(min=1), metavar="N",
                 help="Input channels that the method flexiq lowers together; by default as many as the machine takes "
                      "in one step of 4 bits."),
)


_SEADA = (
    click.option("--seada-codes", type=click.Choice(["sign_magnitude", "twos_complement"]),
                 help="Which bits the method seada takes the entropy of; sign_magnitude by default."),
    click.option("--seada-score", type=click.Choice(["operands", "mean", "max"]),
                 help="Whether the method seada goes by the entropy of each operand (the default), or by the mean or "
                      "the larger one of a layer's two."),
    click.option("--seada-weight", type=click.Choice(["elements", "parameters", "macs", "one"]),
                 help="What the method seada multiplies lost bits by: elements of each operand (the default), or the "
                      "layer's parameters, MACs, or one."),
)


def _adding(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What adds options to a command, in their order."""
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


flexiq_options = _adding(_FLEXIQ)
seada_options = _adding(_SEADA)


def listing(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A plain table of headings and rows."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "name")
    for row in rows:
        table.add_row(*row)
    return table


def layer_precisions_of(texts: Sequence[str]) -> dict[str, str]:
    """Patterns of layers' names → precision, in the order given; of a pattern that stands twice the first counts."""
    found: dict[str, str] = {}
    for text in texts:
        pattern, equals, precision = text.rpartition("=")
        if not equals or not pattern:
            rule = "must be PATTERN=PRECISION, e.g. 'conv*=w4a4'"
            raise ConfigurationError(Problem(rule, path="--layer-precision", value=repr(text)))
        found.setdefault(pattern, precision)
    return found


def layer_menus_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """Patterns of layers' names → precisions, in the order given; of a pattern that stands twice the first counts."""
    found: dict[str, list[str]] = {}
    for text in texts:
        pattern, equals, precisions = text.rpartition("=")
        if not equals or not pattern or not words(precisions):
            rule = "must be PATTERN=PRECISION,PRECISION…, e.g. 'conv*=w8a8,w4a8'"
            raise ConfigurationError(Problem(rule, path="--layer-menu", value=repr(text)))
        found.setdefault(pattern, words(precisions))
    return found


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def open_named(network: str, shapes: tuple[str, ...]) -> Network:
    """The network of a name or file, with the shapes given for its inputs."""
    from workloads import open_network

    return open_network(network, input_shapes=shapes_of(shapes))


def shapes_of(shapes: tuple[str, ...]) -> dict[str, tuple[int, ...]] | None:
    """Input name → shape, from texts; None where there are none."""
    wanted: dict[str, tuple[int, ...]] = {}
    for shape in shapes:
        name, _, dims = shape.partition("=")
        try:
            wanted[name] = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            name = ""
        if not name:
            rule = "must be NAME=DIMS with whole numbers, e.g. x=1,3,48,320"
            raise ConfigurationError(Problem(rule, path="--shape", value=repr(shape)))
    return wanted or None


def changed_budget(default: Any, seconds: float | None, gap: float | None) -> Any:
    """A search budget with what was given anew."""
    changes = {name: value for name, value in (("cpu_seconds", seconds), ("target_gap", gap)) if value is not None}
    return default.model_copy(update=changes)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        with TerminalProgress(console) as bars:
            yield bars
    else:
        yield PlainProgress(sys.stderr)


def display(renderable: RenderableType) -> None:
    """Print on standard output, as wide as the terminal; in a pipe or a file wide enough for the tables."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=PIPE_WIDTH)
    # What is wider than the screen after all breaks there: better than numbers that are cut off.
    console.print(renderable, crop=False)
