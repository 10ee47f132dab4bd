"""Markdown elements. Texts from prompts, paths and tables are escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

MARKS = re.compile(r"([\\`*_\[\]#|~!$])")
LIST_MARK = re.compile(r"^(\d*)([-+.)])(?!\d)")  # and no decimal point or sign of a number


def text(value: object) -> str:
    """One line of plain text: no markup, no HTML, no control characters."""
    line = " ".join(str(value).split())
    line = MARKS.sub(r"\\\1", escape("".join(c for c in line if c.isprintable()), quote=False))
    return LIST_MARK.sub(r"\1\\\2", line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a header; lines of a cell are separated by a newline."""
    lines = [map(_cell, columns), ["---"] * len(columns), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str) -> str:
    return "<br>".join(map(text, value.split("\n")))


def bullets(items: Iterable[str]) -> str:
    """A list of plain texts."""
    return "\n".join(f"* {text(item)}" for item in items)


def fence(code: str, language: str) -> str:
    """A block of code; its fence is longer than any run of backticks in it."""
    longest = max((len(row) for row in re.findall(r"`+", code)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{code.rstrip()}\n{mark}"


def folded(title: str, body: str) -> str:
    """A folded block with a title."""
    return f"<details><summary>{text(title)}</summary>\n\n{body}\n\n</details>"
