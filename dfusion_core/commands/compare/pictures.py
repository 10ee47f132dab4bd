"""Images of the same seeds by every side: a row per prompt, a column per side, the base model first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...evaluation.infotext import png
from ...evaluation.sheets import Line, Tile, sheet
from ...params.rounds import INIT
from .numbers import title
from .sides import Side

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROMPTS = 4  # a split
Row = tuple[str, list[tuple[str, "NDArray[np.uint8]"]]]  # a prompt; labels and pictures


def same_seeds(sides: Sequence[Side]) -> list[Row]:
    """The first image of some prompts of each split: by the first side's base model, then by every side."""
    table = sides[0].images
    first = table[table["sample"] == 0].groupby("split", sort=False).head(PROMPTS)
    made = [(title(side), side.evaluated.rows("picture", first.image), side.images) for side in sides]
    if not any(side.round == INIT for side in sides):
        base = sides[0].base
        made.insert(0, ("base", base.rows("picture", first.image), base.table("images")))
    return [
        (
            f"{row['split']}: {row['prompt']}",
            [(f"{name} {images.reward[row['image']]:.3f}", pictures[place]) for name, pictures, images in made],
        )
        for place, row in enumerate(first.to_dict("records"))
    ]


def picture(rows: Sequence[Row]) -> bytes:
    """The rows as a PNG."""
    lines = [Line([Tile(pixels, label) for label, pixels in tiles], prompt) for prompt, tiles in rows]
    return png(np.asarray(sheet(lines)), "lines: prompts, the same seed in each\n" + "; ".join(row[0] for row in rows))
