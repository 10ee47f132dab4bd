"""Digests of a stage's code, which edits of comments and messages do not change.

The syntax tree of each module is hashed, without comments, layout, docstrings, type hints of functions, imports
for type checkers, and messages: the arguments of exceptions, warnings, ``print`` and ``say``.

Under DVC the stage ``code`` writes the digests of every stage to ``results/code``, and each stage depends on its own
file. DVC itself would hash the bytes of the files.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .. import errors
from ..errors import StoreError
from .closure import PACKAGE, code_of, is_for_type_checkers, parsed
from .paths import code_result
from .schema import WRITTEN_BY

STAGES = PACKAGE.parent / "stages"
EXCEPTIONS = {
    name
    for module in (builtins, errors)
    for name, one in vars(module).items()
    if isinstance(one, type) and issubclass(one, BaseException)
}
FOR_PEOPLE = {"print", "say", "warn"} | EXCEPTIONS  # functions and methods whose arguments are messages


def stage_file(stage: str) -> Path:
    """The file of the command that writes `stage`'s output."""
    return STAGES / f"{WRITTEN_BY.get(stage, stage)}.py"


def hash_code(stage: str) -> dict[str, str]:
    """A digest for the stage's own file and for every module on which its result depends, by path."""
    own = stage_file(stage)
    files = code_of(own) if own.is_file() else []
    return {path.relative_to(PACKAGE.parent).as_posix(): hash_module(path) for path in files}


@cache
def hash_module(file: Path) -> str:
    """sha256 of the reduced syntax tree of a file; the same under every version of Python that parses it."""
    return hashlib.sha256("".join(_tokens(parsed(file))).encode(errors="surrogatepass")).hexdigest()


def read_again() -> None:
    """Clear the cache, so that the next digests are of the present files."""
    for remembered in (hash_module, parsed):
        remembered.cache_clear()


def require_noted(stage: str) -> None:
    """Under DVC, raise StoreError unless the file that DVC compared has the digests of the running code."""
    name = os.environ.get("DVC_STAGE")
    if name is None:
        return
    file = code_result(WRITTEN_BY.get(stage, stage))
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = None
    code = hash_code(stage)
    if noted == code:
        return
    other = (
        sorted(path for path in {*code, *noted} if code.get(path) != noted.get(path)) if isinstance(noted, dict) else []
    )
    what = f"is not that of {', '.join(other[:3])}" if other else "cannot be read"
    raise StoreError(
        f"{stage}: DVC would record this run with other code than it runs: {file} {what}.",
        f"Run 'dvc repro -s code {name}', or 'dvc repro' for all that the code decides.",
    )


def _tokens(node: object) -> Iterator[str]:
    """The hashed part of a syntax tree. Empty fields are left out, because newer versions of Python add some."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and not _assigns(node.exc):
        node = ast.Raise(node.exc.func, node.cause)
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name in _fields(node):
            value = getattr(node, name, None)
            if value is not None and value != []:
                yield f" {name}="
                yield from _tokens(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for child in node:
            if not _never_runs(child):
                yield from _tokens(child)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r},"


def _fields(node: ast.AST) -> tuple[str, ...]:
    """The hashed fields."""
    if isinstance(node, ast.Call) and _called(node) in FOR_PEOPLE and not _assigns(node):
        return ("func",)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ("name", "args", "body", "decorator_list")
    if isinstance(node, ast.arg):
        return ("arg",)
    if isinstance(node, ast.Constant):
        return ("value",)
    return node._fields


def _called(call: ast.Call) -> str | None:
    """The name of the called function: of ``errors.StoreError(...)`` the last part."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else None


def _assigns(call: ast.Call) -> bool:
    """Whether a variable is set among the arguments, ``f"{(n := len(rows))}"``: then they are not only a message."""
    return any(isinstance(node, ast.NamedExpr) for node in ast.walk(call))


def _never_runs(node: object) -> bool:
    """Whether a statement has no effect: a docstring, or for type checkers only."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.If) and is_for_type_checkers(node) and not node.orelse
