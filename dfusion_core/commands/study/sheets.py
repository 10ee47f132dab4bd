"""Labelled sheets of pictures and heat maps for the attention studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...evaluation.sheets import grey

if TYPE_CHECKING:
    from PIL.Image import Image as Sheet
    from PIL.ImageDraw import ImageDraw as Pen

TILE, GAP, LABEL = 128, 6, 30  # pixels; a label has two lines
Pictures = NDArray[np.uint8]  # (n, row, column, 3)


@dataclass(frozen=True)
class Column:
    """Pictures under one title, one for each row of the sheet."""

    title: str
    pictures: Pictures


def sheet(columns: Sequence[Column], rows: Sequence[str], per_line: int, lead: int = 0) -> Sheet:
    """The columns in lines of ``per_line``; the first ``lead`` columns have a line of their own. Row by row."""
    lines = ([columns[:lead]] if lead else []) + [
        columns[i:i + per_line] for i in range(lead, len(columns), per_line)]
    width = per_line * (TILE + GAP)
    height = len(rows) * (LABEL // 2 + len(lines) * (TILE + LABEL + GAP))
    canvas, draw = _canvas(width, height)
    y = 0
    for number, row in enumerate(rows):
        draw.text((2, y), row, fill="black")
        y += LABEL // 2
        for line in lines:
            for k, column in enumerate(line):
                draw.multiline_text((k * (TILE + GAP), y), column.title, fill="black", spacing=1)
                canvas.paste(_tile(column.pictures[number]), (k * (TILE + GAP), y + LABEL))
            y += TILE + LABEL + GAP
    return canvas


def heat(lines: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.float32]]], words: Sequence[str]) -> Sheet:
    """Per line (label, picture, maps (step, y, x, token)): a column a timestep, a row a word, each row of maps on a
    scale of its own, with the picture on the left."""
    size = TILE // 2
    steps = lines[0][2].shape[0]
    block = len(words) * (size + GAP) + LABEL
    canvas, draw = _canvas(TILE + 90 + steps * (size + GAP), len(lines) * block)
    for number, (label, picture, maps) in enumerate(lines):
        top = number * block
        draw.text((2, top), label, fill="black")
        canvas.paste(_tile(picture), (0, top + LABEL))
        for step in range(steps):
            draw.text((TILE + 90 + step * (size + GAP), top), f"t = {steps - step}", fill="black")
        for token, word in enumerate(words):
            y = top + LABEL // 2 + token * (size + GAP)
            draw.text((TILE + 4, y + size // 3), word, fill="black")
            for step, map in enumerate(grey(maps[..., token])):
                canvas.paste(_tile(map, size), (TILE + 90 + step * (size + GAP), y))
    return canvas


def _canvas(width: int, height: int) -> tuple[Sheet, Pen]:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), "white")
    return canvas, ImageDraw.Draw(canvas)


def _tile(picture: NDArray[np.uint8], size: int = TILE) -> Sheet:
    from PIL import Image

    return Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
