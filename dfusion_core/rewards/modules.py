"""The files of a user's module: its own, and those of the modules beside it that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")


def module_files(module: str, file: Path) -> list[Path]:
    """`file`, which is that of `module`, and what it imports, directly or through others, from the same place.

    The place is the folder of the top-level module; for an installed package, the package itself.
    """
    root = file.parents[len(module.split(".")) - (file.name != "__init__.py")]
    only = module.split(".")[0] if set(INSTALLED) & set(root.parts) else ""
    found, waiting = {file}, [file, *_module(root, module)]
    while waiting:
        for name in _imported(waiting.pop(), root):
            if not only or name.split(".")[0] == only:
                new = [one for one in _module(root, name) if one not in found]
                found.update(new)
                waiting += new
    return sorted(found)


def _imported(file: Path, root: Path) -> Iterator[str]:
    """The full names of what a file imports, at its top or in a function."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # no Python: compiled, or broken, which importing it will say
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(root).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *filter(None, [node.module])])
            yield from (base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names))


def _module(root: Path, name: str) -> list[Path]:
    """The files of a module below `root`, with the __init__ of each package that it is in; none if it is elsewhere."""
    parts = [part for part in name.split(".") if part]
    found = []
    for depth in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:depth])
        found += [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
    return found
