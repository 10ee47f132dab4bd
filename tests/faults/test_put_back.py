"""DVC killed between the end of a stage and its note in dvc.lock: it deletes the output, and the stage puts it back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from steps import content, forget, run

OUTPUT = Path("runs/r00/score")


@pytest.fixture
def under_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished tiny project, with `score` run by DVC, which has deleted its output before."""
    run("code")  # whose digests a stage under DVC looks for
    run("prompts")
    monkeypatch.setenv("DVC_STAGE", "score@r00")
    forget("score")
    run("score")
    return project


def kept(stage: str = "score") -> list[Path]:
    """What scratch holds of a published output."""
    return [path for path in Path(f".dfusion/r00/{stage}").glob("*/published/**/*") if path.is_file()]


def test_it_is_put_back_and_takes_no_space(under_dvc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, manifest = content(OUTPUT), OUTPUT / "manifest.json"
    assert len(kept()) == len(whole)
    assert all(path.stat().st_nlink == 2 for path in kept())
    inode = manifest.stat().st_ino
    forget("score")
    run("score")
    assert "score r00: was finished before; it is put back." in capsys.readouterr().out
    assert content(OUTPUT) == whole and manifest.stat().st_ino == inode


@pytest.mark.slow
def test_the_next_stage_forgets_it(under_dvc: Path) -> None:
    forget("extract")
    forget("kv")
    run("extract")
    assert not kept("score")
    assert kept("extract") and kept("kv")  # one command wrote both, and DVC has noted neither


def test_what_dvc_has_noted_is_made_again(under_dvc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `dvc repro --force` wants it."""
    whole = content(OUTPUT)
    lock = Path("dvc.lock")
    lock.write_text("schema: '2.0'\n")
    later = max(path.stat().st_mtime_ns for path in Path(".dfusion").rglob("*")) + 1_000_000
    os.utime(lock, ns=(later, later))
    forget("score")
    run("score")
    assert "put back" not in capsys.readouterr().out
    assert content(OUTPUT) == whole


def test_what_was_damaged_is_made_again(under_dvc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kept files are the published ones: who edits a table in place edits both."""
    whole = content(OUTPUT)
    with (OUTPUT / "scores.csv").open("a") as file:
        file.write("0,0,0\n")
    forget("score")
    run("score")
    assert "put back" not in capsys.readouterr().out
    assert content(OUTPUT) == whole


def test_without_dvc_nothing_is_kept(project: Path) -> None:
    shutil.rmtree(OUTPUT)
    run("score")
    assert not kept() and not Path(".dfusion/r00/score").exists()
