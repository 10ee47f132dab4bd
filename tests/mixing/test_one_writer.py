"""One process at a time makes a stage of a round; a lock outlives no process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfusion_core.errors import StoreError
from dfusion_core.store import open_stage

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from dfusion_core.store import open_stage
with open_stage("sample", round="r00") as run:
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(workspace: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of sample r00."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_with_pid_and_host(holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreError) as caught, open_stage("sample", round="r00"):
        raise AssertionError("two processes are in the same stage")
    assert caught.value.message == (
        f"store: stage sample of r00 is being run by pid {holder.pid} on {socket.gethostname()}."
    )
    assert caught.value.hint == "Wait for it, or stop it first."
    assert caught.value.exit_code == 1


def test_another_stage_and_another_round_are_free(holder: subprocess.Popen[str]) -> None:
    with open_stage("score", round="r00") as score, open_stage("sample", round="r01") as sample:
        assert not score.done and not sample.done


def test_the_lock_of_a_dead_process_is_taken_over(holder: subprocess.Popen[str]) -> None:
    """Although its file still names the dead one, and at once: there is nothing to wait for or to delete."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert f"pid {holder.pid} on" in Path(".dfusion/r00/sample.lock").read_text()
    started = time.monotonic()
    with open_stage("sample", round="r00"):
        assert Path(".dfusion/r00/sample.lock").read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"
    assert time.monotonic() - started < 5


def test_a_lock_file_from_another_host_is_no_lock(workspace: Path) -> None:
    """What counts is the kernel's lock, not the text: a copied or restored scratch folder stops nobody."""
    lock = Path(".dfusion/r00/sample.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text("pid 1 on a-node-that-is-gone\n")
    with open_stage("sample", round="r00") as run:
        assert not run.done
