"""Fixtures of all tests. Nothing heavy is imported here."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# what tests share: `left_out`, `steps`, `clones`
sys.path += [str(Path(__file__).parent / name) for name in (".", "stages", "nodes")]
pytest_plugins = ["left_out"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else what the tests start would ignore Ctrl-C as well
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup does
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with scratch in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("DFUSION_SCRATCH", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project with two rounds published, run once in a session. Not to be changed."""
    from steps import run

    from dfusion_core.store.paths import ROUND_STAGES
    from dfusion_core.testing import tiny_params

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


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def program(place: Path) -> Path:
    """A repository with tiny parameters in which nothing was run."""
    from clones import repository

    return repository(place / "program")


@pytest.fixture(scope="session")
def whole(program: Path, place: Path) -> Path:
    """A clone of it in which one `dvc repro` made everything, once in a session. Not to be changed."""
    from clones import call, commit

    call(place, "git", "clone", "-q", str(program), "whole")
    call(place / "whole", "dvc", "repro", "-q")
    commit(place / "whole", "run")
    return place / "whole"
