"""A worker of ``LocalPool``: makes the calls that come through a socket, and sends back what became of them.

    python -m bitmosaic.sweeps.worker DESCRIPTOR [MODULE]

It ends when its parent does: nobody would hear its answers.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

PARENT_SECONDS = 0.5  # how often it looks whether its parent lives


def guarded(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make a call; returns the fields of an ``Outcome``, whatever it raises."""
    from simulator.errors import BitmosaicError, InfeasibleError, PrecisionError

    began = time.process_time()
    try:
        value = function(*arguments)
    except (InfeasibleError, PrecisionError) as error:
        return "infeasible", None, tuple(map(str, error.problems)), "", time.process_time() - began
    except BitmosaicError as error:
        return "failed", None, tuple(map(str, error.problems)), "", time.process_time() - began
    except (Exception, SystemExit) as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return "failed", None, (line,), traceback.format_exc(), time.process_time() - began
    return "done", value, (), "", time.process_time() - began


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def main() -> None:
    """Serve until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    if sys.argv[2:] and sys.argv[2]:
        importlib.import_module(sys.argv[2])
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        except Exception as error:  # what was sent cannot be unpickled here
            connection.send(("failed", None, (f"{type(error).__name__}: {error}",), traceback.format_exc(), 0.0))
            continue
        answer = guarded(function, arguments)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # the value cannot be pickled
            connection.send(("failed", None, (f"{type(error).__name__}: {error}",), traceback.format_exc(), 0.0))


if __name__ == "__main__":
    main()
