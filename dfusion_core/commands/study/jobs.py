"""Cells as processes, a given number of them in parallel."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...errors import DFusionError, StoreError
from ...runtime.entry import INTERRUPTED
from .direct import CellRun
from .grid import Cell
from .outputs import Outputs

PAUSE = 0.2  # seconds between two looks at the processes

Keep = Callable[[Cell, Outputs, float], None]


class Jobs:
    """The cells of a study to run without DVC, up to ``jobs`` in parallel.

    Cells of one group share a folder and run one after the other; a folder that another process uses is waited for.
    ``is_done``: whether that process has run the cell. ``keep`` is called with a cell's outputs and seconds.
    """

    def __init__(
        self, study: str, cells: Sequence[Cell], jobs: int, is_done: Callable[[Cell], bool], keep: Keep
    ) -> None:
        self._study, self._jobs, self._is_done, self._keep = study, jobs, is_done, keep
        self._count = len(cells)
        self._waiting = list(cells)
        self._running: list[CellRun] = []
        self._failed: list[str] = []
        self._kept: set[str] = set()  # groups with a failed cell, whose folders are kept
        self._waited_for: set[str] = set()  # groups whose folders another process uses

    def run(self) -> list[str]:
        """Run all cells; Ctrl-C and SIGTERM stop the running ones.

        The error of a failed cell is printed, and the others continue. Returns the names of the failed ones.
        """
        with _sigterm_as_exit():
            try:
                while self._waiting or self._running:
                    self._start()
                    if not self._finish():
                        time.sleep(PAUSE)
            finally:
                for run in self._running:
                    run.close()
        return self._failed

    def _start(self) -> None:
        """Start waiting cells, in their order, while fewer than ``jobs`` are running."""
        for cell in list(self._waiting):
            if len(self._running) < self._jobs and not any(cell.group == run.cell.group for run in self._running):
                run = self._take(cell)
                if run is not None:
                    self._running.append(run)
                    print(
                        f"[{self._count - len(self._waiting)} of {self._count}] {cell.name}: "
                        f"{' '.join(cell.overrides)}",
                        flush=True,
                    )
                    run.start()

    def _take(self, cell: Cell) -> CellRun | None:
        """Lock the cell's folder, unless another process uses it or has run the cell."""
        try:
            run = CellRun(self._study, cell, self._jobs)
        except StoreError as error:
            if cell.group not in self._waited_for:
                print(f"{cell.name}: waits, because {error.message}", flush=True)
                self._waited_for.add(cell.group)
            return None
        self._waiting.remove(cell)
        if self._is_done(cell):
            run.close()
            return None
        return run

    def _finish(self) -> bool:
        """Store the outputs of cells that have ended; returns False if none has."""
        ended = [run for run in self._running if run.ended]
        for run in ended:
            try:
                self._keep(run.cell, run.outputs(), run.seconds)
                if not any(cell.group == run.cell.group for cell in self._waiting) and run.cell.group not in self._kept:
                    run.forget()
            except DFusionError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                self._failed.append(run.cell.name)
                self._kept.add(run.cell.group)
            self._running.remove(run)
            run.close()
        return bool(ended)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Raise SystemExit 143 on SIGTERM, so that processes are stopped as with Ctrl-C."""

    def stop(number: int, frame: object) -> None:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
