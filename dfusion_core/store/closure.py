"""The source files on which a stage's result depends: its own file, and the modules that it imports.

The packages that read inputs and write results are not part of it: they are guarded by ``format_version`` and
by tests, and parameters enter a fingerprint by their values.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
GUARDED = ("errors", "params", "runtime", "store")  # modules and packages on which no result depends


def code_of(stage_file: Path) -> list[Path]:
    """A stage's file and every module of the package that it imports, directly or through others, sorted.

    Imports inside functions count; those under ``if TYPE_CHECKING:`` do not, because they are not executed. An
    ``__init__`` with only a docstring and constants does not count either: a new version number changes no result.
    """
    found, waiting = {stage_file}, [stage_file]
    while waiting:
        for module in _imports(waiting.pop()):
            if module not in found:
                found.add(module)
                waiting.append(module)
    return sorted(found)


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, read once per process."""
    return ast.parse(file.read_bytes())


def is_for_type_checkers(node: ast.AST) -> bool:
    """Whether a node is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    """The package's files that one file imports, including the __init__ files of parent packages."""
    names: set[str] = set()
    waiting: list[ast.AST] = [parsed(file)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, file)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.stmt | ast.Module | ast.ExceptHandler | ast.match_case):  # no expression imports
            waiting += (
                node.orelse
                if isinstance(node, ast.If) and is_for_type_checkers(node)
                else (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
            )
    return tuple(path for name in sorted(names) for path in _files(name))


def _absolute(node: ast.ImportFrom, file: Path) -> str:
    """The full module name of a ``from ... import``."""
    if not node.level:
        return node.module or ""
    package = file.relative_to(PACKAGE.parent).parts[: -node.level]
    return ".".join([*package, *(node.module or "").split(".")]).rstrip(".")


@cache
def _files(name: str) -> tuple[Path, ...]:
    """The file of a module of this package, and its package's __init__; none for any other module or name."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name or parts[1:2] and parts[1] in GUARDED:
        return ()
    path = PACKAGE.parent.joinpath(*parts)
    candidates = [path.with_suffix(".py"), path / "__init__.py", path.parent / "__init__.py"]
    return tuple(one for one in candidates if one.is_file() and one.is_relative_to(PACKAGE) and not _is_bare(one))


@cache
def _is_bare(file: Path) -> bool:
    """Whether a file is an ``__init__`` of nothing but constants."""
    return file.name == "__init__.py" and all(
        isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Constant) for node in parsed(file).body
    )
