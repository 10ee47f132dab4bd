"""A short version of `kill_pipeline.py`: three SIGKILLs at random times of a real `dvc repro` of one round."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_pipeline import torture

pytestmark = pytest.mark.slow


def test_killed_at_random_times(tmp_path: Path) -> None:
    report = torture(tmp_path, "tiny", rounds=1, kills=3, every=8, seed=0)
    assert report["kills"] == 3
    assert report["differences"] == []
    assert report["repeated"] == [] and report["pieces"] > 10
