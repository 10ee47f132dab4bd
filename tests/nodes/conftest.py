"""What the tests of nodes share beyond `tests/conftest.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(whole: Path, place: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the clone in which everything was run, for one test."""
    return Path(shutil.copytree(whole, place / request.node.name, symlinks=True))
