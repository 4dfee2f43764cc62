"""Runs SCALE-Sim 3.0.0 on layers of ours, in an environment of its own, and takes the CPU time that it needs.

SCALE-Sim (Samajdar et al., "A Systematic Methodology for Characterizing Scalability of DNN Accelerators using
SCALE-Sim", ISPASS 2020) is installed from PyPI into a virtual environment in the cache folder, because it needs an
older NumPy. Importing it is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.cache_folder import cache_folder
from simulator.layer import Layer

REQUIREMENTS = ("scalesim==3.0.0", "numpy<2.4")
DATAFLOWS = {"output": "os", "weight": "ws", "input": "is"}
_SRAM_KB = 256

# Runs in the other environment: reads file names, runs all layers, prints seconds and each layer's cycles.
_SCRIPT = """
import json, sys, time
from scalesim.scale_sim import scalesim
config, topology, layout, folder = sys.argv[1:]
run = scalesim(save_disk_space=True, verbose=False, config=config, topology=topology, layout=layout)
began = time.process_time()
run.run_scale(top_path=folder)
seconds = time.process_time() - began
layers = run.runner.single_layer_sim_object_list
cycles = [layer.get_compute_report_items()[1:3] for layer in layers]
print("RESULT " + json.dumps({"cpu_seconds": seconds, "cycles": [[int(a), int(b)] for a, b in cycles]}))
"""


@dataclass(frozen=True)
class PeerRun:
    """What SCALE-Sim answered: CPU seconds for all layers, and compute cycles of each."""

    cpu_seconds: float
    compute_cycles: tuple[int, ...]


def environment() -> Path:
    """Python of an environment with SCALE-Sim; set up when first asked for."""
    folder = cache_folder("scalesim-3.0.0")
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS], check=True
        )
        ready.touch()
    return python


def topology(layers: Sequence[Layer]) -> str:
    """SCALE-Sim's table of layers: convolutions with their padding stored, as it knows none."""
    lines = ["Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"]
    for number, layer in enumerate(layers):
        p, q, r, s = (layer.extent(dim) for dim in ("P", "Q", "R", "S"))
        assert layer.stride[0] == layer.stride[1] and layer.extent("G") == layer.extent("N") == 1
        height, width = (p - 1) * layer.stride[0] + r, (q - 1) * layer.stride[1] + s
        fields = (f"L{number}", height, width, r, s, layer.extent("C"), layer.extent("K"), layer.stride[0])
        lines.append("".join(f"{field}, " for field in fields))
    return "\n".join(lines) + "\n"


def configuration(rows: int, columns: int, dataflow: str) -> str:
    """An array with buffers large enough that compute alone takes time."""
    return f"""\
[general]
run_name = run

[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False

[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = {_SRAM_KB}
FilterSramSzkB = {_SRAM_KB}
OfmapSramSzkB = {_SRAM_KB}
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
ReadRequestBuffer = 32
WriteRequestBuffer = 32

[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2

[sparsity]
SparsitySupport = false
"""


def run_scalesim(layers: Sequence[Layer], rows: int, columns: int, stationary: str) -> PeerRun:
    """Simulate layers on a systolic array. Raises ``subprocess.CalledProcessError`` where SCALE-Sim fails."""
    python = environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layout = "Layer name\n" + "".join(f"L{number}, " + "1, " * 24 + "\n" for number in range(len(layers)))
        files = {"run.cfg": configuration(rows, columns, DATAFLOWS[stationary]), "layers.csv": topology(layers),
                 "layout.csv": layout}
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        result = subprocess.run(
            [str(python), "-c", _SCRIPT, *(str(folder / file) for file in files), name], cwd=folder, check=True,
            stdout=subprocess.PIPE, text=True,
        )
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("RESULT "))
    answer = json.loads(line.removeprefix("RESULT "))
    # It reports the number of the last cycle, counted from 0, and of all cycles how many were stalls.
    return PeerRun(answer["cpu_seconds"], tuple(total + 1 - stalls for total, stalls in answer["cycles"]))
