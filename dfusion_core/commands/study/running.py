"""Running a study's cells one after the other, and keeping what the comparison needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
from .comparing import CELLS, PROMPTS, REWARD_MODEL
from .direct import forget, run_here
from .grid import Cell, Study, StudyError
from .outputs import Outputs


def run_study(study: Study, out: Path, only: str = "", direct: bool = False, workers: int = 1) -> None:
    """Run every cell that has no row in ``out``/cells.csv yet, and of these only those whose name the regular
    expression ``only`` finds.

    Each is `dvc exp run --temp`: the workspace stays as it is, and stages that another cell has run already come from
    DVC's cache. ``direct``: without DVC, in a folder beside the workspace, and as many groups of cells side by side as
    there are ``workers``. After each cell its rows are in cells.csv and prompts.csv, so an interrupted study goes on
    where it was. Raises StudyError if an experiment fails.
    """
    try:
        chosen = re.compile(only)
    except re.error as error:
        raise StudyError(f"--only {short(only)}: is no regular expression: {error}.") from error
    if workers > 1 and not direct:
        raise StudyError("--workers: only with --direct; DVC runs one experiment after the other.")
    known = set(read_rows(out / CELLS, study.factors).cell)
    wanted = [cell for cell in study.cells if cell.name not in known and chosen.search(cell.name)]
    print(f"{study.name}: {len(study.cells)} cells, {len(known)} done, {len(wanted)} to run.", flush=True)
    groups: dict[str, list[Cell]] = {}
    for cell in wanted:
        groups.setdefault(cell.group, []).append(cell)
    with ThreadPoolExecutor(workers) as pool:
        failed = [name for names in pool.map(partial(_run_group, study.name, out, direct), groups.values())
                  for name in names]
    if failed:
        raise StudyError(f"{study.name}: failed: {', '.join(failed)}; their output is above.",
                         "Run the same command again to go on from there.")


def _run_group(study: str, out: Path, direct: bool, cells: list[Cell]) -> list[str]:
    """Run cells that differ in nothing but what is compared, one after the other; returns the names of those that
    failed, which do not keep the others from running."""
    failed = []
    for cell in cells:
        print(f"{cell.name}: {' '.join(cell.overrides)}", flush=True)
        started = time.monotonic()
        try:
            found = run_here(study, cell) if direct else _experiment(f"{study}-{cell.name}", cell)
            _keep(out, cell, found, time.monotonic() - started)
        except StudyError as error:
            print(f"{cell.name}: {error}", file=sys.stderr)
            failed.append(cell.name)
    if direct and not failed:
        forget(study, cells[0])
    return failed


def _experiment(name: str, cell: Cell) -> Outputs:
    from dvc.api import DVCFileSystem

    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--force", "--name", name]
    command += [part for change in cell.overrides for part in ("--set-param", change)]
    found = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if found.returncode:
        print(found.stdout, file=sys.stderr)
        raise StudyError(f"the experiment {name} failed with exit code {found.returncode}; its output is above.",
                         "Run the same command again to go on from it.")
    files = DVCFileSystem(rev=name)
    rounds = sorted(Path(path).stem for path in files.ls("results/rounds", detail=False))
    return Outputs([name for name in rounds if name != INIT], lambda path: str(files.read_text(str(path))))


def _keep(out: Path, cell: Cell, found: Outputs, seconds: float) -> None:
    """Add the cell's rows: figures of its pairs, and per round, split and prompt the means beside the base's."""
    base = _images(found, INIT)
    prompts = [_by_prompt(base, base, INIT)] + [
        _by_prompt(_images(found, name), base, name) for name in found.rounds]
    row: dict[str, Any] = {
        "cell": cell.name, **cell.levels, "rounds": len(found.rounds),
        "images_per_round": len(found.table(output("sample", found.rounds[0]) / "images.csv")),
        "seconds": round(seconds), REWARD_MODEL: describe(json.loads(found.read(output("evaluate", INIT) / FILE)))}
    row |= json.loads(found.read(pairs_result(found.rounds[-1])))
    labels = {"cell": cell.name, **cell.levels}
    lock = Lock(out / ".lock", "the results of this study", wait=True)  # other clones may write there as well
    try:
        _append(out / PROMPTS, pd.concat([table.assign(**labels) for table in prompts]), list(cell.levels))
        _append(out / CELLS, pd.DataFrame([row]), list(cell.levels))
    finally:
        lock.release()


def _images(found: Outputs, round: str) -> pd.DataFrame:
    return found.table(output("evaluate", round) / "images.csv")


def _by_prompt(images: pd.DataFrame, base: pd.DataFrame, round: str) -> pd.DataFrame:
    """One row a prompt: images, mean of each measure, and its mean gain over the base on the same seeds."""
    measured = measures(images)
    gains = images[measured] - base[measured].to_numpy()
    table = images.assign(**{f"{name}_gain": gains[name] for name in measured})
    groups = table.groupby(["split", "prompt"], sort=False)
    means = groups[[*measured, *(f"{name}_gain" for name in measured)]].mean().round(6)
    return means.assign(images=groups.size()).reset_index().assign(round=round)


def read_rows(file: Path, factors: list[str]) -> pd.DataFrame:
    """The table, with levels as text (a seed's name is no number); empty if there is none yet."""
    return pd.read_csv(file, dtype=dict.fromkeys(factors, str)) if file.exists() else pd.DataFrame({"cell": []})


def _append(file: Path, rows: pd.DataFrame, factors: list[str]) -> None:
    """Add a cell's rows; those that an interrupted run left of it are replaced."""
    before = read_rows(file, factors)
    before = before[~before.cell.isin(rows.cell)]
    rows = rows[["cell", *factors, *(name for name in rows if name not in ("cell", *factors))]]
    write_text(file, pd.concat([before, rows] if len(before) else [rows], ignore_index=True).to_csv(index=False))
