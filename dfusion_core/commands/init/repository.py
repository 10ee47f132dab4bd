"""git and DVC in a new project's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...errors import ProjectError, one_line
from ...store.atomic import write_text
from .writing import project_files

SETTINGS = "[core]\n    analytics = false\n    check_update = false\n"
OF_DVC = (".dvc/config", ".dvc/.gitignore")
MESSAGE = "A project of dfusion"


def require_place(folder: Path) -> None:
    """Raise ProjectError if there is no git, or if `folder` is inside another repository.

    DVC stores experiments by the commits of a repository, and outputs of both projects would be mixed.
    """
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    root = _run(existing, "git", "rev-parse", "--show-toplevel", must=False)
    if root and Path(root).resolve() != folder.resolve():
        raise ProjectError(
            f"init: {folder} lies inside the git repository {root}; nothing was written.",
            "Choose a folder outside of it.",
        )


def set_up(folder: Path) -> list[str]:
    """Make a git and a DVC repository if there is none; returns lines that say what was done."""
    lines = []
    fresh = not (folder / ".git").exists()
    if fresh:
        _run(folder, "git", "init", "-q", "-b", "main")
        lines.append("git: a repository, branch main.")
    if not (folder / ".dvc" / "config").exists():
        _run(folder, sys.executable, "-m", "dvc", "init", "-q")
        write_text(folder / OF_DVC[0], SETTINGS)
        lines.append("DVC: a repository; its usage statistics are switched off.")
    return [*lines, *_commit(folder)] if fresh else lines


def _commit(folder: Path) -> list[str]:
    """The first commit, which experiments need; if git has no author, a line with the command to run."""
    _run(folder, "git", "add", *project_files(), *OF_DVC)
    if _run(folder, "git", "commit", "-q", "-m", MESSAGE, must=False) is not None:
        return ["git: the first commit."]
    return [
        "git: nothing is committed, because git does not know your name. In the folder: git config user.name NAME && "
        f"git config user.email ADDRESS && git commit -m '{MESSAGE}'"
    ]


def _run(folder: Path, *command: str, must: bool = True) -> str | None:
    """The output of a command; None if a command that may fail fails. Raises ProjectError."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ProjectError("init: there is no program 'git'.", "Install git, and run the same command again.") from None
    if done.returncode == 0:
        return done.stdout.strip()
    if must:
        said = one_line(RuntimeError(done.stderr or done.stdout))
        name = "dvc init" if command[0] == sys.executable else " ".join(command[:2])
        raise ProjectError(
            f"init: '{name}' failed in {folder}: {said}.",
            "Mend that, and run the same command again: it goes on with what is missing.",
        )
    return None
