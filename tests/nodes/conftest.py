"""A tiny run made by one `dvc repro`, for all tests of nodes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clones import call, commit, repository


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def program(place: Path) -> Path:
    """A repository in which nothing was run."""
    return repository(place / "program")


@pytest.fixture(scope="session")
def whole(program: Path, place: Path) -> Path:
    """A clone of it in which one `dvc repro` made everything. Not to be changed."""
    call(place, "git", "clone", "-q", str(program), "whole")
    call(place / "whole", "dvc", "repro", "-q")
    commit(place / "whole", "run")
    return place / "whole"


@pytest.fixture
def copied(whole: Path, place: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of that clone, for one test."""
    return Path(shutil.copytree(whole, place / request.node.name, symlinks=True))
