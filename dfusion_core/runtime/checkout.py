"""Which copy of the code is running: an installed one, or the one in the current project."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from .project import project_root

HERE = Path(__file__).resolve().parents[1]


def other_code() -> tuple[str, str] | None:
    """The running copy and the command that corrects it, if the current project has its own code and another copy runs.

    `dvc repro` starts `python -m stages` in the project's folder and so runs that folder's code, while a command runs
    what is installed.
    """
    root = project_root()
    own = root.resolve() / "dfusion_core" if root else None
    if own is None or own.resolve() == HERE or not (own / "__init__.py").is_file():
        return None
    return (
        f"this is the code in {HERE.parent}, and 'dvc repro' here runs that in {own.parent}",
        f"{shlex.quote(sys.executable)} -m pip install -e {shlex.quote(str(own.parent))}",
    )


def note_other_code() -> None:
    """Print a line about it to stderr."""
    from ..errors import one_printable_line

    if found := other_code():
        print(one_printable_line(f"note: {found[0]}; to run one: {found[1]}"), file=sys.stderr)
