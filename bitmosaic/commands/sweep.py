"""``bitmosaic sweep run``, ``status``, ``show``, ``merge``: many hardware points, networks and precisions at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitmosaic.commands.parts import INTERRUPTED, display, shown_progress
from simulator.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from bitmosaic.sweeps.description import SweepDescription
    from bitmosaic.sweeps.runner import Pool, SweepStatus

_FOLDER = click.argument("results", type=click.Path(path_type=Path))


@click.group(short_help="Sweep over hardware, networks and precisions.")
def sweep() -> None:
    """Map and simulate many hardware points × networks × precisions, and keep one record of each."""


@sweep.command(short_help="Run a sweep, or go on with it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The results folder; by default results/NAME, after the sweep file.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Processes that do tasks; by default one for each core.")
@click.option("--retry-failed", is_flag=True,
              help="Do tasks again that failed, were given up, or killed their worker.")
@click.option("--shard", metavar="I/N",
              help="Do the I-th of N shares of the tasks, for several machines; `bitmosaic sweep merge` joins them.")
@click.option("--executor", type=click.Choice(["local", "dask", "slurm", "lsf", "sge"]), default="local",
              show_default=True, help="Who does the tasks: processes here, a Dask scheduler, or batch jobs "
                                      "(dask-jobqueue, with its own configuration file).")
@click.option("--scheduler", metavar="ADDRESS", help="Of --executor dask: its address, e.g. tcp://host:8786.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Of slurm, lsf and sge: how many batch jobs.")
def run(
    file: Path, output: Path | None, workers: int | None, retry_failed: bool, shard: str | None, executor: str,
    scheduler: str | None, jobs: int | None,
) -> None:
    """Do the tasks of the sweep in FILE that have no record in the results folder yet.

    A killed or interrupted sweep goes on with the same command, and repeats nothing that has ended. A finished one
    changes no byte. Exit code 1: some tasks failed, and are recorded.
    """
    from bitmosaic.sweeps.api import default_folder
    from bitmosaic.sweeps.runner import run_sweep
    from bitmosaic.sweeps.tasks import expand

    share = _share(shard)
    _check_executor(executor, scheduler, jobs, workers)
    expansion = expand(file)
    folder = output or default_folder(file)
    try:
        with _pool(expansion.description, executor, scheduler, jobs, workers) as pool, shown_progress() as progress:
            status = run_sweep(
                expansion, folder, pool, retry_failed=retry_failed, shard=share, progress=progress
            )
    except KeyboardInterrupt:
        click.echo(f"Interrupted: what has ended is kept in {folder}; the same command goes on from there.", err=True)
        click.get_current_context().exit(INTERRUPTED)
    _say(status, folder)
    if status.failed:
        click.get_current_context().exit(1)


@sweep.command(short_help="Say how far a sweep is.")
@_FOLDER
def status(results: Path) -> None:
    """Say how many tasks of the sweep in the folder RESULTS are done, failed and left. A run may be under way."""
    from bitmosaic.sweeps.runner import open_status

    _say(open_status(results), results)


@sweep.command(short_help="Show the results of a sweep.")
@_FOLDER
@click.option("--sort", default="", metavar="COLUMN", help="Order by a column of the frame, e.g. energy_uj.")
@click.option("--front", is_flag=True,
              help="Only points that no other beats in latency, energy and area, of the same network and precision; "
                   "and in accuracy, of the same network, where it is measured.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="The most rows that are shown.")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write all rows and columns as CSV, and show nothing.")
def show(results: Path, sort: str, front: bool, rows: int | None, csv_file: Path | None) -> None:
    """Show the records of the folder RESULTS, finished or not."""
    from bitmosaic.sweeps.report import load_sweep, sweep_table

    frame = load_sweep(results)
    table = sweep_table(frame, sort=sort, front_only=front, most=rows)
    if csv_file is not None:
        frame.to_csv(csv_file, index=False)
        click.echo(f"{csv_file}: {len(frame)} rows")
        return
    display(table)
    unsolved = frame[frame["errors"] != ""]
    for row in unsolved.head(5).itertuples():
        click.echo(f"{row.status.replace('_', ' ')}: {row.hardware} · {row.network} · {row.precision}: {row.errors}")
    if len(unsolved) > 5:
        click.echo(f"… and {len(unsolved) - 5} more; --csv has all.")


@sweep.command(short_help="Put results folders together.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR",
              help="The folder that receives the records; what is there already stays.")
def merge(folders: tuple[Path, ...], output: Path) -> None:
    """Put the records of several FOLDERS into one. Shares of one sweep give the same bytes as the whole."""
    from bitmosaic.sweeps.runner import merge_sweeps

    click.echo(f"{output}: {merge_sweeps(folders, output)} records")


def _check_executor(executor: str, scheduler: str | None, jobs: int | None, workers: int | None) -> None:
    problems = []
    if executor == "dask" and scheduler is None:
        problems.append(Problem("names the address of the scheduler, which --executor dask needs", path="--scheduler"))
    if executor != "dask" and scheduler is not None:
        problems.append(Problem("is for --executor dask", path="--scheduler", value=repr(scheduler)))
    if executor in ("slurm", "lsf", "sge") and jobs is None:
        problems.append(Problem(f"says how many batch jobs there are to be, which {executor} needs", path="--jobs"))
    if executor in ("local", "dask") and jobs is not None:
        problems.append(Problem("is for batch systems", path="--jobs", value=str(jobs)))
    if executor != "local" and workers is not None:
        problems.append(Problem("is for processes of this machine", path="--workers", value=str(workers)))
    if problems:
        raise ConfigurationError(problems)


@contextmanager
def _pool(
    description: SweepDescription, executor: str, scheduler: str | None, jobs: int | None, workers: int | None
) -> Iterator[Pool]:
    """Who does the tasks; what was started for it is ended."""
    from bitmosaic.sweeps.runner import PREPARE, local_pool

    if executor == "local":
        yield local_pool(description, workers)
        return
    from bitmosaic.sweeps.dask_pool import DaskPool, batch_cluster

    with ExitStack() as stack:
        place: Any = scheduler
        if executor != "dask":
            place = stack.enter_context(batch_cluster(executor, jobs or 1))  # type: ignore[arg-type]
        pool = DaskPool(place, description.task_seconds, PREPARE)
        stack.callback(pool.client.close)
        yield pool


def _share(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ConfigurationError(Problem("must be I/N with 1 ≤ I ≤ N, e.g. 2/4", path="--shard", value=repr(text)))
    return int(number), int(count)


def _say(status: SweepStatus, folder: Path) -> None:
    from bitmosaic.sweeps.space import NOT_BUILT

    words = [f"{count} {name.replace('_', ' ')}" for name, count in sorted(status.counts.items())]
    words += [f"{status.left} left"] if status.left else []
    click.echo(f"{folder}: {status.task_count} tasks on {status.point_count} hardware points: {', '.join(words)}")
    drawn = status.drawn
    if drawn is not None:
        again = f", {drawn.repeated} of them again" if drawn.repeated else ""
        click.echo(f"{drawn.drawn} of {drawn.planned} points are drawn{again}")
    for name, count in status.left_out.items():
        if name == NOT_BUILT:
            click.echo(f"{count} points cannot be built of the values drawn")
        else:
            click.echo(f"{count} points are beyond the limit of {name} and left out")
    if drawn is not None and drawn.costless:
        click.echo(f"{drawn.costless} points have a task without a result: the search learns nothing of them")
    if status.others:
        click.echo(f"{status.others} records are of tasks that this sweep has not")
    if status.failed:
        click.echo("`bitmosaic sweep run --retry-failed` does failed tasks again", err=True)
