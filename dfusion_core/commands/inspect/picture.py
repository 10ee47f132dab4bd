"""A labelled sheet of one array: pictures, latents, attention maps, and masks over the pictures they belong to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ...evaluation.sheets import LARGEST, Line, Tile, false_colours, grey, overlay, sheet
from ...store.reading import StageData
from .tree import dimensions

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES_IN_A_LINE = 8
LARGE = 128  # pixels of a side
WIDTH_OF_LETTER = 7  # pixels
Values = NDArray[Any]


def draw(data: StageData, name: str, rows: Sequence[int]) -> Image:
    """A sheet of these rows of an array. Raises StoreError if its dimensions are not those of pictures."""
    array = data.array(name)
    row_name, *kind = dimensions(array)
    drawing = DRAWINGS.get(tuple(kind))
    if drawing is None:
        raise StoreError(
            f"inspect: the array '{name}' ({', '.join(dimensions(array))}) is not a picture.",
            "Pictures can be made of picture, x, mask, item_mask and cross_map.",
        )
    titles = [f"{row_name} {row}{prompt}" for row, prompt in zip(rows, _prompts(data, rows), strict=True)]
    return sheet(drawing(data, data.rows(name, rows), rows, titles))


def _pictures(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
    """Eight per line, each with its row and prompt; small ones are doubled in size."""
    if max(values.shape[1:3]) < LARGE:
        values = values.repeat(2, axis=1).repeat(2, axis=2)
    letters = min(max(values.shape[1:3]), LARGEST) // WIDTH_OF_LETTER
    tiles = [
        Tile(picture, "\n".join([row, *textwrap.wrap(prompt, letters)]))
        for picture, (row, _, prompt) in zip(values, (title.partition(": ") for title in titles), strict=True)
    ]
    return [Line(tiles[start : start + PICTURES_IN_A_LINE]) for start in range(0, len(tiles), PICTURES_IN_A_LINE)]


def _latents(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
    """A line x_T ... x_0 per row."""
    return [
        Line([Tile(picture, f"x_{len(row) - 1 - i}") for i, picture in enumerate(false_colours(row))], title)
        for row, title in zip(values, titles, strict=True)
    ]


def _masks(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
    """A line per mask: the reference, then the mask of each timestep over it (in grey if there is no picture)."""
    pictures = _reference_pictures(data, rows)
    lines = []
    for number, (masks, title) in enumerate(zip(values, titles, strict=True)):
        picture = None if pictures is None else pictures[number]
        shown = grey(masks) if picture is None else [overlay(picture, mask) for mask in masks]
        first = [] if picture is None else [Tile(picture, "picture")]
        lines.append(Line([*first, *_by_timestep(shown)], title))
    return lines


def _maps(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
    """A line per map: white is its largest value over all timesteps."""
    return [Line(_by_timestep(grey(maps)), title) for maps, title in zip(values, titles, strict=True)]


def _each_item(drawing: Callable[..., list[Line]]) -> Callable[..., list[Line]]:
    """A drawing of values (row, i, y, x) for values (row, i, item, y, x), the items of a row below each other."""

    def drawn(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
        items = range(values.shape[2])
        apart = np.moveaxis(values, 2, 1).reshape(-1, *values.shape[1:2], *values.shape[3:])
        return drawing(
            data,
            apart,
            [row for row in rows for _ in items],
            [
                title.replace(":", f", item {item}:", 1) if ":" in title else f"{title}, item {item}"
                for title in titles
                for item in items
            ],
        )

    return drawn


def _by_timestep(pictures: Sequence[Values]) -> list[Tile]:
    """Entry i is t = T - i."""
    return [Tile(picture, f"t = {len(pictures) - i}") for i, picture in enumerate(pictures)]


def _masks_or_maps(data: StageData, values: Values, rows: Sequence[int], titles: list[str]) -> list[Line]:
    return (_masks if values.dtype == np.bool_ else _maps)(data, values, rows, titles)


DRAWINGS = {
    ("row", "column", "rgb"): _pictures,
    ("state", "channel", "height", "width"): _latents,
    ("i", "map_y", "map_x"): _masks_or_maps,
    ("i", "item", "map_y", "map_x"): _each_item(_masks_or_maps),
}


def _prompts(data: StageData, rows: Sequence[int]) -> list[str]:
    """``: PROMPT`` for each row, from a table of this output, or for targets from the pairs of `extract`."""
    for output, tables in ((data, ("images", "references", "twins")), (_beside(data, "extract"), ("pairs",))):
        for name in tables:
            if output is not None and f"{name}.csv" in output.manifest["files"]:
                found = output.table(name)
                if len(found) == data.count:
                    return [f": {found.prompt[row]}" for row in rows]
    return ["" for _ in rows]


def _reference_pictures(data: StageData, rows: Sequence[int]) -> Values | None:
    """The pictures of these references, from `sample` of the same round."""
    sampled = _beside(data, "sample")
    if sampled is None or "references.csv" not in data.manifest["files"]:
        return None
    return sampled.rows("picture", data.table("references").image[list(rows)])


def _beside(data: StageData, stage: str) -> StageData | None:
    """The output of another stage of the same round, if it exists and is complete."""
    try:
        return StageData(data.folder.parent / stage)
    except StoreError:
        return None
