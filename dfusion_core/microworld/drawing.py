"""Draws a micro-world scene as pixels and object masks.

The layout is in pixels of a 64 x 64 frame; it is drawn at four times the size and averaged, for smooth edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from .outlines import BEHIND, MAKERS, Part, Points, shape_points

if TYPE_CHECKING:
    from .scenes import Background, Figure, Scene

FRAME = 64  # px, the frame the layout is made for
OVERSAMPLE = 4
MARGIN = 2.0  # px kept free at the frame's border
RGB = tuple[int, int, int]
# Per colour: its fill, the tone of pattern marks, and the tone of the edge.
TONES: dict[str, dict[str, RGB]] = {
    "red": {"fill": (222, 38, 38), "mark": (120, 8, 14), "edge": (84, 6, 10)},
    "green": {"fill": (40, 172, 58), "mark": (10, 88, 28), "edge": (6, 60, 20)},
    "blue": {"fill": (44, 88, 228), "mark": (14, 30, 120), "edge": (8, 18, 84)},
    "yellow": {"fill": (250, 212, 30), "mark": (170, 118, 0), "edge": (112, 76, 0)},
    "white": {"fill": (248, 248, 248), "mark": (158, 158, 164), "edge": (84, 84, 90)},
    "black": {"fill": (20, 20, 22), "mark": (126, 126, 132), "edge": (88, 88, 94)},
}


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x (1, size) and y (size, 1) in frame pixels."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * FRAME / size
    return at[None, :], at[:, None]


def _paint_background(background: Background, size: int) -> Image.Image:
    """The backdrop (size, size) RGB: a gradient, perhaps a horizon band and faint soft discs."""
    x, y = _grid(size)
    c, s = np.cos(background.angle), np.sin(background.angle)
    t = np.clip(0.5 + ((x - FRAME / 2) * c + (y - FRAME / 2) * s) / FRAME / 1.3, 0, 1)[..., None]
    start, stop = (np.asarray(rgb, np.float32) for rgb in (background.start, background.stop))
    picture = start + (stop - start) * t
    if background.horizon is not None:
        level, rgb = background.horizon
        weight = 0.75 * np.clip((y - level) / 2 + 0.5, 0, 1)[..., None]
        picture = picture + (np.asarray(rgb, np.float32) - picture) * weight
    for cx, cy, radius, lift in background.discs:
        near = np.clip((radius - np.hypot(x - cx, y - cy)) / 3 + 0.5, 0, 1)
        picture = picture + (near * lift)[..., None]
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _outline(figure: Figure) -> Points:
    """The figure's outline (n, 2), centred on (0, 0)."""
    return shape_points(figure.shape, figure.size, figure.tilt, figure.flip, figure.seed)


def _alone(figure: Figure, item: str) -> list[Part]:
    """The parts of a figure by itself."""
    return [Part(item, _outline(figure))]


def _behaviour(scene: Scene) -> list[Part]:
    """Subject and accessory in drawing order."""
    subject = _alone(scene.figures[0], "0")
    name = scene.named.accessory
    extra: Any = scene.accessory  # there is one in this template
    parts = [Part("1", p.points, p.tone, p.outlined) for p in MAKERS[name](subject[0].points, extra.side, extra.scale)]
    return parts + subject if name in BEHIND else subject + parts


def _relation(scene: Scene) -> list[Part]:
    """The two figures, apart by the scene's gap along the relation's axis."""
    a, b = (_outline(figure) for figure in scene.figures)
    if scene.named.relation in ("above", "on the left of"):
        lead, trail = a, b
    else:
        lead, trail = b, a
    axis = int(scene.named.relation in ("above", "below"))
    shift = np.zeros(2)
    shift[axis] = lead[:, axis].max() - trail[:, axis].min() + scene.gap
    shift[1 - axis] = scene.jitter
    trail = trail + shift
    first, second = (lead, trail) if lead is a else (trail, lead)
    return [Part("0", first), Part("1", second)]


def parts_of(scene: Scene) -> list[Part]:
    """All polygons in drawing order, placed in the frame (pixels); item "0" is the first
    object, "1" the second."""
    if scene.template == "behaviour":
        parts = _behaviour(scene)
    elif scene.template == "relation":
        parts = _relation(scene)
    else:
        parts = _alone(scene.figures[0], "0")
    every = np.concatenate([part.points for part in parts])
    low, extent = every.min(axis=0), np.ptp(every, axis=0)
    room = FRAME - 2 * MARGIN
    scale = min(1.0, room / float(extent.max()))  # a composition too big for the frame shrinks as a whole
    origin = MARGIN + (room - extent * scale) * np.asarray(scene.place)
    return [Part(p.item, (p.points - low) * scale + origin, p.tone, p.outlined) for p in parts]


def _xy(points: Points, scale: float) -> list[tuple[float, float]]:
    """Points as pairs in canvas pixels."""
    return [tuple(pair) for pair in (points * scale).tolist()]


def _stripes(pen: ImageDraw.ImageDraw, side: float, step: float, figure: Figure, ink: RGB) -> None:
    """Parallel bars at the figure's angle (degrees)."""
    c, s = np.cos(np.radians(figure.angle)), np.sin(np.radians(figure.angle))
    for k in np.arange(-4, 5) + figure.phase - 0.5:
        x, y = side / 2 - s * k * 2 * step, side / 2 + c * k * 2 * step
        pen.line([(x - c * side, y - s * side), (x + c * side, y + s * side)], ink, round(step))


def _dots(pen: ImageDraw.ImageDraw, side: float, step: float, figure: Figure, ink: RGB) -> None:
    """Round dots on a grid whose every second row is shifted by half."""
    pitch, r = step * 1.8, step * 0.6
    for row in range(-4, 5):
        y = side / 2 + (row + figure.phase - 0.5) * pitch
        for column in range(-4, 5):
            x = side / 2 + (column + (row % 2) / 2) * pitch
            pen.ellipse((x - r, y - r, x + r, y + r), ink)


def _checks(pen: ImageDraw.ImageDraw, side: float, step: float, figure: Figure, ink: RGB) -> None:
    """A chess board."""
    cell = step * 1.15
    origin = side / 2 + (figure.phase - 0.5) * cell
    for row in range(-5, 6):
        for column in range(-5 + row % 2, 6, 2):
            x, y = origin + column * cell, origin + row * cell
            pen.rectangle((x, y, x + cell, y + cell), ink)


def _rings(pen: ImageDraw.ImageDraw, side: float, step: float, figure: Figure, ink: RGB) -> None:
    """Concentric rings about the middle."""
    for k in range(6):
        r = (2 * k + 1.4 + 0.4 * figure.phase) * step
        pen.ellipse((side / 2 - r, side / 2 - r, side / 2 + r, side / 2 + r), outline=ink, width=round(step))


MARKS = {"striped": _stripes, "dotted": _dots, "checkered": _checks, "ringed": _rings}


def _patterned(canvas: Image.Image, points: Points, figure: Figure, scale: float) -> None:
    """Draws a figure with its pattern, then its edge."""
    tones = TONES[figure.colour]
    side = int(np.ptp(points, axis=0).max() * scale) + 4
    # The tile is centred on the figure so that rings sit in the middle of narrow shapes too.
    low = np.round((points.min(axis=0) + points.max(axis=0)) / 2 * scale - side / 2)
    tile = Image.new("RGB", (side, side), tones["fill"])
    # Marks are about a seventh of the figure wide, never below 4 px, or a 4x encoder would lose them.
    step = float(np.clip(figure.size / 7, 4.0, 5.2)) * scale
    if figure.pattern != "plain":
        MARKS[figure.pattern](ImageDraw.Draw(tile), side, step, figure, tones["mark"])
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon([tuple(p) for p in (points * scale - low).tolist()], 255)
    canvas.paste(tile, (int(low[0]), int(low[1])), mask)
    _edge(ImageDraw.Draw(canvas), points, tones["edge"], scale)


def _edge(pen: ImageDraw.ImageDraw, points: Points, ink: RGB, scale: float) -> None:
    """A line of about 1 px along an outline."""
    line = _xy(points, scale)
    pen.line([*line, line[0], line[1]], ink, max(1, round(1.1 * scale)))


def draw(scene: Scene, size: int = FRAME) -> np.ndarray:
    """The scene as uint8 (size, size, 3); the same scene always gives the same pixels."""
    scale = size * OVERSAMPLE / FRAME
    canvas = Image.new("RGBA", (size * OVERSAMPLE,) * 2, (0, 0, 0, 0))
    pen = ImageDraw.Draw(canvas)
    accessory_tones: Any = TONES[scene.accessory.colour] if scene.accessory else None
    for part in parts_of(scene):
        if scene.accessory and part.item == "1":
            pen.polygon(_xy(part.points, scale), accessory_tones[part.tone])
            if part.outlined:
                _edge(pen, part.points, accessory_tones["edge"], scale)
        else:
            _patterned(canvas, part.points, scene.figures[int(part.item)], scale)
    layer = canvas.reduce(OVERSAMPLE)
    picture = _paint_background(scene.background, size)
    picture.paste(layer, (0, 0), layer)
    return np.asarray(picture).copy()


def _coverage(parts: Iterable[Part], size: int) -> np.ndarray:
    """Which item is on top at each oversampled pixel: 0 for none, else item + 1."""
    scale = size * OVERSAMPLE / FRAME
    canvas = Image.new("L", (size * OVERSAMPLE,) * 2, 0)
    pen = ImageDraw.Draw(canvas)
    for part in parts:
        pen.polygon(_xy(part.points, scale), int(part.item) + 1)
    return np.asarray(canvas)


def object_masks(scene: Scene, size: int = FRAME) -> dict[str, np.ndarray]:
    """Item word -> bool (size, size): pixels that are more than half covered by the visible part of the object."""
    top = _coverage(parts_of(scene), size)
    cells = top.reshape(size, OVERSAMPLE, size, OVERSAMPLE)
    return {word: (cells == i + 1).mean(axis=(1, 3)) > 0.5 for i, word in enumerate(scene.items)}
