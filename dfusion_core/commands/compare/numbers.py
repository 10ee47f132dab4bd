"""The numbers of a comparison: the first side's means, and the gains of the others on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence

from ...evaluation.labels import shown
from ...evaluation.results import Splits, compare
from ...evaluation.tables import cell
from .sides import Side

Table = tuple[list[str], list[list[str]]]  # column names, rows


def gains(sides: Sequence[Side]) -> list[Splits]:
    """Per side, split and measure its mean, and its gain over the first side's image of the same prompt and seed."""
    return [compare(side.images, sides[0].images) for side in sides]


def score_table(sides: Sequence[Side], found: Sequence[Splits], split: str) -> Table:
    """A split's table with a row per side; a newline separates the lines of a cell."""
    labels = shown(found[0][split], sides[0].reward)
    rows = [
        [title(side), *(cell(one[split][measure], number == 0) for measure in labels)]
        for number, (side, one) in enumerate(zip(sides, found, strict=True))
    ]
    return ["", *labels.values()], rows


def parameter_table(sides: Sequence[Side]) -> Table:
    """The parameters (and versions) in which the sides differ, with a column per side; empty if a side does not use
    it, as the base model and parameters of training."""
    keys = dict.fromkeys(key for side in sides for key in side.parameters)
    rows = [
        [key, *(side.parameters.get(key, "") for side in sides)]
        for key in keys
        if len({side.parameters[key] for side in sides if key in side.parameters}) > 1
    ]
    return ["parameter", *map(title, sides)], rows


def title(side: Side) -> str:
    """A side's name with its round."""
    return side.name if side.name.endswith(side.round) else f"{side.name} ({side.round})"
