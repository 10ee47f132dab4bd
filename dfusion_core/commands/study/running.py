"""Running a study's cells, and storing the rows of the comparison."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import short
from ...evaluation.measures import measures
from ...params.rounds import INIT
from ...rewards.identity import FILE, describe
from ...store.atomic import write_text
from ...store.lock import Lock
from ...store.paths import output, pairs_result
from .comparing import CELLS, PARAMETERS, PROMPTS, REWARD_MODEL, require_own_parameters
from .grid import Cell, Study, StudyError
from .identity import digest
from .jobs import Jobs
from .outputs import Outputs


def run_study(study: Study, out: Path, only: str = "", direct: bool = False, jobs: int = 1) -> None:
    """Run every cell that has no row in ``out``/cells.csv yet, and of these only those whose name the regular
    expression ``only`` finds.

    Each is `dvc exp run --temp`: the workspace does not change, and stages that another cell has run come from DVC's
    cache. ``direct``: without DVC, in a folder beside the workspace, ``jobs`` in parallel. After each cell its rows are
    in cells.csv and prompts.csv, so that an interrupted study continues with the next cell. Raises StudyError if a cell
    fails.
    """
    if jobs > 1 and not direct:
        raise StudyError(
            f"--jobs {jobs}: only with --direct; DVC runs one experiment after the other.", "Add --direct."
        )
    wanted = _wanted(study, out, only)
    if direct:
        failed = Jobs(study.name, wanted, jobs, lambda cell: cell.name in _known(study, out), partial(_keep, out)).run()
        if failed:
            raise StudyError(
                f"{study.name}: {len(failed)} of {len(wanted)} cells failed: {', '.join(failed)}; "
                "their errors are above.",
                "Run the same command again to go on from there.",
            )
        return
    for number, cell in enumerate(wanted):
        print(f"[{number + 1} of {len(wanted)}] {cell.name}: {' '.join(cell.overrides)}", flush=True)
        started = time.monotonic()
        _keep(out, cell, _experiment(f"{study.name}-{cell.name}", cell), time.monotonic() - started)


def _wanted(study: Study, out: Path, only: str) -> list[Cell]:
    """The cells to run. Raises StudyError if ``only`` is not a regular expression."""
    try:
        chosen = re.compile(only)
    except re.error as error:
        raise StudyError(
            f"--only {short(only)}: is no regular expression: {error}.",
            "A part of a cell's name will do, as --only naive.",
        ) from error
    known = _known(study, out)
    wanted = [cell for cell in study.cells if cell.name not in known and chosen.search(cell.name)]
    print(f"{study.name}: {len(study.cells)} cells, {len(known)} done, {len(wanted)} to run.", flush=True)
    return wanted


def _known(study: Study, out: Path) -> set[str]:
    """The names of the cells that have rows. Raises StudyError where one had other parameters."""
    cells = read_rows(out / CELLS, study.factors)
    require_own_parameters(cells, study)
    return set(cells.cell)


def _require_unchanged(cell: Cell, found: Outputs) -> None:
    """Raise StudyError where params.yaml or the prompt file changed while the study runs."""
    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder, "params.yaml")
        params.write_text(found.read(Path("params.yaml")), encoding="utf-8")
        if cell.digest and digest(params) != cell.digest:
            raise StudyError(
                f"{cell.name}: params.yaml or the prompts changed since the study began: it is no longer the same "
                "experiment as those before it.",
                "Bring them back, and run the same command again.",
            )


def _experiment(name: str, cell: Cell) -> Outputs:
    from dvc.api import DVCFileSystem

    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--force", "--name", name]
    command += [part for change in cell.overrides for part in ("--set-param", change)]
    found = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if found.returncode:
        print(found.stdout, file=sys.stderr)
        raise StudyError(
            f"the experiment {name} failed with exit code {found.returncode}; its output is above.",
            "Run the same command again to go on from it.",
        )
    files = DVCFileSystem(rev=name)
    rounds = sorted(Path(path).stem for path in files.ls("results/rounds", detail=False))
    return Outputs([name for name in rounds if name != INIT], lambda path: str(files.read_text(str(path))))


def _keep(out: Path, cell: Cell, found: Outputs, seconds: float) -> None:
    """Add the cell's rows: figures of its pairs, and per round, split and prompt means and gains over the base."""
    _require_unchanged(cell, found)
    base = _images(found, INIT)
    prompts = [_by_prompt(base, base, INIT)] + [_by_prompt(_images(found, name), base, name) for name in found.rounds]
    row: dict[str, Any] = {
        "cell": cell.name,
        **cell.levels,
        "rounds": len(found.rounds),
        "images_per_round": len(found.table(output("sample", found.rounds[0]) / "images.csv")),
        "seconds": round(seconds),
        PARAMETERS: cell.digest,
        REWARD_MODEL: describe(json.loads(found.read(output("evaluate", INIT) / FILE))),
    }
    row |= json.loads(found.read(pairs_result(found.rounds[-1])))
    labels = {"cell": cell.name, **cell.levels}
    lock = Lock(out / ".lock", "the results of this study", wait=True)  # other clones may write to the same file
    try:
        _append(out / PROMPTS, pd.concat([table.assign(**labels) for table in prompts]), list(cell.levels))
        _append(out / CELLS, pd.DataFrame([row]), list(cell.levels))
    finally:
        lock.release()


def _images(found: Outputs, round: str) -> pd.DataFrame:
    return found.table(output("evaluate", round) / "images.csv")


def _by_prompt(images: pd.DataFrame, base: pd.DataFrame, round: str) -> pd.DataFrame:
    """One row per prompt: images, mean of each measure, and its mean gain over the base on the same seeds."""
    measured = measures(images)
    gains = images[measured] - base[measured].to_numpy()
    table = images.assign(**{f"{name}_gain": gains[name] for name in measured})
    groups = table.groupby(["split", "prompt"], sort=False)
    means = groups[[*measured, *(f"{name}_gain" for name in measured)]].mean().round(6)
    return means.assign(images=groups.size()).reset_index().assign(round=round)


def read_rows(file: Path, factors: list[str]) -> pd.DataFrame:
    """The table, with levels as text (names of seeds are not numbers); empty if there is none."""
    return pd.read_csv(file, dtype=dict.fromkeys(factors, str)) if file.exists() else pd.DataFrame({"cell": []})


def _append(file: Path, rows: pd.DataFrame, factors: list[str]) -> None:
    """Add a cell's rows; those of an interrupted run are replaced."""
    before = read_rows(file, factors)
    before = before[~before.cell.isin(rows.cell)]
    rows = rows[["cell", *factors, *(name for name in rows if name not in ("cell", *factors))]]
    write_text(file, pd.concat([before, rows] if len(before) else [rows], ignore_index=True).to_csv(index=False))
