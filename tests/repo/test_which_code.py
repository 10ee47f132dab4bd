"""Two copies of the code, packages that are not there, and a Python that is too old: one line says what to do."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dfusion_core.runtime.checkout import other_code

ROOT = Path(__file__).parents[2]
INSTALLED = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def checkout(workspace: Path) -> Path:
    """Another copy of the code, with a blank in its path."""
    folder = workspace / "a copy"
    for name in ("dfusion_core", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def python(folder: Path, *arguments: str, program: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], cwd=folder, env=INSTALLED, capture_output=True, text=True, check=False)


def test_a_command_says_that_the_project_has_other_code(checkout: Path) -> None:
    below = checkout / "docs"
    below.mkdir()
    for folder in (checkout, below):
        done = python(folder, "-P", "-m", "dfusion_core.commands.cli", "params")
        notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
        assert done.returncode == 0 and len(notes) == 1, done.stderr
        assert str(ROOT) in notes[0] and str(checkout) in notes[0]
        command = shlex.split(notes[0].partition("to run one: ")[2])
        assert command == [sys.executable, "-m", "pip", "install", "-e", str(checkout)]


def test_the_projects_own_code_and_other_folders_need_no_note(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert other_code() is None  # no project
    monkeypatch.chdir(ROOT)
    assert other_code() is None
    (checkout.parent / "linked").mkdir()
    (checkout.parent / "linked/dfusion_core").symlink_to(ROOT / "dfusion_core")  # as a study's cells see the workspace
    shutil.copy(ROOT / "params.yaml", checkout.parent / "linked")
    monkeypatch.chdir(checkout.parent / "linked")
    assert other_code() is None
    monkeypatch.chdir(checkout)
    assert other_code() is not None


@pytest.mark.few(1)
@pytest.mark.parametrize("arguments", [("-m", "stages", "code"), ("-m", "stages.sample", "r00")])
@pytest.mark.parametrize("package", ["typer", "pydantic"])
def test_a_package_that_is_not_installed(checkout: Path, arguments: tuple[str, ...], package: str) -> None:
    (checkout / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')\n")
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, capture_output=True, text=True, check=False)
    if package == "typer" and arguments[1] == "stages":
        return  # it needs none
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"'{package}'" in done.stderr and f"{sys.executable} -m pip install -e ." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_in_the_program_keeps_its_traceback(checkout: Path) -> None:
    (checkout / "stages/code.py").write_text("import dfusion_core.nothing\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.code"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


def old_python() -> str | None:
    names = (f"python3.{minor}" for minor in range(10, 5, -1))
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.[6-9]*/bin/python"))
    pyenv += sorted(Path.home().glob(".pyenv/versions/3.10*/bin/python"))
    return next(
        (
            found
            for name in names
            if (found := shutil.which(name)) and Path(found).resolve().exists() and "shims" not in found
        ),
        str(pyenv[0]) if pyenv else None,
    )


@pytest.mark.skipif(old_python() is None, reason="no older Python here")
@pytest.mark.parametrize("arguments", [("-m", "stages", "code"), ("-m", "stages.sample", "r00")])
def test_a_python_that_is_too_old(arguments: tuple[str, ...]) -> None:
    program = old_python()
    assert program is not None
    done = python(ROOT, *arguments, program=program)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "3.11" in done.stderr and program in done.stderr and len(done.stderr.splitlines()) == 1
