"""Which files of this project a stage's code consists of: what dvc.yaml must list, and what a fingerprint covers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def code_of(stage_file: Path) -> list[Path]:
    """A stage's file and every module of the package that it imports, directly or through others, sorted.

    Imports inside functions count; those under ``if TYPE_CHECKING:`` do not, because they never run, and neither does
    an ``__init__`` that holds only a docstring and constants: a new version number changes no result.
    """
    found, waiting = {stage_file}, [stage_file]
    while waiting:
        for module in _imports(waiting.pop()):
            if module not in found:
                found.add(module)
                waiting.append(module)
    return sorted(found)


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    """The package's files that one file imports, the __init__ files on the way included."""
    names: set[str] = set()
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, file)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return tuple(path for name in sorted(names) for path in _files(name))


def _running(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return [node for child in tree.orelse for node in _running(child)]
    return [tree, *(node for child in ast.iter_child_nodes(tree) for node in _running(child))]


def _absolute(node: ast.ImportFrom, file: Path) -> str:
    """The full module name of a ``from ... import``."""
    if not node.level:
        return node.module or ""
    package = file.relative_to(PACKAGE.parent).parts[: -node.level]
    return ".".join([*package, *(node.module or "").split(".")]).rstrip(".")


def _files(name: str) -> list[Path]:
    """The file of a module of this package, and its package's __init__; none for any other module or name."""
    if name.split(".")[0] != PACKAGE.name:
        return []
    path = PACKAGE.parent.joinpath(*name.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py", path.parent / "__init__.py"]
    return [one for one in candidates if one.is_file() and one.is_relative_to(PACKAGE) and not _is_bare(one)]


@cache
def _is_bare(file: Path) -> bool:
    """Whether a file is an ``__init__`` of nothing but constants."""
    return file.name == "__init__.py" and all(
        isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Constant)
        for node in ast.parse(file.read_text(encoding="utf-8")).body)
