"""A copy of the program in a folder of its own, as after ``git clone``, and commands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("dvc.yaml", ".dvcignore", ".gitignore")
CACHES = "/.site/\n/.config/\n/.cache/\n/.local/\n"


def clone(folder: Path) -> None:
    """The program without params.yaml; a repository of git and of DVC."""
    for name in ("stages", "dfusion_core", "labels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "pretrain"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    with (folder / ".gitignore").open("a") as file:
        file.write(CACHES)
    call(folder, "git", "init", "-q")
    call(folder, "dvc", "init", "-q")
    call(folder, "git", "add", "-A")
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    call(folder, "git", *who, "commit", "-q", "-m", "clone")


def processor_seconds() -> float:
    """User and system time of all commands that have ended, which other programs do not add to."""
    times = os.times()
    return times.children_user + times.children_system


def call(folder: Path, *command: str, **environment: str) -> str:
    """Output and errors of a command that must succeed, with this Python first on the path and no user's settings."""
    ours = ("DVC_", "DFUSION_", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": str(folder),
        "DVC_SITE_CACHE_DIR": str(folder / ".site"),
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr
