"""Dask: the same bytes as local processes, also when a worker is killed in mid-run; batch jobs by a made-up queue."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bitmosaic.cli import main
from bitmosaic.sweeps.dask_pool import DaskPool, batch_cluster
from bitmosaic.sweeps.local_pool import Call, LocalPool
from bitmosaic.sweeps.results import RESULTS_FILE, read_results
from bitmosaic.sweeps.runner import run_sweep
from bitmosaic.sweeps.tasks import expand
from simulator.errors import ConfigurationError

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


class _Found:
    """A pool whose calls wait a little and find something made up: what is tested is who makes them."""

    def __init__(self, pool: Any, after: Any = None) -> None:
        self.pool, self.after = pool, after

    def outcomes(self, calls: Any) -> Any:
        made_up = []
        for _, (task,) in calls:
            cycles = int(task.key[:4], 16)
            result = {
                "total_cycles": cycles, "latency_ms": cycles / 3, "energy_pj": 1.0, "energy_by_component_pj": {},
                "macs": 5, "area_mm2": None, "worst_gap": 0.0, "unproven_layers": 0, "confidence": {},
                "not_modelled": [],
            }
            code = f"__import__('time').sleep(0.1) or {{'result': {result!r}, 'statistics': {{}}}}"
            made_up.append((eval, (code,)))
        for number, ended in enumerate(self.pool.outcomes(made_up)):
            yield ended
            if self.after is not None:
                self.after(number)


def test_a_killed_worker_changes_no_byte(tmp_path: Path) -> None:
    many = expand({
        "hardware": [{"base": "bit_fusion", "grid": {"clock_mhz": [float(100 + mhz) for mhz in range(16)]}}],
        "networks": ["digits_cnn"], "precisions": ["w8a8"],
    })
    run_sweep(many, tmp_path / "local", _Found(LocalPool(2)))
    killed: list[int] = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        pool = DaskPool(cluster)

        def kill_one(ended: int) -> None:
            if ended == 3:
                (pid, *_) = pool.client.run(os.getpid).values()
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        run_sweep(many, tmp_path / "dask", _Found(pool, kill_one))
        calls: list[Call] = [(math.sqrt, (4.0,)), (os.abort, ()), (time.sleep, (60,)), (json.loads, ("{",))]
        ended = dict(DaskPool(pool.client, seconds=2.0).outcomes(calls))
        pool.client.close()
    assert killed and len(list(read_results(tmp_path / "dask"))) == 16
    assert (tmp_path / "dask" / RESULTS_FILE).read_bytes() == (tmp_path / "local" / RESULTS_FILE).read_bytes()
    local = dict(LocalPool(1, seconds=2.0).outcomes(calls))
    assert [ended[number][:3] for number in range(4)] == [local[number][:3] for number in range(4)]
    assert [ended[number].status for number in range(4)] == ["done", "killed", "timed_out", "failed"]


def test_an_address_where_nobody_answers_is_said() -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}), pytest.raises(
        ConfigurationError, match="no scheduler answers"
    ):
        DaskPool("tcp://127.0.0.1:9")


def test_batch_jobs_are_submitted_with_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(ConfigurationError, match=r"executor=slurm: .*dask-jobqueue"):
        batch_cluster("slurm", 1)
    # A queue that keeps the scripts that are submitted, and runs none.
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/job$$\necho "Submitted batch job $$"\n')
    (tmp_path / "scancel").write_text("#!/bin/sh\n")
    for name in ("sbatch", "scancel"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with batch_cluster("slurm", 2, cores=1, processes=1, memory="1GB", queue="night", interface="lo"):
        for _ in range(200):
            if len(list(tmp_path.glob("job*"))) == 2:
                break
            time.sleep(0.05)
    jobs = [path.read_text() for path in tmp_path.glob("job*")]
    assert len(jobs) == 2 and all("#SBATCH -p night" in job and "distributed" in job for job in jobs)


def test_executors_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("bitmosaic_version: 1\nnetworks: [digits_cnn]\nprecisions: [w8a8]\n"
                    "hardware: [{base: bit_fusion}]\n")
    for options, words in (
        (["--executor", "dask"], "--scheduler: names the address"),
        (["--scheduler", "tcp://x:1"], "--scheduler='tcp://x:1': is for --executor dask"),
        (["--executor", "lsf"], "--jobs: says how many batch jobs"),
        (["--executor", "dask", "--scheduler", "tcp://x:1", "--jobs", "3"], "--jobs=3: is for batch systems"),
    ):
        result = CliRunner().invoke(main, ["sweep", "run", str(path), "--output", str(tmp_path / "r"), *options])
        assert result.exit_code == 2 and words in result.stderr, result.output
    assert not (tmp_path / "r").exists()
