"""Checks that sides have the same evaluation images and the same reward."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from ...errors import CompareError
from ...evaluation.measures import measures
from ...evaluation.results import same_images
from ...rewards.identity import describe
from .sides import Side


def require_comparable(sides: Sequence[Side]) -> None:
    """Raise CompareError naming the first side that is not comparable with the first one, and why."""
    first = sides[0]
    for other in sides[1:]:
        if first.reward != other.reward:
            raise CompareError(
                f"compare: '{first.name}' and '{other.name}' were scored by different rewards: "
                f"{describe(first.reward)}; {describe(other.reward)}.",
                _mend(first, other, "reward.")
                or "Score both by one: change its folder back, then 'dvc repro -f evaluate_base'.",
            )
        if not same_images(first.images, other.images):
            keys = _differing(first, other, ("evaluate.", "prompts."))
            why = "; ".join(f"{key} is {first.parameters[key]} and {other.parameters[key]}" for key in keys)
            raise CompareError(
                f"compare: '{first.name}' and '{other.name}' were evaluated on different prompts or seeds: "
                f"{why or 'the prompt file has changed between them'}.",
                _mend(first, other, "evaluate.", "prompts.")
                or f"Bring back the prompt file of '{first.name}', then 'dvc repro' for '{other.name}'.",
            )
        ours, theirs = (", ".join(measures(side.images)) for side in (first, other))
        if ours != theirs:
            raise CompareError(
                f"compare: '{first.name}' and '{other.name}' have different measures: {ours}; {theirs}.",
                f"Evaluate '{other.name}' again: 'dvc repro -f evaluate_base'.",
            )


def _differing(first: Side, other: Side, prefixes: tuple[str, ...]) -> list[str]:
    """The common keys with one of these prefixes and different values, without keys that affect speed only."""
    return [
        key
        for key, value in first.parameters.items()
        if key.startswith(prefixes) and not key.endswith("batch_size") and other.parameters.get(key, value) != value
    ]


def _mend(first: Side, other: Side, *prefixes: str) -> str:
    """The command of the experiment that evaluates the other side like the first one."""
    keys = _differing(first, other, prefixes)
    changes = " ".join(f"-S {quote(f'{key}={first.parameters[key]}')}" for key in keys)
    if not keys:
        return ""
    return (
        f"Evaluate '{other.name}' as '{first.name}' was: with its parameters in params.yaml ('dvc exp apply' has "
        f"those of an experiment), run: dvc exp run -n NAME {changes}"
    )
