"""The project that a command belongs to: the folder with params.yaml or dvc.yaml, the current one or one above it."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperCommand

MARKS = ("params.yaml", "dvc.yaml")


def project_root() -> Path | None:
    """The nearest folder, from the current one up, that holds params.yaml or dvc.yaml; None outside of projects."""
    here = Path.cwd()
    return next(
        (folder for folder in (here, *here.parents) if any(os.path.isfile(folder / mark) for mark in MARKS)), None
    )


class InProject(TyperCommand):
    """A command that runs in the project's root, from any folder of the project.

    Paths in arguments are relative to the current folder. A path that does not exist is not changed: `r00/sample` is
    the name of an output.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command's function in the root; outside of projects in the current folder."""
        root = project_root()
        if root is None or root == Path.cwd():
            return super().invoke(ctx)
        for param in self.params:
            if ctx.get_parameter_source(param.name).name == "COMMANDLINE":
                optional = not isinstance(param, TyperArgument)
                ctx.params[param.name] = _from(root, ctx.params[param.name], optional)
        with chdir(root):
            return super().invoke(ctx)


def _from(root: Path, value: Any, always: bool) -> Any:
    """Paths relative to the root: all, or only the existing ones."""
    if isinstance(value, list | tuple):
        return type(value)(_from(root, one, always) for one in value)
    if not isinstance(value, Path) or not (always or value.exists()):
        return value
    return Path(os.path.relpath(value, root))
