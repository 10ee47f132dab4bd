"""Ctrl-C and SIGTERM at any moment, also while libraries are imported: one sentence, and an exit code of its own."""

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

ROOT = Path(__file__).parents[2]
SENTENCE = "Interrupted; what is finished is kept. Run the same command again to continue.\n"
COMMANDS = ("stages.sample", "stages sample")
MOMENTS = (0.0, 0.1, 0.3, 0.7, 1.5, 3.0)  # seconds after the first moment at which a signal is waited for

pytestmark = pytest.mark.slow


def start(command: str) -> subprocess.Popen[str]:
    """The stage in a process group of its own, once it listens to signals."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split(), "r00"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=hears_ctrl_c,
    )
    while not listens(process.pid, signal.SIGTERM):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    return process


def hears_ctrl_c() -> None:
    """A test run in the background of a shell ignores Ctrl-C, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def listens(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: Python sets none for SIGTERM by itself."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see when a process listens")
def test_a_signal_at_any_moment(project: Path) -> None:
    """Six processes, each a little further; the seventh finishes, and gives what an uninterrupted run gives."""
    change(sample={"num_steps": 40, "batch_size": 1})
    forget("sample")
    for turn, moment in enumerate(MOMENTS):
        number = signal.SIGTERM if turn % 2 else signal.SIGINT
        process = start(COMMANDS[turn // 2 % 2])
        time.sleep(moment)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (128 + number, SENTENCE), moment
    run("sample")
    resumed = content(Path("runs/r00/sample"))
    shutil.rmtree("runs/r00/sample")
    run("sample")
    assert content(Path("runs/r00/sample")) == resumed
