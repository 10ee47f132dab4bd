"""A tiny project whose two rounds are run once in a session; every test works on a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from steps import ROUND_STAGES, run

from dfusion_core.testing import tiny_params


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with everything published. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    tiny_params(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("DFUSION_SCRATCH", raising=False)
        run("init")
        run("evaluate", "init")
        for round in ("r00", "r01"):
            for stage in ROUND_STAGES:
                run(stage, round)
        run("summary")
    return folder


@pytest.fixture
def project(finished: Path, workspace: Path) -> Path:
    """A copy of it, and the current folder."""
    return Path(shutil.copytree(finished, workspace, dirs_exist_ok=True))
