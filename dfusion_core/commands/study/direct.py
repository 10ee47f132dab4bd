"""A cell's stages one after the other in one process, without DVC, in a folder beside the workspace.

In a grid of small cells most of the time goes into starting processes: eight a round, each of which imports torch and
diffusers anew. The folder shows the working tree as it is, with `runs`, `results` and params.yaml of its own.
Cells that differ in nothing but what is compared share it: a stage that is the same in the next cell is done already,
and an interrupted cell goes on where it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...params import load_params
from ...params.rounds import in_order
from ...params.strict_yaml import read_yaml
from ...store import atomic
from ...store.paths import RESULTS, RUNS
from ...store.scratch import scratch_root
from .grid import Cell, StudyError
from .outputs import Outputs

PARAMS = "params.yaml"
OWN = (PARAMS, "dvc.lock", str(RUNS), str(RESULTS))  # of the folder; everything else is the workspace's


def run_here(study: str, cell: Cell) -> Outputs:
    """Run what of the cell is not done yet."""
    folder = _folder(study, cell)
    _show_workspace(folder)
    (folder / PARAMS).write_text(cell.params(read_yaml(Path(PARAMS)) or {}), encoding="utf-8")
    rounds = in_order(load_params("rounds", path=folder / PARAMS))
    _run_all(folder)
    return Outputs(rounds, lambda path: (folder / path).read_text(encoding="utf-8"))


def forget(study: str, cell: Cell) -> None:
    """Remove the folder of the cell and of those that share it."""
    atomic.remove_folder(_folder(study, cell))


def _folder(study: str, cell: Cell) -> Path:
    return Path(scratch_root().absolute(), "studies", study, cell.group)


def _show_workspace(folder: Path) -> None:
    """Links to all that is in the current folder and neither hidden nor an output."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path.cwd().iterdir():
        link = folder / path.name
        if path.name not in OWN and not path.name.startswith(".") and not link.is_symlink():
            link.symlink_to(path)


def _run_all(folder: Path) -> None:
    # Work in progress lies in the cell's folder, wherever that of the workspace is: cells may run side by side
    environment = {name: value for name, value in os.environ.items() if name != "DFUSION_SCRATCH"}
    done = subprocess.run([sys.executable, "-m", "stages", "all"], cwd=folder, check=False, env=environment)
    if done.returncode:
        raise StudyError(f"the stages in {folder} ended with exit code {done.returncode}; their output is above.",
                         "Run the same command again to go on from there.")
