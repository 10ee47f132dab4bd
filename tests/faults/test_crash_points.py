"""Every stage, crashed, starved of space, locked out or interrupted wherever its code touches the disk.

`watched.py` does it, here at the first point of each place; `python tests/faults/watched.py crash full --every` at all.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from shim import build
from watched import make_project, run_watched

FEWER = {
    "sample": "sample.images_per_prompt",
    "extract": "sample.images_per_prompt",
    "fuse": "sample.images_per_prompt",
    "evaluate": "evaluate.images_per_prompt",
}
EXPERIMENTS = (
    "crash",
    "full",
    "closed:sample@r00",
    "closed:adopt@r00",
    "stop:score@r00",
    *(f"space:{stage}@r00" for stage in FEWER),
)

Found = dict[str, list[dict[str, Any]]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The results of all experiments by their names."""
    if build(tmp_path_factory.mktemp("shim")) is None:
        pytest.skip("needs a C compiler")
    results: Found = {}
    for result in run_watched(make_project(tmp_path_factory.mktemp("crashed")), *EXPERIMENTS):
        results.setdefault(result["experiment"], []).append(result)
    return results


def failures(found: Found, experiment: str) -> list[str]:
    """What went wrong, with the stage."""
    return [f"{result['stage']}: {failure}" for result in found[experiment] for failure in result["failures"]]


def tried(found: Found, experiment: str) -> int:
    """At how many points, or from how many states of the disk."""
    return sum(result["tried"] for result in found[experiment])


def test_killed_or_without_power(found: Found) -> None:
    """As killed, and as after a power failure that takes all unsynced bytes: the same command gives the same bytes."""
    assert failures(found, "crash") == []
    assert len(found["crash"]) == 10 and tried(found, "crash") > 150


def test_full_disk(found: Found) -> None:
    """A message, nothing half, and the same command goes on when there is space."""
    assert failures(found, "full") == []
    assert len(found["full"]) == 10 and tried(found, "full") > 80


def test_read_only_disk(found: Found) -> None:
    assert failures(found, "closed") == []
    assert tried(found, "closed") == 5


def test_interrupted(found: Found) -> None:
    """A sentence, exit code 130 or 143, and the next time the work goes on."""
    assert failures(found, "stop") == []
    assert tried(found, "stop") > 40


def test_too_little_space_is_refused_before_the_first_part(found: Found) -> None:
    """With how much is needed, how much is free, and what to lower."""
    assert failures(found, "space") == []
    for result in found["space"]:
        said, key = result["said"], FEWER[result["stage"].partition("@")[0]]
        assert re.search(r"needs [\d.]+ (bytes|MiB) more on the disk of .*, where \d+ bytes are free", said), said
        assert f"Lower {key}, or" in said and "DFUSION_SCRATCH" in said
