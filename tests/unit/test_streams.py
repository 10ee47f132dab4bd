"""Readers that go away: a pipe, a terminal, a full disk. What runs goes on to its end, without a traceback."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys, time
from dfusion_core.runtime.entry import start_process
from dfusion_core.runtime.progress import track
start_process()
go = pathlib.Path("go")
print("first", flush=True)
while not go.exists():
    time.sleep(0.01)
for part in track([range(4)] * 200, len, 800, 0, "sample r00"):
    print("a line of output that nobody reads, \u00b1", flush=True)
    print("and one of errors", file=sys.stderr)
    time.sleep(0.002)
print("end", "x" * 100_000)
pathlib.Path("finished").touch()
"""


def start(
    folder: Path,
    stdout: int | IO[Any] | None,
    stderr: int | IO[Any] | None,
    *before: str,
    **more: Any,
) -> subprocess.Popen[bytes]:
    command = [*before, sys.executable, "-c", PROGRAM]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr, env=environment, start_new_session=True)


def test_pipes_whose_readers_have_ended(tmp_path: Path) -> None:
    """As with `| true` and `2>&1 | head -1`."""
    process = start(tmp_path, subprocess.PIPE, subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stderr.close()
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == 0 and (tmp_path / "finished").exists()


@pytest.mark.parametrize("ignores_hangups", [True, False])
def test_a_terminal_that_is_closed(tmp_path: Path, ignores_hangups: bool) -> None:
    """Where SIGHUP is ignored, as by nohup, it goes on; else that ends it. With the progress bar of a terminal."""
    ours, theirs = pty.openpty()
    ignoring = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"] if ignores_hangups else []
    process = start(tmp_path, theirs, theirs, *ignoring, TERM="xterm")
    os.close(theirs)
    while b"first" not in os.read(ours, 1000):
        pass
    if not ignores_hangups:
        process.send_signal(signal.SIGHUP)
    os.close(ours)
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == (0 if ignores_hangups else 128 + signal.SIGHUP)
    assert (tmp_path / "finished").exists() == ignores_hangups


def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with open("/dev/full", "w") as full:
        process = start(tmp_path, full, subprocess.PIPE)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "finished").exists()
    lines = said.decode().splitlines()
    assert [line for line in lines if line != "and one of errors"] == [
        "note: output is lost, because it cannot be written: No space left on device."
    ]


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_streams_that_are_closed_from_the_start(tmp_path: Path, closed: str) -> None:
    (tmp_path / "go").touch()
    redirect = {"stdout": ">&-", "stderr": "2>&-", "both": ">&- 2>&-"}[closed]
    process = start(tmp_path, subprocess.PIPE, subprocess.PIPE, "sh", "-c", f'exec "$@" {redirect}', "sh")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "finished").exists()
    assert b"Traceback" not in said and (b"end xxx" in out) == (closed == "stderr")


def test_characters_that_the_encoding_lacks(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    process = start(tmp_path, subprocess.PIPE, subprocess.PIPE, PYTHONIOENCODING="ascii")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and b"Traceback" not in said and rb"reads, \xb1" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["-m stages summary", "-m dfusion_core.commands.cli params", "-m dfusion_core.commands.cli verify runs"]
)
def test_commands_that_nobody_reads(project: Path, command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {command} 2>errors | true"],
        check=False,
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and Path("errors").read_text() == ""
