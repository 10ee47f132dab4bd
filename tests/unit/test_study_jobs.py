"""Cells as processes side by side: order, folders, failures, interruptions. What a stage does is not the point here.

The project is a stand-in, whose stages write a line and wait; `tests/stages/test_pipeline.py` runs real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfusion_core.commands.study.grid import Cell
from dfusion_core.commands.study.jobs import Jobs
from dfusion_core.commands.study.outputs import Outputs

ROOT = Path(__file__).parents[2]
PARAMS = "algo: dpo\npairs: dfusion\nseed: 0\nrounds:\n  r00: {prev: init}\n"
STAGES = """
import json, os, pathlib, sys, time
params = json.load(open("params.yaml"))
runs = pathlib.Path("runs")
runs.mkdir(exist_ok=True)
journal = pathlib.Path("journal").resolve() / f"{params['seed']}-{params['pairs']}"
begin = time.time()
journal.with_suffix(".began").touch()
print("hello from", params["pairs"], flush=True)
if params["pairs"] == "naive":
    (runs / "shared").write_text("made by naive")
else:
    (runs / "found").write_text(str((runs / "shared").exists()))
time.sleep(float(os.environ.get("STAY", "0.5")))
(runs / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
if params["seed"] == 9 and params["pairs"] == "naive":
    sys.exit("seed 9 fails")
journal.write_text(f"{begin} {time.time()}")
"""


def cells(*seeds: int) -> list[Cell]:
    return [
        Cell({"seed": str(seed), "method": pairs}, {"seed": seed, "pairs": pairs})
        for seed in seeds
        for pairs in ("naive", "dfusion")
    ]


@pytest.fixture
def place(workspace: Path) -> Path:
    """A project whose `stages` is the stand-in, with a folder for its journal."""
    (workspace / "params.yaml").write_text(PARAMS)
    (workspace / "stages").mkdir()
    (workspace / "stages/__init__.py").touch()
    (workspace / "stages/__main__.py").write_text(STAGES)
    (workspace / "journal").mkdir()
    return workspace


def run(wanted: list[Cell], jobs: int, done: set[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """The names of failed cells, and what each other one left in `runs/threads`."""
    kept: dict[str, str] = {}

    def keep(cell: Cell, made: Outputs, seconds: float) -> None:
        assert made.rounds == ["r00"] and 0 < seconds < 60
        kept[cell.name] = made.read(Path("runs/threads"))

    return Jobs("mine", wanted, jobs, lambda cell: cell.name in (done or set()), keep).run(), kept


def span(name: str) -> tuple[float, float]:
    begin, end = Path("journal", name).read_text().split()
    return float(begin), float(end)


def test_groups_side_by_side_and_their_cells_in_turn(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("DFUSION_SCRATCH", str(place / "elsewhere"))
    failed, kept = run(cells(0, 1), jobs=2)
    assert failed == [] and kept.keys() == {"0-naive", "0-dfusion", "1-naive", "1-dfusion"}
    assert set(kept.values()) == {str(max(1, (os.cpu_count() or 1) // 2))}  # the cores are shared
    for seed in "01":
        assert span(f"{seed}-naive")[1] <= span(f"{seed}-dfusion")[0]
    first, second = span("0-naive"), span("1-naive")
    assert max(first[0], second[0]) < min(first[1], second[1])  # at the same time
    assert "hello" not in capfd.readouterr().out  # of several, none speaks between the lines of the others
    studies = [path for path in (place / "elsewhere").rglob("*") if path.is_dir() and path.name in "01"]
    assert studies == [] and not list((place / "elsewhere").rglob("*.log"))


def test_one_job_shows_its_output_and_finds_what_its_group_made(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found: list[str] = []
    wanted = cells(0)
    failed = Jobs(
        "mine",
        wanted,
        1,
        lambda cell: False,
        lambda cell, made, seconds: found.append(
            made.read(Path("runs/found")) if cell.levels["method"] == "dfusion" else ""
        ),
    ).run()
    assert (failed, found) == ([], ["", "True"])
    assert capfd.readouterr().out.count("hello from") == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_cell_is_told_and_keeps_no_other_from_running(
    place: Path, capfd: pytest.CaptureFixture[str], jobs: int
) -> None:
    failed, kept = run(cells(9, 1), jobs)
    assert failed == ["9-naive"] and kept.keys() == {"9-dfusion", "1-naive", "1-dfusion"}
    said = capfd.readouterr().err
    assert "9-naive" in said and "exit code 1" in said and "seed 9 fails" in said and "Traceback" not in said
    assert (place / ".dfusion/studies/mine/9/params.yaml").is_file()  # to be looked at
    assert not (place / ".dfusion/studies/mine/1").exists()


def test_a_cell_that_was_run_meanwhile_is_left_out(place: Path) -> None:
    failed, kept = run(cells(0), 1, done={"0-naive"})
    assert failed == [] and kept.keys() == {"0-dfusion"}


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from dfusion_core.commands.study.jobs import Jobs
from dfusion_core.runtime.entry import guarded
from test_study_jobs import cells
wanted = [cell for cell in cells(0, 1) if sys.argv[1] in cell.name]
keep = lambda cell, made, seconds: print("kept", cell.name)
guarded(lambda: print(Jobs("mine", wanted, 2, lambda cell: False, keep).run()))()
"""


def begin(place: Path, only: str = "", stay: str = "60") -> subprocess.Popen[str]:
    program = PROGRAM.format(root=str(ROOT), tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", program, only],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"STAY": stay},
        start_new_session=True,
    )


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_study_alone_stops_every_cell(place: Path, number: signal.Signals) -> None:
    process = begin(place)
    for seed in "01":
        until(place / f"journal/{seed}-naive.began")
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + number and "Traceback" not in said
    alive = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False)
    assert alive.stdout == ""  # nothing of its session is left
    assert json.loads((place / ".dfusion/studies/mine/0/params.yaml").read_text())["pairs"] == "naive"  # goes on there


@pytest.mark.slow
def test_two_studies_with_shares_of_one_group_take_turns(place: Path) -> None:
    """Their cells share a folder with one params.yaml: the second waits, says so, and runs after the first."""
    first = begin(place, "0-naive", stay="2")
    until(place / "journal/0-naive.began")
    second = begin(place, "0-dfusion", stay="0")
    for process, name in ((first, "0-naive"), (second, "0-dfusion")):
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0 and f"kept {name}" in out, said
        assert ("waits" in out) == (process is second)
    assert Path("journal/0-naive").exists() and span("0-naive")[1] <= span("0-dfusion")[0]
