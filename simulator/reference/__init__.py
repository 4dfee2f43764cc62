"""The ``reference`` engine: steps through every cycle, keeps all state, computes the outputs. Slow and plain.

It is the oracle of the engines that score: nothing here is a closed form, and nothing is shared with them but
the data model. ``program`` unrolls the loop nest into events, runs, requests and steps; ``memories`` holds what is
resident where; ``multicast`` and ``systolic`` are the two kinds of grid; ``engine`` is the clock.
"""

from __future__ import annotations

from simulator.reference.engine import simulate_reference

__all__ = ["simulate_reference"]
