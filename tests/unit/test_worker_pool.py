"""Processes that search: what they had found is there after Ctrl-C, of those that ended and of those that did not."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from bitmosaic import parse_layer
from hw_configs import open_accelerator
from mapper.interruptible import interruptible
from mapper.search import map_layer
from mapper.solution import MappingSolution, SearchInterrupted
from mapper.worker_pool import solve_in_workers
from simulator.precision import LayerPrecision


class Waiting(NamedTuple):
    """A search that writes that it has begun, and ends at Ctrl-C alone; without ``begun`` it ends at once."""

    begun: Path | None
    best: MappingSolution | None


def search(task: Waiting) -> str:
    if task.begun is None:
        return "ended"
    task.begun.touch()
    stopped = threading.Event()
    try:
        interruptible(lambda: stopped.wait(120), stopped.set)
    except KeyboardInterrupt:
        if task.best is None:
            raise
        raise SearchInterrupted(task.best) from None
    return "never stopped"


def test_ctrl_c_keeps_the_best_of_every_process(tmp_path: Path) -> None:
    layer = parse_layer("fc:K=8,C=8,P=2")
    best = map_layer(layer, LayerPrecision.parse("w8a8"), open_accelerator("bit_fusion"))
    found: dict[str, str] = {}
    begun = [tmp_path / "with", tmp_path / "without"]

    def signal_later() -> None:
        while not all(path.exists() for path in begun) or not found:
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=signal_later, daemon=True).start()
    tasks = {"ended": Waiting(None, None), "with": Waiting(begun[0], best), "without": Waiting(begun[1], None),
             "never begun": Waiting(tmp_path / "never", best)}
    with pytest.raises(SearchInterrupted) as caught:
        solve_in_workers(search, tasks, 2, found.__setitem__)
    assert found == {"ended": "ended"} and not (tmp_path / "never").exists()
    assert caught.value.solutions == (best,) and caught.value.solution == best
