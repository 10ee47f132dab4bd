"""Provenance of a result: hashes of values and files, differences between results, versions of libraries.

A fingerprint holds no time, host or absolute path, so that the same work has the same fingerprint everywhere.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "open_clip_torch",
    "safetensors",
    "zarr",
    "numpy",
    "pandas",
)


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of the bytes of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Differences between two sets of ingredients, in words: parameters, inputs, code files, and versions if both
    have them."""
    versions = [one["environment"] for one in (old, new) if "environment" in one]
    return [
        *(_parameter_change(key, *pair) for key, pair in differing(flat(old.get("params")), flat(new.get("params")))),
        *(f"the input '{key}' changed" for key, _ in differing(old.get("inputs", {}), new.get("inputs", {}))),
        *(f"the code {key} changed" for key, _ in differing(old.get("code", {}), new.get("code", {}))),
        *(_parameter_change(key, *pair) for key, pair in (differing(*versions) if len(versions) == 2 else ())),
    ]


def environment() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that results depend on, without importing them."""
    found = {"dfusion": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _parameter_change(key: str, old: Any, new: Any) -> str:
    return f"{key} changed from {shown(old)} to {shown(new)}"


def shown(value: Any) -> str:
    """A parameter's value for messages."""
    return "nothing" if value is None else json.dumps(value)


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys whose values differ, with both values; None for a missing one."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield key, (old.get(key), new.get(key))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
