"""Prompt files in other formats than YAML, by the extension of their names, read into the form of the YAML file.

    .txt     one prompt per line, items marked; empty lines and lines that begin with # are skipped
    .csv     columns prompt, items, thresholds, split; in a cell, items and thresholds are separated by ;
    .json    as the YAML file
    .jsonl   a text or an object per line; an object may have a `split`

`split` is train (the default) or test.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import short
from ..params.strict_json import unique_keys
from ..params.strict_yaml import read_yaml

COLUMNS = ("prompt", "items", "thresholds", "split")
SPLITS = ("train", "test")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_data(path: Path) -> Any:
    """The content of a prompt file, in the form of the YAML file's.

    Raises ValueError with the line in its message if the format is wrong, and OSError if it cannot be read.
    """
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        return read_yaml(path)
    if path.exists() and not path.is_file():  # reading a device might not end
        raise OSError("is no file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    found = read(text)
    check_texts(found)
    return found


def _lines(text: str) -> list[Any]:
    return [line.strip() for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _table(text: str) -> dict[str, list[Any]]:
    return _by_split((line, _cells(row, line)) for line, row in table_rows(text, _check_columns))


def _check_columns(names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if "prompt" not in names or unknown or len(set(names)) < len(names):
        raise ValueError(
            f"line 1: its columns are {short(', '.join(names))}; they must be prompt, and of "
            f"{', '.join(COLUMNS[1:])} those that are needed, each once"
        )


def table_rows(text: str, check: Callable[[list[str]], None]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table as cells by their column, with the numbers of their lines.

    ``check`` raises ValueError for column names that are not allowed. Raises ValueError for another mistake.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        check(list(reader.fieldnames))
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"line {reader.line_num}: has more or fewer cells than line 1; "
                    "a text with a comma must be in quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _cells(row: dict[str, str], line: int) -> dict[str, Any]:
    """A row as an entry, without empty cells."""
    entry: dict[str, Any] = {name: value.strip() for name, value in row.items() if value.strip()}
    for name in ("items", "thresholds"):
        if name in entry:
            entry[name] = [part.strip() for part in entry[name].split(";")]
    if "thresholds" in entry:
        entry["thresholds"] = [_number(part, line) for part in entry["thresholds"]]
    return entry


def _number(text: str, line: int) -> float:
    if not NUMBER.fullmatch(text):  # float() reads 0_1 as 1
        raise ValueError(f"line {line}: the threshold '{short(text)}' is no number; they are separated by ;")
    return float(text)


def _json(text: str) -> Any:
    return parse_json(text)


def _json_lines(text: str) -> dict[str, list[Any]]:
    return _by_split(json_lines(text))


def json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """The JSON values of the lines that are not empty, with their numbers. Raises ValueError."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, parse_json(line, number)


def parse_json(text: str, line: int = 0) -> Any:
    """A JSON value; ``line`` is its line in a JSONL file, 0 in a JSON file. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {line or error.lineno}: {error.msg} at character {error.colno}") from error
    except RecursionError as error:
        raise ValueError("values are nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"line {line}: {error}" if line else str(error)) from error


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _by_split(entries: Iterable[tuple[int, Any]]) -> dict[str, list[Any]]:
    """The lists of training and test prompts; entries come with the numbers of their lines."""
    found: dict[str, list[Any]] = {name: [] for name in SPLITS}
    for line, entry in entries:
        split = entry.get("split", "train") if isinstance(entry, dict) else "train"
        if split not in SPLITS:
            raise ValueError(f"line {line}: split is '{short(str(split))}'; it must be train or test")
        rest = {key: value for key, value in entry.items() if key != "split"} if isinstance(entry, dict) else entry
        found[split].append(rest)
    return found


def check_texts(value: Any) -> None:
    """Raise ValueError for a control character in a text, as the YAML reader does. Depth is the file's choice."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest += [*one, *one.values()]
        elif isinstance(one, list):
            rest += one
        elif isinstance(one, str):
            bad = next((c for c in one if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), "")
            if bad:
                raise ValueError(f"'{short(repr(one)[1:-1])}': the control character {bad!r} is not allowed in a text")


FORMATS: dict[str, Callable[[str], Any]] = {".txt": _lines, ".csv": _table, ".json": _json, ".jsonl": _json_lines}
