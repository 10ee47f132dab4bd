"""A short version of `kill_pipeline.py`: three SIGKILLs at random times of a real `dvc repro` of one round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kill_pipeline import torture
from kill_report import flatness, lost, repeated


@pytest.mark.slow
def test_killed_at_random_times(tmp_path: Path) -> None:
    report = torture(tmp_path, "tiny", rounds=1, kills=3, every=8, seed=0)
    assert report["kills"] == 3
    assert report["differences"] == []
    assert report["repeated"] == [] and report["lost"] == [] and report["pieces"] > 10


def note(pid: int, **what: Any) -> dict[str, Any]:
    return {"pid": pid, **what}


def test_work_that_a_kill_would_cost_twice_is_seen() -> None:
    """Two pieces begun before the first is safe; a new process with an old number begins with none."""
    start, first, second = note(1, started="sample r00"), ["sample", "r00", "f", 0], ["sample", "r00", "f", 2]
    one_by_one = [
        start,
        note(1, begun=first),
        note(1, piece=first),
        note(1, begun=second),
        start,
        note(1, begun=second),
        note(1, piece=second),
    ]
    assert lost(one_by_one) == [] and repeated(one_by_one) == []
    assert lost([start, note(1, begun=first), note(1, begun=second), note(1, piece=first)]) == [second]
    assert repeated([*one_by_one, note(2, piece=first)]) == [first]


def test_growing_rounds_are_seen() -> None:
    """Ten seconds and 100 MiB more each round; the killed process of the last one counts for nothing."""
    notes = []
    for number in range(4):
        command = f"sample r{number:02d}"
        start = 100.0 * number
        notes += [
            note(number, started=command, time=start),
            note(number, ended=command, time=start + 10 * (1 + number), mebibytes=100 * (1 + number), cpu=1.0),
        ]
    table = flatness(notes, 2).set_index("stage").loc["sample"]
    assert table[["seconds_first", "seconds_last"]].tolist() == [15, 35]
    assert table[["memory_mib_first", "memory_mib_last"]].tolist() == [150, 350]
    killed = [note(9, started="sample r03", time=299.0), *notes]
    assert flatness(killed, 2).set_index("stage").loc["sample", "seconds_last"] == 30
