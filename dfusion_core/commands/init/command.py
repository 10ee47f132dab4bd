"""`dfusion init`: a project that runs the installed package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ...runtime.entry import guarded


@guarded
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is made if it is not there.")],
) -> None:
    """Make a project without a clone of dfusion's repository: pipeline, parameters, prompts, git and DVC."""
    from ..profile import listed_commands
    from .repository import require_place, set_up
    from .writing import write_files

    require_place(folder)
    for line in [*write_files(folder), *set_up(folder)]:
        print(line)
    steps = [
        *([] if folder.resolve() == Path.cwd() else [(f"cd {shlex.quote(str(folder))}", "the project")]),
        ("dfusion doctor", "check this machine"),
        ("dvc repro", "the default run: the built-in model, minutes on two CPU cores"),
        ("dfusion report", "the whole run on one page"),
        ("dfusion profile", "parameters for Stable Diffusion"),
    ]
    print(listed_commands(steps))
