"""A cell's stages one after the other in one process, without DVC, in a folder beside the workspace.

In a grid of small cells most of the time goes into starting processes: eight a round, each of which imports torch and
diffusers anew. The folder shows the working tree as it is, with `runs`, `results` and params.yaml of its own.
Cells that differ in nothing but what is compared share it: a stage that is the same in the next cell is done already,
and an interrupted cell goes on where it was. So they run one after the other, and those of other folders beside them.
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
OWN = (PARAMS, "dvc.lock", str(RUNS), str(RESULTS))  # of the folder; everything else is the workspace's
NOT_PASSED_ON = ("DFUSION_SCRATCH", "DVC_ROOT", "DVC_STAGE")  # a cell's work in progress lies in its own folder
LINES = 20  # of a failed cell's output that its error quotes


class CellRun:
    """A cell at work: a process with all its stages, and the lock on the folder that it works in."""

    def __init__(self, study: str, cell: Cell, jobs: int) -> None:
        """Take the folder. Raises StoreError if another process has it."""
        self.cell, self._jobs = cell, jobs
        self._base = Path(scratch_root().absolute(), "studies", study)
        self.folder = self._base / cell.group
        self._lock = Lock(self._base / f"{cell.group}.lock", f"cell {cell.name}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Show the workspace in the folder, write the cell's parameters and start the stages."""
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
        """Whether the stages are no longer at work."""
        return self._process is not None and self._process.poll() is not None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._started

    def outputs(self) -> Outputs:
        """What the stages made. Raises StudyError if they failed."""
        assert self._process is not None
        if self._process.returncode:
            raise StudyError(
                f"{self.cell.name}: the stages in {self.folder} ended with exit code "
                f"{self._process.returncode}; {self._said()}"
            )
        rounds = in_order(load_params("rounds", path=self.folder / PARAMS))
        return Outputs(rounds, lambda path: (self.folder / path).read_text(encoding="utf-8"))

    def forget(self) -> None:
        """Remove the folder, and with it what the next cell of the group would find done."""
        atomic.remove_folder(self.folder)

    def close(self) -> None:
        """Stop the stages if they are still at work (what is finished is kept), and give the folder back."""
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
    """Links to all that is in the current folder and neither hidden nor an output."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path.cwd().iterdir():
        link = folder / path.name
        if path.name not in OWN and not path.name.startswith(".") and not link.is_symlink():
            link.symlink_to(path)


def _environment(jobs: int) -> dict[str, str]:
    """The environment of a cell's process; several share the processor's cores, unless OMP_NUM_THREADS says how."""
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    return threads | passed
