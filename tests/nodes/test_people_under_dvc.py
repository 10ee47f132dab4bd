"""dvc repro stops where people are asked, goes on by itself after it, and finds a pruned round up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clones import SMALL, call, commit, environment, repository

from dfusion_core.testing import tiny_params

LABEL = """
import sys
from dfusion_core.commands.label.sessions import image_session
from dfusion_core.labelling.client import answer_all
from dfusion_core.labelling.serving import served
session, pictures = image_session(sys.argv[1])
with served(session, pictures.png) as server:
    answer_all(server.address, "ann", lambda _, one, two: "first" if one.mean() > two.mean() else "second")
"""
SETTINGS: dict[str, Any] = {
    **SMALL,
    "rounds": {"r00": {"prev": "init"}, "r01": {"prev": "r00"}},
    "reward": {"human": 1.0, "weight": 0.0, "human_targets": "head"},
}


def repro(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", "repro"], cwd=folder, env=environment(folder), text=True, capture_output=True, check=False
    )


@pytest.mark.slow
def test_stop_label_go_on_prune(tmp_path: Path) -> None:
    folder = repository(tmp_path / "program")
    tiny_params(folder, **SETTINGS)
    commit(folder, "people")
    for round in ("r00", "r01"):
        stopped = repro(folder)
        said = stopped.stdout + stopped.stderr
        assert stopped.returncode != 0 and f"'dfusion label {round}'" in said and "Traceback" not in said
        call(folder, sys.executable, "-c", LABEL, round)
    done = repro(folder)
    assert done.returncode == 0, done.stderr
    assert "answers about prompts" in done.stdout
    assert "up to date" in call(folder, "dvc", "status")
    before = (folder / "runs/r00/train/manifest.json").read_bytes()
    with (folder / "labels/r01.csv").open("a") as file:  # a word more about r01 leaves r00 as it is
        file.write((folder / "labels/r01.csv").read_text().splitlines()[1].replace("ann", "bob") + "\n")
    again = repro(folder)
    assert again.returncode == 0 and "Running stage 'train@r00'" not in again.stdout
    assert (folder / "runs/r00/train/manifest.json").read_bytes() == before
    program = ["python", "-m", "dfusion_core.commands.cli"]
    call(folder, *program, "prune", "r00", "--apply")
    assert "up to date" in call(folder, "dvc", "status")
    call(folder, *program, "verify", "runs")
    assert repro(folder).returncode == 0
    assert not (folder / "runs/r00/sample/arrays.zarr/x").exists()
