"""Damage in a project that DVC runs: what `dvc repro` notices by itself, and that each command in a hint mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clones import call, environment
from harm import flip

pytestmark = pytest.mark.slow
VERIFY = ("python", "-m", "dfusion_core.commands.cli", "verify")


@pytest.fixture(scope="module")
def clone(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny project that was run, linked to DVC's cache by hard links."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "clone"))
    call(folder, "dvc", "config", "cache.type", "hardlink")
    call(folder, "dvc", "checkout", "-q", "--relink")
    return folder


@pytest.fixture
def shard(clone: Path) -> Path:
    """A file with the trajectories of r00, in a project that is as it should be."""
    assert "0 problems" in call(clone, *VERIFY, "runs")
    return next(path for path in (clone / "runs/r00/sample/arrays.zarr/x/c").rglob("*") if path.is_file())


def rot(file: Path) -> None:
    """Turn a bit over as a disk does: under all names of the file, and without a new time of change."""
    state, mode = file.stat(), file.stat().st_mode
    file.chmod(0o644)
    with file.open("r+b") as opened:
        byte = opened.read(1)
        opened.seek(0)
        opened.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    file.chmod(mode)


def fails(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), text=True, capture_output=True, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_file_that_was_written_to(clone: Path, shard: Path) -> None:
    """DVC sees another time of change, and takes the output from its cache; nothing is computed."""
    flip(shard, 100, 2)
    assert "1 problems" in fails(clone, *VERIFY, "runs")
    assert "'sample@r00' is cached - skipping run" in call(clone, "dvc", "repro", "sample@r00")
    assert "0 problems" in call(clone, *VERIFY, "runs")


def test_a_disk_that_forgot_a_bit_of_a_copy(clone: Path, shard: Path) -> None:
    """DVC sees nothing; the stage that reads it does, and the first command of its hint mends it."""
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data)
    call(clone, "dvc", "status", "sample@r00")  # DVC has seen the copy whole
    rot(shard)
    assert "up to date" in call(clone, "dvc", "status", "sample@r00")
    said = fails(clone, "dvc", "repro", "-f", "-s", "score@r00")
    assert "checksum differs" in said and "'rm -r runs/r00/sample' and 'dvc checkout runs/r00/sample'" in said
    call(clone, "rm", "-rf", "runs/r00/sample")
    call(clone, "dvc", "checkout", "runs/r00/sample")
    assert "0 problems" in call(clone, *VERIFY, "runs")


def test_a_disk_that_forgot_a_bit_of_the_cache(clone: Path, shard: Path) -> None:
    """Then checkout and even a new run bring the damage back; without the object that verify names they do not."""
    assert shard.stat().st_nlink > 1
    rot(shard)
    call(clone, "rm", "-rf", "runs/r00/sample")
    call(clone, "dvc", "checkout", "runs/r00/sample")
    assert "If it comes back damaged: 'dfusion verify .dvc/cache'" in fails(clone, *VERIFY, "runs")
    said = fails(clone, *VERIFY, ".dvc/cache")
    assert said.endswith("1 folders checked, 1 problems.\n")
    remove = said.split("Delete it with '")[1].split("'")[0].split()
    assert remove[:2] == ["rm", "-f"] and len(remove) == 3
    call(clone, *remove)
    assert "0 problems" in call(clone, *VERIFY, ".dvc/cache")
    call(clone, "dvc", "repro", "-f", "-s", "sample@r00")
    assert "0 problems" in call(clone, *VERIFY, "runs", ".dvc/cache")
