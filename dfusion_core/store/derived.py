"""Inputs that are part of a file, such as the texts of a prompt file without its thresholds."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from .provenance import hash_of


@dataclass(frozen=True)
class Derived:
    """A part of a file: `digest` reads and hashes it.

    Under DVC the stage `written_by` writes that part to the JSON file `noted`, which DVC compares.
    """

    digest: Callable[[], str]
    noted: Path
    written_by: str


def require_noted(stage: str, inputs: Mapping[str, object], digests: Mapping[str, str]) -> None:
    """Raise StoreError if the file that DVC compared in place of an input differs from what was read."""
    for name, one in inputs.items():
        if isinstance(one, Derived) and _noted(one.noted) != digests[name]:
            raise StoreError(
                f"{stage}: DVC would record this run with other {name} than it reads: {one.noted} is missing or old.",
                f"Run 'dvc repro -s {one.written_by}', and then the same command again.",
            )


def _noted(path: Path) -> str | None:
    try:
        return hash_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, RecursionError, ValueError):
        return None
