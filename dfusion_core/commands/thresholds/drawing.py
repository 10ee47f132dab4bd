"""The sheet of thresholds: for each item pictures, maps, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...adoption.figures import enlarge
from ...evaluation.sheets import Line, Tile, sheet
from ...store.atomic import write_bytes
from .measuring import Measured, Proposal

SHOWN = 4  # images of a prompt
TILE = 128  # pixels
OUTSIDE = 0.2  # brightness outside of all masks
Pixels = NDArray[np.uint8]  # (image, row, column, 3)


def draw_thresholds(found: Sequence[tuple[Measured, Sequence[Proposal]]], file: Path) -> None:
    """Write the sheet as PNG: a row per prompt and item, three tiles per image.

    The map is the mean over the fused steps. In the third tile brightness is the share of fused steps whose mask
    includes the position.
    """
    lines = []
    for measured, proposals in found:
        pictures = measured.pictures[:SHOWN]
        for index, proposal in enumerate(proposals):
            maps = measured.maps[:SHOWN, :, index]
            kinds = (pictures, _with_heat(pictures, maps), _masked(pictures, maps >= proposal.threshold))
            tiles = [
                Tile(kind[image], title)
                for image in range(len(pictures))
                for kind, title in zip(kinds, (f"image {image + 1}", "map", "mask"), strict=True)
            ]
            lines.append(Line(tiles, f"{measured.prompt.text}: {proposal.item} >= {proposal.threshold}"))
    buffer = BytesIO()
    sheet(lines, TILE).save(buffer, "PNG")
    write_bytes(file, buffer.getvalue())


def _with_heat(pictures: Pixels, maps: NDArray[np.float32]) -> Pixels:
    """Maps (image, step, y, x) as heat over the pictures in grey, all on one scale: black is 0, white the largest."""
    mean = maps.mean(axis=1)
    heat = enlarge(mean / max(float(mean.max()), 1e-12), pictures.shape[1:3])[..., None]
    colours = (heat * 3 - np.arange(3)).clip(0, 1) * 255  # first red, then green, then blue: black, red, yellow, white
    grey = pictures.mean(axis=-1, keepdims=True)
    return _bytes(0.4 * grey + 0.6 * colours)


def _masked(pictures: Pixels, masks: NDArray[np.bool_]) -> Pixels:
    share = enlarge(masks.mean(axis=1), pictures.shape[1:3])[..., None]
    return _bytes(pictures * (OUTSIDE + (1 - OUTSIDE) * share))


def _bytes(values: NDArray[np.floating]) -> Pixels:
    found: Pixels = np.rint(values).astype(np.uint8)
    return found
