"""DVC's ways to link the workspace to its cache: a stage never writes into the cache, whichever is set."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clones import SMALL, call

from dfusion_core.testing import tiny_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that was run."""
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("links") / "clone"))


def cached(folder: Path) -> dict[Path, tuple[str, int]]:
    """Content and permissions of every file in DVC's cache."""
    return {
        path: (hashlib.md5(path.read_bytes()).hexdigest(), path.stat().st_mode)
        for path in (folder / ".dvc/cache/files/md5").rglob("*")
        if path.is_file()
    }


def can_reflink(folder: Path) -> bool:
    """Whether the disk can share the blocks of two files."""
    (folder / "one").write_text("one")
    copied = subprocess.run(["cp", "--reflink=always", "one", "two"], cwd=folder, capture_output=True, check=False)
    return copied.returncode == 0


def is_linked(file: Path, kind: str) -> bool:
    """Whether a file of the workspace is what `cache.type` says."""
    shared = file.stat().st_nlink > 1
    return {"copy": not shared, "hardlink": shared, "symlink": file.is_symlink(), "reflink": not shared}[kind]


@pytest.mark.parametrize(("kind", "batch"), [("copy", 1), ("hardlink", 3), ("symlink", 2), ("reflink", 5)])
def test_the_cache_is_never_written(repository: Path, kind: str, batch: int) -> None:
    if kind == "reflink" and not can_reflink(repository):
        pytest.skip("this file system has no reflinks")
    call(repository, "dvc", "config", "cache.type", kind)
    call(repository, "dvc", "checkout", "--relink", "runs/init/train", "runs/r00/sample", "runs/r00/score")
    inputs = [path for path in (repository / "runs/r00/sample").rglob("*") if path.is_file()]
    assert all(is_linked(path, kind) for path in inputs)
    before = cached(repository)
    tiny_params(repository, **SMALL, reward={"batch_size": batch})
    call(repository, "python", "-m", "stages.score", "r00")  # over an output that is linked to the cache
    assert cached(repository) == before
    said = call(repository, "dvc", "repro", "score@r00")
    after = cached(repository)
    assert "Running stage 'score@r00'" in said
    assert {path: after[path] for path in before} == before
    assert all(digest == path.parent.name + path.name.removesuffix(".dir") for path, (digest, _) in after.items())
    assert all(is_linked(path, kind) for path in (repository / "runs/r00/score").rglob("*") if path.is_file())
    assert os.access(repository / "runs/r00/score/manifest.json", os.R_OK)
