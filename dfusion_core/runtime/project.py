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
    """A command that works in the project's root, wherever in the project it is typed.

    Paths that are typed begin at the current folder. An argument that is not there is left as it is: `r00/sample` is
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
    """Paths as they are called from the root: all, or only those that are there."""
    if isinstance(value, list | tuple):
        return type(value)(_from(root, one, always) for one in value)
    if not isinstance(value, Path) or not (always or value.exists()):
        return value
    return Path(os.path.relpath(value, root))
