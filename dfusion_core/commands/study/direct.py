"""A cell's stages one after the other in one process, without DVC, in a folder beside the workspace.

In a grid of small cells most of the time is the start of processes: eight per round, which import torch and
diffusers. The folder has links to the working tree, and its own `runs`, `results` and params.yaml.
Cells that differ only in the compared factor share it: stages with the same fingerprint run once, and an interrupted
cell continues. Cells of one folder run one after the other, cells of different folders in parallel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ...params import load_params
from ...params.rounds import in_order
from ...params.strict_yaml import read_yaml
from ...store import atomic
from ...store.lock import Lock
from ...store.paths import RESULTS, RUNS
from ...store.scratch import scratch_root
from .grid import Cell, StudyError
from .outputs import Outputs

PARAMS = "params.yaml"
OWN = (PARAMS, "dvc.lock", str(RUNS), str(RESULTS))  # own names of the folder; the others are links to the workspace
NOT_PASSED_ON = ("DFUSION_SCRATCH", "DVC_ROOT", "DVC_STAGE")  # a cell's scratch is in its own folder
LINES = 20  # lines of a failed cell's output in the error


class CellRun:
    """A running cell: a process with all its stages, and the lock on its folder."""

    def __init__(self, study: str, cell: Cell, jobs: int) -> None:
        """Lock the folder. Raises StoreError if another process holds it."""
        self.cell, self._jobs = cell, jobs
        self._base = Path(scratch_root().absolute(), "studies", study)
        self.folder = self._base / cell.group
        self._lock = Lock(self._base / f"{cell.group}.lock", f"cell {cell.name}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Link the workspace into the folder, write the cell's parameters and start the stages."""
        _show_workspace(self.folder)
        (self.folder / PARAMS).write_text(self.cell.params(read_yaml(Path(PARAMS)) or {}), encoding="utf-8")
        self._started = time.monotonic()
        command = [sys.executable, "-m", "stages", "all"]
        if self._jobs == 1:
            self._process = subprocess.Popen(command, cwd=self.folder, env=_environment(1))
            return
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=_environment(self._jobs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def ended(self) -> bool:
        """Whether the stages have ended."""
        return self._process is not None and self._process.poll() is not None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def outputs(self) -> Outputs:
        """The outputs of the stages. Raises StudyError if they failed."""
        assert self._process is not None
        if self._process.returncode:
            raise StudyError(
                f"{self.cell.name}: the stages in {self.folder} ended with exit code "
                f"{self._process.returncode}; {self._said()}"
            )
        rounds = in_order(load_params("rounds", path=self.folder / PARAMS))
        return Outputs(rounds, lambda path: (self.folder / path).read_text(encoding="utf-8"))

    def forget(self) -> None:
        """Remove the folder, with the finished stages of its group."""
        atomic.remove_folder(self.folder)

    def close(self) -> None:
        """Stop running stages (finished work is kept), and release the folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        if self._process is not None and not self._process.returncode:
            self._log.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _log(self) -> Path:
        return self._base / f"{self.cell.name}.log"

    def _said(self) -> str:
        if self._jobs == 1:
            return "their output is above."
        last = self._log.read_text(errors="replace").splitlines()[-LINES:]
        return "\n".join([f"the end of their output, {self._log}:", *(f"  {line}" for line in last)])


def _show_workspace(folder: Path) -> None:
    """Make links to everything in the current folder that is neither hidden nor an output."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path.cwd().iterdir():
        link = folder / path.name
        if path.name not in OWN and not path.name.startswith(".") and not link.is_symlink():
            link.symlink_to(path)


def _environment(jobs: int) -> dict[str, str]:
    """The environment of a cell's process; several share the CPU cores, unless OMP_NUM_THREADS is set."""
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    return threads | passed
