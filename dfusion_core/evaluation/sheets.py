"""Sheets of labelled pictures as PNG: lines of tiles, each with a label above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Pixels = NDArray[np.uint8]  # (y, x, rgb)

SMALLEST, LARGEST = 64, 256  # pixels of a tile's shorter and longer side: others are enlarged or reduced
GAP, TEXT = 4, 12  # pixels between tiles; height of letters
NARROWEST = 480  # pixels: titles are not cut to less
MASK_COLOUR = np.array([255, 0, 200], np.float32)


@dataclass(frozen=True)
class Tile:
    """A picture with a label of one or more lines above it."""

    picture: Pixels
    label: str = ""


@dataclass(frozen=True)
class Line:
    """Tiles side by side, with a title above them."""

    tiles: Sequence[Tile]
    title: str = ""


def sheet(lines: Sequence[Line], size: int | None = None) -> Image:
    """A sheet of lines below one another.

    size: pixels of the longer side of every tile. None: small tiles are enlarged by an integer factor without
    smoothing, large ones are reduced. Long texts are cut.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    shown = [[_fitted(tile.picture, size) for tile in line.tiles] for line in lines]
    wide, high = (max(picture.shape[axis] for line in shown for picture in line) for axis in (1, 0))
    width = max(
        max(map(len, shown)) * (wide + GAP) - GAP,
        min(NARROWEST, max(round(font.getlength(line.title)) for line in lines)),
    )
    tops = [0]
    for line in lines:
        tops.append(tops[-1] + _text_height(line) + high + GAP)
    canvas = Image.new("RGB", (width, tops[-1] - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for line, pictures, top in zip(lines, shown, tops, strict=False):
        if line.title:
            draw.text((0, top), cut(line.title, width, font), "black", font)
        for place, (tile, picture) in enumerate(zip(line.tiles, pictures, strict=True)):
            left, below = place * (wide + GAP), top + _text_height(line)
            _write_label(draw, (left, below), tile.label, wide, font)
            canvas.paste(Image.fromarray(picture), (left, below))
    return canvas


def overlay(picture: Pixels, share: NDArray[Any]) -> Pixels:
    """The picture with a mask or mean of masks (y, x), 0 to 1, as a colour overlay."""
    rows, columns = (np.arange(want) * have // want for want, have in zip(picture.shape, share.shape, strict=False))
    weight = 0.6 * share[rows][:, columns, None].astype(np.float32)
    return _bytes((picture * (1 - weight) + MASK_COLOUR * weight) / 255)


def grey(maps: NDArray[Any]) -> list[Pixels]:
    """Maps (y, x) as grey pictures: white is the largest value of all maps, black is zero."""
    scaled = maps.astype(np.float32) / max(float(maps.max()), 1e-12)
    return list(_bytes(np.repeat(scaled[..., None], 3, axis=-1)))


def false_colours(latents: NDArray[Any]) -> list[Pixels]:
    """Pictures of latents (n, channel, y, x): the first three channels, each stretched over all n."""
    channels = [min(c, latents.shape[1] - 1) for c in range(3)]
    colours = np.moveaxis(latents[:, channels], 1, -1).astype(np.float32)
    low, high = colours.min(axis=(0, 1, 2)), colours.max(axis=(0, 1, 2))
    return list(_bytes((colours - low) / np.maximum(high - low, 1e-12)))


def cut(text: str, width: int, font: FreeTypeFont | ImageFont) -> str:
    """A text, cut to one line of at most ``width`` pixels."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def _write_label(draw: ImageDraw, corner: tuple[int, int], label: str, width: int, font: Any) -> None:
    """A label that ends above the corner of its tile."""
    texts = label.split("\n") if label else []
    for number, text in enumerate(texts):
        top = corner[1] - (len(texts) - number) * (TEXT + GAP)
        draw.text((corner[0], top), cut(text, width, font), "black", font)


def _text_height(line: Line) -> int:
    """Pixels above a line's tiles."""
    labels = max((tile.label.count("\n") + 1 for tile in line.tiles if tile.label), default=0)
    return (bool(line.title) + labels) * (TEXT + GAP)


def _fitted(picture: Pixels, size: int | None) -> Pixels:
    from PIL import Image

    short, long = min(picture.shape[:2]), max(picture.shape[:2])
    if size is None and short < SMALLEST:
        factor = -(-SMALLEST // short)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    if size is None and long <= LARGEST:
        return picture
    wanted = size or LARGEST
    how = Image.Resampling.NEAREST if long < wanted else Image.Resampling.LANCZOS
    height, width = (max(1, round(side * wanted / long)) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), how))


def _bytes(unit: NDArray[Any]) -> Pixels:
    """Values 0 to 1 as bytes."""
    scaled: Pixels = np.rint(unit.clip(0, 1) * 255).astype(np.uint8)
    return scaled
