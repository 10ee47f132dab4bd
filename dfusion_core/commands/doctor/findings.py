"""The result of a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import DFusionError, NotFinite, explain, one_line

Verdict = Literal["ok", "warning", "failed", "skipped"]
Details = Sequence[dict[str, Any]]  # rows of a table, the same keys in each


@dataclass(frozen=True)
class Finding:
    """``failed``: a run would stop, or its results would be wrong. ``warning``: a run works, but perhaps not as
    intended.

    ``found`` is the observation, ``remedy`` the next command or the key to change.
    """

    verdict: Verdict
    found: str
    remedy: str = ""
    details: Details = ()


def ok(found: str, remedy: str = "", details: Details = ()) -> Finding:
    """Correct; ``remedy`` is an optional improvement."""
    return Finding("ok", found, remedy, details)


def warning(found: str, remedy: str, details: Details = ()) -> Finding:
    """Works, but perhaps not as intended."""
    return Finding("warning", found, remedy, details)


def failed(found: str, remedy: str, details: Details = ()) -> Finding:
    """A run would stop here, or give wrong results."""
    return Finding("failed", found, remedy, details)


def from_error(error: Exception) -> Finding:
    """The finding for an exception: an error with its remedy, or an unexpected one."""
    if isinstance(error, NotFinite):
        error = error.named("the test image")
    if isinstance(error, OSError):
        error = explain(error) or error
    if isinstance(error, DFusionError):
        return failed(error.message.rstrip("."), error.hint.strip())
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "allocate memory" in str(error):  # torch's too
        return failed(f"out of memory: {one_line(error)}", "See 'dfusion plan' for what fits and which key to lower.")
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("reward.plugins:")]
    if notes:
        return failed(
            f"{notes[0].rstrip('.')}: {type(error).__name__}: {one_line(error)}",
            "Correct that plug-in, or leave it out of reward.plugins.",
        )
    return failed(
        f"{type(error).__name__}: {one_line(error)}",
        "This was not foreseen: report it with the output of 'dfusion doctor --json'.",
    )
