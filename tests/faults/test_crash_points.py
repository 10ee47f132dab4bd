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

STAGES = ("init", *(f"{stage}@r00" for stage in (
    "sample", "score", "extract", "fuse", "adopt", "train", "evaluate")), "summary")
FEWER = {"sample@r00": "sample.images_per_prompt", "extract@r00": "sample.images_per_prompt",
         "fuse@r00": "sample.images_per_prompt", "evaluate@r00": "evaluate.images_per_prompt"}

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


def test_killed_or_without_power(project: Path) -> None:
    """As killed, and as after a power failure that takes all unsynced bytes: the same command gives the same bytes."""
    found = experiment(project, "crash", *STAGES)
    assert min(result["tried"] for result in found if result["stage"] != "summary") > 40


def test_full_disk(project: Path) -> None:
    """A message, nothing half, and the same command goes on when there is space."""
    assert sum(result["tried"] for result in experiment(project, "full", *STAGES)) > 60


def test_read_only_disk(project: Path) -> None:
    experiment(project, "closed", "sample@r00", "adopt@r00")


def test_too_little_space_is_refused_before_the_first_part(project: Path) -> None:
    """With how much is needed, how much is free, and what to lower."""
    found = {result["stage"]: result["said"] for result in experiment(project, "space", *FEWER)}
    for stage, key in FEWER.items():
        assert re.search(r"needs \d+ bytes more on the disk of .*, where \d+ bytes are free", found[stage])
        assert f"Lower {key}, or" in found[stage] and "DFUSION_SCRATCH" in found[stage]


def test_interrupted_anywhere(project: Path) -> None:
    experiment(project, "stop", "sample@r00")
