"""Tables of answers that another program wrote: CSV, JSON Lines or JSON, as rows of values by their names."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import LabelError, one_line, short
from ...prompts.formats import parse_json

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
    return [parse_json(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _table(text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        if len(set(names)) < len(names):
            raise ValueError(f"line 1: a column stands there twice ({short(', '.join(names))})")
        reader.fieldnames = names
        rows: list[Row] = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num}: has more or fewer cells than line 1")
            rows.append(row)
        return rows
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


READERS: dict[str, Callable[[str], Any]] = {".csv": _table, ".jsonl": _lines}  # all others are one value of JSON
