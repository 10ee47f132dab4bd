"""Real stage processes, killed by SIGKILL in the middle of real work; the same command then gives the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from steps import change, content, forget, run

from dfusion_core.store import verify

ROOT = Path(__file__).parents[2]
LONG = {  # enough work that a kill after the first finished piece comes in the middle
    "sample": {"sample": {"num_steps": 40, "batch_size": 1}},
    "train": {"train": {"inner_epochs": 12}},
}
FINISHED_PIECE = {"sample": "parts/*.safetensors", "train": "state.safetensors"}
SAYS = {"sample": "sample r00: continues; ", "train": "train r00: continues; "}

pytestmark = pytest.mark.slow


def start(stage: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"stages.{stage}", "r00"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def kill_after_the_first_piece(stage: str) -> None:
    process = start(stage)
    until = time.monotonic() + 120
    while not list(Path(f".dfusion/r00/{stage}").glob(f"*/{FINISHED_PIECE[stage]}")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["sample", "train"])
def test_killed_and_started_again(project: Path, finished: Path, stage: str) -> None:
    change(**LONG[stage])
    forget(stage)
    kill_after_the_first_piece(stage)
    assert not Path("runs/r00", stage).exists()
    again = start(stage)
    said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert SAYS[stage] in said
    interrupted = content(Path("runs/r00", stage))
    assert verify(Path("runs/r00", stage)) == []
    assert not [path for path in Path(".dfusion").rglob("*") if path.is_file() and path.suffix != ".lock"]
    shutil.rmtree("runs")
    shutil.copytree(finished / "runs", "runs")
    run(stage)  # without interruption, in this process
    assert content(Path("runs/r00", stage)) == interrupted
