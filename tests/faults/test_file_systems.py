"""File systems that cannot do all that a local disk can. What they answer is raised in the place of the real call."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps import content, forget, run

from dfusion_core.runtime.entry import guarded


def fails(number: int) -> Callable[..., Any]:
    def call(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_without_sync(project: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As of some network and overlay file systems: nothing can be done about it, and the stage goes on."""
    whole = content(Path("runs/r00/score"))
    forget("score")
    monkeypatch.setattr(os, "fsync", fails(number))
    run("score")
    assert content(Path("runs/r00/score")) == whole


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_without_locks_or_with_a_failing_disk(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """One line that names the file and what to do; nothing is published without the lock."""
    forget("score")
    monkeypatch.setattr(fcntl, "flock", fails(number))
    with pytest.raises(SystemExit) as ended:
        guarded(run)("score")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "score.lock" in said and len(said.strip().splitlines()) == 1
    assert ("DFUSION_SCRATCH" in said) == (number == errno.ENOLCK)
    assert not Path("runs/r00/score").exists()


def test_a_disk_that_fails_to_sync(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO is no missing ability: what may not be on the disk is not published."""
    forget("score")
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        run("score")
    assert not Path("runs/r00/score").exists()
