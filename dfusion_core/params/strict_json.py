"""What JSON of others is refused for, beyond its syntax."""

from __future__ import annotations

from typing import Any

from ..errors import short


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of `json.loads` that raises ValueError for a key that an object has twice.

    Without it the last of the two values is taken silently.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has a key twice: '{short(key)}'")
        found[key] = value
    return found
