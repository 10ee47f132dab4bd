"""The sdist and the wheel that is built from it, in a fresh environment: a project without a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from clones import environment

from dfusion_core.testing import tiny_params

ROOT = Path(__file__).parents[2]
SOURCES = ("dfusion_core", "stages", "pyproject.toml", "README.md", "LICENSE")
SMALL = {"rounds": {"r00": {"prev": "init"}}, "sample": {"num_steps": 3}, "fuse": {"first_t": 2}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files, made from a copy of the sources."""
    folder = tmp_path_factory.mktemp("built")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
        else:
            shutil.copy(source, folder)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment with the wheel in it; everything else comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (packages(folder) / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    wheel = next(built.glob("*.whl"))
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--no-deps", str(wheel)]
    done = subprocess.run(install, env=environment(folder, real=True), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def packages(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def started(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that `dfusion init` made, with a tiny model, in which images were sampled."""
    project = tmp_path_factory.mktemp("home") / "my project"
    said = call(installed, project.parent, "dfusion", "init", project.name)
    assert "dvc repro" in said and "git: the first commit." in said
    tiny_params(project, **SMALL)
    (project / ".gitignore").write_text((project / ".gitignore").read_text() + "/model/\n/clip/\n/.home/\n")
    call(installed, project, "dvc", "repro", "-q", "sample@r00")
    return project


def call(installed: Path, folder: Path, *command: str) -> str:
    """Output of a command that must succeed, without the code of this checkout on Python's path."""
    env = environment(
        folder, real=True, PATH=f"{installed / 'bin'}{os.pathsep}{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if command[0] == "dvc":
        command = ("python", "-m", *command)
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_both_files_hold_all_that_is_not_code(built: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "dfusion_core", "stages"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not tracked:
        pytest.skip("this is no git repository")
    tracked = [name for name in tracked if (ROOT / name).is_file() and "pretrain/.dvc" not in name]
    assert {"dfusion_core/microworld/weights/unet/diffusion_pytorch_model.safetensors"} < set(tracked)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert set(tracked) - set(wheel.namelist()) == set()
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {*tracked, "LICENSE", "README.md", "pyproject.toml"} - inside == set()


def test_the_code_is_the_installed_one(installed: Path, started: Path) -> None:
    assert not (started / "dfusion_core").exists() and not (started / "stages").exists()
    found = call(installed, started, "python", "-c", "import dfusion_core, stages; print(dfusion_core.__file__)")
    assert found.startswith(str(packages(installed)))
    assert (started / "runs/r00/sample/manifest.json").is_file()
    assert "0 problems" in call(installed, started, "dfusion", "verify", "runs")


def changed(installed: Path, project: Path) -> Mapping[str, bool]:
    """Whether DVC finds each stage changed, after it has looked at the installed code."""
    call(installed, project, "dvc", "repro", "-q", "-s", "code")
    status = call(installed, project, "dvc", "status", "init", "sample@r00", "score@r00")
    return {name: f"{name}:" in status for name in ("init", "sample@r00")}


def test_an_upgrade_counts_where_it_changes_results(installed: Path, started: Path) -> None:
    file = packages(installed) / "dfusion_core/diffusion/denoise.py"
    before = file.read_text()
    assert changed(installed, started) == {"init": False, "sample@r00": False}
    file.write_text(f"# a new comment\n{before}")
    assert changed(installed, started) == {"init": False, "sample@r00": False}
    file.write_text(f"{before}\nNEW = 1\n")
    assert changed(installed, started) == {"init": False, "sample@r00": True}
    file.write_text(before)
    assert changed(installed, started) == {"init": False, "sample@r00": False}


def test_other_built_in_weights_count(installed: Path, started: Path) -> None:
    file = packages(installed) / "dfusion_core/microworld/weights/scheduler/scheduler_config.json"
    before = file.read_text()
    file.write_text(f"{before}\n")
    try:
        assert changed(installed, started) == {"init": True, "sample@r00": False}
    finally:
        file.write_text(before)
