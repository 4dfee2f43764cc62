"""CP-SAT as every proof here uses it: one place for the settings that its answers rest on.

OR-Tools 9.15 sums 64-bit coefficients in 32 bits where its presolve looks at linear constraints together with
at-most-one constraints (google/or-tools issue 5293). With coefficients above 2**31, as ours are, it then returns
worse assignments as optimal. That pass is left out; the rest of the presolve stays.
"""

from __future__ import annotations

from ortools.sat.python import cp_model

MIN_SECONDS = 0.01  # A time limit that is over still lets a hint through.


def cp_solver(*, num_workers: int, random_seed: int, time_limit_seconds: float) -> cp_model.CpSolver:
    """Return a solver that gives the same answer on every run (with one worker, unless time runs out)."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = num_workers
    solver.parameters.random_seed = random_seed
    solver.parameters.max_time_in_seconds = max(MIN_SECONDS, time_limit_seconds)
    solver.parameters.presolve_inclusion_work_limit = 0
    # The solver would take Ctrl-C for itself, and nobody else would hear of it (``mapper.interruptible``).
    solver.parameters.catch_sigint_signal = False
    return solver
