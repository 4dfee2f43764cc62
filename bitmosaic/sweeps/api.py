"""``bitmosaic.sweep``: a whole sweep in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bitmosaic.progress import Progress
from bitmosaic.sweeps.description import SweepDescription
from bitmosaic.sweeps.report import sweep_frame
from bitmosaic.sweeps.results import read_results
from bitmosaic.sweeps.runner import Pool, local_pool, run_sweep
from bitmosaic.sweeps.tasks import expand


def sweep(
    description: SweepDescription | Mapping[str, Any] | str | Path,
    *,
    results: str | Path | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    shard: tuple[int, int] | None = None,
    pool: Pool | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Map and simulate hardware points × networks × precisions × objectives; what is in the folder is not done again.

    Args:
        description: a sweep file, or the same content as a mapping (``SweepDescription``, docs/sweep.md).
        results: the results folder; by default ``results/NAME`` after the file, ``results/sweep`` for a mapping.
        workers: processes; None: one a core.
        retry_failed: do tasks again that failed, hung or killed their worker.
        shard: ``(2, 4)``: the second of four shares of the tasks, for several machines; ``merge_sweeps`` joins them.
        pool: what runs the tasks, ``DaskPool`` say, in place of processes of this machine.
        progress: told what is done; by default bars in a notebook, and elsewhere nobody.

    Returns:
        ``sweep_frame`` of all records in the folder.

    Raises:
        ConfigurationError: anything wrong with the description, with a message for each mistake; or another run writes
            to the folder. Tasks that fail raise nothing: their rows say so.
    """
    expansion = expand(description)
    folder = default_folder(description) if results is None else Path(results)
    run_sweep(
        expansion, folder, pool or local_pool(expansion.description, workers), retry_failed=retry_failed, shard=shard,
        progress=progress,
    )
    return sweep_frame(read_results(folder))


def default_folder(description: SweepDescription | Mapping[str, Any] | str | Path) -> Path:
    """Where results go if nobody says."""
    return Path("results", Path(description).stem if isinstance(description, str | Path) else "sweep")
