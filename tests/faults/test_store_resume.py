"""Kill a stage with SIGKILL anywhere; the same command continues and gives the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dfusion_core.store import verify
from dfusion_core.store.provenance import hash_file

ROOT = Path(__file__).parents[2]

STAGE = '''
import os, signal, sys
import numpy as np, pandas as pd
from dfusion_core.runtime.entry import run_stage
from dfusion_core.store import open_stage

def sample(round: str, eta: float = 1.0, stop: str = "", at: int = -1) -> None:
    """A stage of five parts that stops itself before part AT."""
    with open_stage("sample", round=round, params={"sample": {"eta": eta}}) as run:
        if run.done:
            return
        for rows in run.unfinished(count=10, batch=2):
            print("part", rows.start)
            if rows.start == at and stop:
                os.kill(os.getpid(), getattr(signal, stop))
            noise = np.random.default_rng(rows.start)
            x, log_prob = noise.normal(size=(2, 4, 2, 4, 4)), noise.normal(size=(2, 3))
            run.write(rows, x=x, log_prob=log_prob, _n=np.arange(2))
        run.write_table("images", pd.DataFrame({"n": run.collect("_n")}))

if __name__ == "__main__":
    run_stage(sample)
'''


@pytest.fixture
def stage(workspace: Path) -> Path:
    path = workspace / "stage.py"
    path.write_text(STAGE)
    # A copy of the package: an edit of the code during the test would be another fingerprint.
    skipped = shutil.ignore_patterns("microworld", "__pycache__", "prompts")
    shutil.copytree(ROOT / "dfusion_core", workspace / "dfusion_core", ignore=skipped)
    return path


def run(stage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(stage.parent)}
    command = [sys.executable, str(stage), "r00", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, preexec_fn=hears_ctrl_c
    )


def hears_ctrl_c() -> None:
    """A test run in the background of a shell ignores Ctrl-C, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def content(workspace: Path) -> dict[str, str]:
    folder = workspace / "runs/r00/sample"
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def test_killed_twice_and_continued_gives_the_same_bytes(workspace: Path, stage: Path) -> None:
    assert run(stage).returncode == 0
    whole = content(workspace)
    (workspace / "runs").rename(workspace / "first")
    assert run(stage, "--stop", "SIGKILL", "--at", "4").returncode == -signal.SIGKILL
    assert not (workspace / "runs").exists()
    second = run(stage, "--stop", "SIGKILL", "--at", "8")
    assert second.returncode == -signal.SIGKILL
    third = run(stage)
    assert "sample r00: continues; 8 of 10 rows were finished before." in third.stdout
    assert third.stdout.count("part") == 1
    assert content(workspace) == whole
    assert verify("runs") == []


def test_interrupted_by_the_user(workspace: Path, stage: Path) -> None:
    result = run(stage, "--stop", "SIGINT", "--at", "4")
    assert result.returncode == 130
    assert result.stderr == "Interrupted; what is finished is kept. Run the same command again to continue.\n"
    assert "continues; 4 of 10" in run(stage).stdout


def test_another_parameter_starts_clean_and_says_which(workspace: Path, stage: Path) -> None:
    run(stage, "--stop", "SIGKILL", "--at", "6")
    result = run(stage, "--eta", "0.5")
    assert "starts from the beginning, because sample.eta changed from 1.0 to 0.5." in result.stdout
    assert result.stdout.count("part") == 5
    assert not list((workspace / ".dfusion/r00").glob("sample/*"))


def test_an_error_is_one_line_without_a_traceback(workspace: Path, stage: Path) -> None:
    stage.write_text(STAGE.replace('"sample": {"eta": eta}}', '"sample": {"eta": eta}}, inputs={"lora": "runs/init"}'))
    result = run(stage)
    assert result.returncode == 1
    assert result.stderr == (
        "error: sample: its input 'lora' is missing: there is no runs/init. Make it with 'dvc repro -s init'.\n"
    )
    assert run(stage, "--ata", "3").returncode == 2
