"""Tables of answers that another program wrote: CSV, JSON Lines or JSON, as rows of values by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import LabelError, one_line, short
from ...prompts.formats import json_lines, parse_json, table_rows

Row = Mapping[str, Any]


def read_rows(file: Path) -> list[Row]:
    """The rows of a table, of the kind that its name ends in. Raises LabelError that names the line."""
    try:
        if not file.is_file():  # a device would be read for ever
            raise FileNotFoundError("there is no such file")
        text = file.read_text(encoding="utf-8-sig")
        found = READERS.get(file.suffix.lower(), parse_json)(text)
    except (OSError, ValueError) as error:
        raise LabelError(
            f"--import: {file} cannot be read: {one_line(error)}.", "Name a .csv, .jsonl or .json file in UTF-8."
        ) from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise LabelError(f"--import: {file} is no list of objects.", "See docs/labels.md for its columns.")
    return found


def _lines(text: str) -> list[Any]:
    return [value for _, value in json_lines(text)]


def _table(text: str) -> list[Row]:
    return [row for _, row in table_rows(text, _check_columns)]


def _check_columns(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"line 1: a column stands there twice ({short(', '.join(names))})")


READERS: dict[str, Callable[[str], Any]] = {".csv": _table, ".jsonl": _lines}  # all others are one value of JSON
