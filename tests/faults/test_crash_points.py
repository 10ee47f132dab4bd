"""Every stage, crashed, starved of space, locked out or interrupted at every place where it touches the disk.

`watched.py` does it, here at the first point of each place; `python tests/faults/watched.py crash full --every` at all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from shim import build
from watched import make_project, run_watched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project on a disk without patience, if there is one."""
    if build(tmp_path_factory.mktemp("shim")) is None:
        pytest.skip("needs a C compiler")
    return make_project(tmp_path_factory.mktemp("crashed"))


def experiment(project: Path, *words: str) -> list[dict[str, Any]]:
    """What was found, without a single failure."""
    found = list(run_watched(project, *words))
    assert found
    for result in found:
        assert result["failures"] == [], f"{result['experiment']} {result['stage']}"
    return found


def test_crash_anywhere(project: Path) -> None:
    """As killed, and as after a power failure that takes all unsynced bytes: the same command gives the same bytes."""
    found = {result["stage"]: result for result in experiment(project, "crash", "full", "space", "stop@once")}
    assert len(found) == 9
