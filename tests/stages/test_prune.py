"""dfusion prune: what a finished round can do without, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from steps import content, run
from typer.testing import CliRunner

from dfusion_core.commands.cli import app
from dfusion_core.commands.report import write_report
from dfusion_core.errors import StoreError
from dfusion_core.store import read_stage
from dfusion_core.store.paths import ROUND_STAGES


def prune(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["prune", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def test_without_apply_nothing_changes(project: Path) -> None:
    before = content(project / "runs")
    said = prune("r00")
    assert all(f"runs/r00/{stage}" in said for stage in ("sample", "extract", "kv", "fuse")) and "--apply" in said
    assert content(project / "runs") == before


def test_a_pruned_round_is_sound_and_serves_what_comes_after(project: Path) -> None:
    before, others = size("runs/r00"), content(project / "runs/r01")
    digests = {stage: read_stage(stage, "r00").manifest["digest"] for stage in (*ROUND_STAGES, "kv")}
    prune("r00", "--apply")
    assert size("runs/r00") < before / 2
    assert content(project / "runs/r01") == others
    assert {stage: read_stage(stage, "r00").manifest["digest"] for stage in digests} == digests
    assert CliRunner().invoke(app, ["verify", "runs"]).exit_code == 0
    assert read_stage("sample", "r00").names == ["picture"] and read_stage("kv", "r00").names == []
    write_report(Path("report.html"))
    shutil.rmtree("runs/r01")
    for stage in ROUND_STAGES:
        run(stage, "r01")
    assert content(project / "runs/r01") == others
    assert "0.00 MiB" in prune("r00", "--apply").splitlines()[-1]


def test_what_is_gone_is_named_with_the_command_that_makes_it_again(project: Path) -> None:
    prune("r00", "--apply")
    with pytest.raises(StoreError, match="'x' of runs/r00/sample was pruned.*dvc repro -f -s sample@r00"):
        read_stage("sample", "r00").array("x")
    shutil.rmtree("runs/r00/train")
    with pytest.raises(StoreError, match="pruned"):
        run("train", "r00")


@pytest.mark.parametrize(
    "harm, said", [("r01", "r01"), ("runs/r00/evaluate", "not finished"), ("runs/r00/sample/images.csv", "images.csv")]
)
def test_what_is_needed_is_refused(project: Path, harm: str, said: str) -> None:
    path = Path(harm)
    if path.is_dir():
        shutil.rmtree(path)
    elif path.is_file():
        path.write_text("damaged")
    before = content(project / "runs")
    done = CliRunner().invoke(app, ["prune", harm if "/" not in harm else "r00", "--apply"])
    assert done.exit_code == 1 and said in done.stderr
    assert content(project / "runs") == before
