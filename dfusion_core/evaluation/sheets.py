"""Contact sheets of pictures, masks, attention maps and trajectories, as PNG.

Pictures stand eight in a line. Of everything else a line is one row (one item of it, where there are items)
and a column is one step, T on the left.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # (y, x, rgb)

SMALLEST = 64  # pixels: smaller tiles are enlarged by a whole factor, without smoothing
GAP = 2
PICTURES_IN_A_LINE = 8
BACKGROUND = 128


def contact_sheet(values: NDArray[Any], dims: Sequence[str], name: str) -> "Image":
    """A sheet of `values` (rows first), which are drawn as their dimension names say.

    Raises StoreError if an array of these dimensions is no picture.
    """
    from PIL import Image

    kind = tuple(dims[1:])
    if kind == ("row", "column", "rgb"):
        tiles = [values[i : i + PICTURES_IN_A_LINE] for i in range(0, len(values), PICTURES_IN_A_LINE)]
        lines = [list(line) for line in tiles]
    elif kind == ("state", "channel", "height", "width"):
        lines = [_latents(row) for row in values]
    elif kind == ("i", "map_y", "map_x"):
        lines = [grey(row) for row in values]
    elif kind == ("i", "item", "map_y", "map_x"):
        lines = [grey(row[:, item]) for row in values for item in range(row.shape[1])]
    else:
        raise StoreError(
            f"inspect: the array '{name}' ({', '.join(dims)}) is not a picture.",
            "Pictures can be made of picture, x, mask, item_mask and cross_map.",
        )
    return Image.fromarray(_sheet([[_enlarged(tile) for tile in line] for line in lines]))


def _latents(row: NDArray[Any]) -> list[Pixels]:
    """False colours: the first three channels, each stretched over the whole trajectory."""
    channels = [min(c, row.shape[1] - 1) for c in range(3)]
    colours = np.moveaxis(row[:, channels], 1, -1).astype(np.float32)
    low, high = colours.min(axis=(0, 1, 2)), colours.max(axis=(0, 1, 2))
    return list(_bytes((colours - low) / np.maximum(high - low, 1e-12)))


def grey(maps: NDArray[Any]) -> list[Pixels]:
    """A picture of each map (y, x) in grey: white is the largest value of all of them, black is zero."""
    scaled = maps.astype(np.float32) / max(float(maps.max()), 1e-12)
    return list(_bytes(np.repeat(scaled[..., None], 3, axis=-1)))


def _bytes(unit: NDArray[np.float32]) -> Pixels:
    scaled: Pixels = np.rint(unit.clip(0, 1) * 255).astype(np.uint8)
    return scaled


def _enlarged(tile: Pixels) -> Pixels:
    factor = -(-SMALLEST // min(tile.shape[:2]))
    return tile.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else tile


def _sheet(lines: list[list[Pixels]]) -> Pixels:
    """The tiles, all of one size, with gaps between them; an unfinished line is filled up."""
    height, width = lines[0][0].shape[:2]
    columns = max(map(len, lines))
    size = (len(lines) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    sheet = np.full(size, BACKGROUND, np.uint8)
    for i, line in enumerate(lines):
        for j, tile in enumerate(line):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = tile
    return sheet
