"""Cells as processes, a given number of them side by side."""

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
    """The cells of a study that are to run without DVC, up to ``jobs`` side by side.

    Cells of one group share a folder and run one after the other; a folder that another process works in is waited for.
    ``is_done``: whether that process has meanwhile run the cell. ``keep`` gets what a cell made, and its seconds.
    """

    def __init__(
        self, study: str, cells: Sequence[Cell], jobs: int, is_done: Callable[[Cell], bool], keep: Keep
    ) -> None:
        self._study, self._jobs, self._is_done, self._keep = study, jobs, is_done, keep
        self._count = len(cells)
        self._waiting = list(cells)
        self._running: list[CellRun] = []
        self._failed: list[str] = []
        self._kept: set[str] = set()  # groups with a failed cell, whose folders stay to be looked at
        self._waited_for: set[str] = set()  # groups in whose folders another process was met

    def run(self) -> list[str]:
        """Run all cells; Ctrl-C and SIGTERM stop those at work.

        A failed cell does not keep others from running: its error is printed. Returns the names of the failed ones.
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
        """Start waiting cells, in their order, as long as there are fewer than ``jobs`` at work."""
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
        """The cell's folder, unless another process has it or has run the cell."""
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
        """Keep what the cells made that have ended; False if none has."""
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
    """SIGTERM as an exception (SystemExit 143), as Ctrl-C is one, so that processes are not left behind."""

    def stop(number: int, frame: object) -> None:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
