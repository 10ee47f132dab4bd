"""JSON files that another stage reads: an object with the needed keys, or an error that names the file."""

import json
from pathlib import Path
from typing import Any

from ..errors import StoreError, one_line
from .hints import how_to_mend


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in the file at `path`. `keys` are dotted: `clip.sha256` has to be there, in an object `clip`.

    Raises StoreError if the file cannot be read, is no JSON, holds a NaN or an infinity, or lacks a key.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, RecursionError, ValueError) as error:
        raise StoreError(f"store: {path} cannot be read: {one_line(error)}.", how_to_mend(path)) from error
    missing = [key for key in keys if not _has(found, key.split("."))]
    if missing or not isinstance(found, dict):
        what = f"has no key '{missing[0]}'" if missing else "holds no object"
        raise StoreError(f"store: {path} {what}.", how_to_mend(path))
    return found


def _has(value: Any, key: list[str]) -> bool:
    return not key or (isinstance(value, dict) and key[0] in value and _has(value[key[0]], key[1:]))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")
