"""A launcher that writes down what a stage does: `python journal.py -m stages.NAME ...`, with $JOURNAL naming a file.

One line of JSON for the start of the process, for every finished piece of work (a part, an optimizer step), and for the
end, with the largest memory that the process had.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any


def note(**what: Any) -> None:
    """Append a line, in one write."""
    line = json.dumps({"time": time.time(), "pid": os.getpid(), **what}) + "\n"
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def noted(work: Callable[..., None], piece: Callable[..., int]) -> Callable[..., None]:
    """A method of StageRun that notes which piece of work it has made safe."""
    def call(run: Any, *arguments: Any) -> None:
        work(run, *arguments)
        if not run.done:
            note(piece=[run.stage, run.round, run.fingerprint[:16], piece(*arguments)])
    return call


def main() -> None:
    """Run the stage with its methods noted."""
    module, arguments = sys.argv[2], sys.argv[3:]
    command = " ".join([module.removeprefix("stages."), *arguments])
    note(started=command)
    atexit.register(lambda: note(
        ended=command, mebibytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    sys.argv = [module, *arguments]
    sys.path.insert(0, os.getcwd())
    from dfusion_core.store import StageRun

    StageRun.write_arrays = noted(StageRun.write_arrays, lambda rows, values: rows.start)  # type: ignore[method-assign]
    StageRun.save_state = noted(StageRun.save_state, lambda arrays, meta: meta["done"])  # type: ignore[method-assign]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
