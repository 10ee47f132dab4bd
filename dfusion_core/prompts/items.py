"""Items in a prompt: marks ("a [cat] eating a [sandwich]") and positions in the text."""

from __future__ import annotations

import re

LITERAL = {"[[": "[", "]]": "]"}
PARTS = re.compile(r"\[\[|\]\]|\[(?P<item>[^\[\]]*)\]|[\[\]]")


class MarkError(ValueError):
    """An unmatched bracket; the message has its position, counted from 1."""


def read_marks(marked: str) -> tuple[str, tuple[str, ...]]:
    """The prompt without its marks, and the marked items in their order.

    ``[[`` and ``]]`` are literal brackets. A mark may hold several words. Raises MarkError.
    """
    text, items, end = "", [], 0
    for part in PARTS.finditer(marked):
        shown = LITERAL.get(part[0], part["item"])
        if shown is None or not shown.strip():
            raise MarkError(_what_is_wrong(part))
        text, end = text + marked[end : part.start()] + shown, part.end()
        if part["item"]:
            items.append(" ".join(shown.split()))
    return text + marked[end:], tuple(items)


def word_spans(text: str, item: str) -> list[tuple[int, int]]:
    """Positions of the item in the text: (start, end) of each occurrence as whole words, ignoring case, with any white
    space between its words."""
    words = r"\s+".join(re.escape(word) for word in item.split())
    pattern = rf"(?<!\w){words}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if words else []


def _what_is_wrong(part: re.Match[str]) -> str:
    where, bracket = f"at character {part.start() + 1}", part[0]
    if part["item"] is not None:
        return f"the mark {bracket} {where} is empty"
    need = "is not closed" if bracket == "[" else "closes nothing"
    return f"the {bracket} {where} {need}; a bracket of the text is written {bracket * 2}"
