"""A launcher that writes down what a stage does: `python journal.py -m stages.NAME ...`, with $JOURNAL naming a file.

One line of JSON for the start of the process, for every piece of work (a part, an optimizer step) that it begins, for
every one that is safe on the disk, and for the end, with the processor's seconds and the largest memory.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def note(**what: Any) -> None:
    """Append a line, in one write."""
    line = json.dumps({"time": time.time(), "pid": os.getpid(), **what}) + "\n"
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def named(run: Any, number: int) -> list[Any]:
    """A piece of work."""
    return [run.stage, run.round, run.fingerprint[:16], number]


def noted(work: Callable[..., None], number: Callable[..., int]) -> Callable[..., None]:
    """A method of StageRun that notes which piece of work it has made safe."""

    def call(run: Any, *arguments: Any) -> None:
        work(run, *arguments)
        if not run.done:
            note(piece=named(run, number(*arguments)))

    return call


def begun(pieces: Callable[..., Iterator[Any]], number: Callable[[Any], int]) -> Callable[..., Iterator[Any]]:
    """A method of StageRun that notes which piece of work it hands out."""

    def call(run: Any, *arguments: Any) -> Iterator[Any]:
        for piece in pieces(run, *arguments):
            note(begun=named(run, number(piece)))
            yield piece

    return call


def end(command: str) -> None:
    """What the process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    note(ended=command, mebibytes=used.ru_maxrss / 1024, cpu=used.ru_utime + used.ru_stime)


def main() -> None:
    """Run the stage with its methods noted."""
    module, arguments = sys.argv[2], sys.argv[3:]
    command = " ".join([module.removeprefix("stages."), *arguments])
    note(started=command)
    atexit.register(end, command)
    sys.argv = [module, *arguments]
    sys.path.insert(0, os.getcwd())
    from dfusion_core.store import StageRun

    for name, method in {
        "unfinished": begun(StageRun.unfinished, lambda rows: rows.start),
        "track": begun(StageRun.track, lambda update: update + 1),
        "write_arrays": noted(StageRun.write_arrays, lambda rows, values: rows.start),
        "save_state": noted(StageRun.save_state, lambda arrays, meta: meta["done"]),
    }.items():
        setattr(StageRun, name, method)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
