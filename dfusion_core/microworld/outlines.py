"""Polygons of the micro-world's shapes and accessories, in pixels of the 64 x 64 frame, y downwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

Points = np.ndarray  # (n, 2) float x, y


@dataclass(frozen=True)
class Part:
    """One polygon of an object.

    ``item`` is the word of the object it belongs to; ``tone`` is the object's colour that fills
    it ("fill", "mark" or "edge"); ``outlined``: whether it has an edge line.
    """

    item: str
    points: Points
    tone: str = "fill"
    outlined: bool = True


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Points:
    """Points (41, 2) of an elliptic arc; angles in degrees, clockwise from the right."""
    t = np.radians(np.linspace(start, stop, 41))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The four corners (4, 2) of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)


def stroke(a: tuple[float, float], b: tuple[float, float], width: float) -> Points:
    """A straight line from a to b as a rectangle (4, 2)."""
    start, end = np.asarray(a, float), np.asarray(b, float)
    along = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across = np.array([-along[1], along[0]]) * width / 2
    return np.stack([start + across, end + across, end - across, start - across])


def _star() -> Points:
    """Five points with a waist thin enough to read as a star at 22 px."""
    t = np.radians(-90 + 36 * np.arange(10))
    r = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=1)


def _heart() -> Points:
    """The classic parametric heart."""
    t = np.linspace(0, 2 * np.pi, 73)[:-1]
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 16


def _moon() -> Points:
    """A crescent open to the right: an outer arc closed by a flatter inner arc."""
    outer = ellipse(0, 0, 1, 1, 50, 310)
    tip_x, tip_y = np.cos(np.radians(50)), np.sin(np.radians(50))
    t = np.linspace(-np.pi / 2, np.pi / 2, 41)
    inner = np.stack([tip_x - 0.78 * np.cos(t), tip_y * np.sin(t)], axis=1)
    return np.concatenate([outer, inner])


def _cross() -> Points:
    """An upright plus sign."""
    w = 0.34
    return np.array(
        [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
    )


@cache
def _unit_shape(shape: str) -> Points:
    """Points of a named shape, about two units across."""
    makers: dict[str, Callable[[], Points]] = {
        "circle": lambda: ellipse(0, 0, 1, 1),
        "square": lambda: box(-1, -1, 1, 1),
        "triangle": lambda: np.array([(0, -0.9), (1, 0.85), (-1, 0.85)]),
        "star": _star,
        "heart": _heart,
        "moon": _moon,
        "cross": _cross,
        "diamond": lambda: np.array([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]),
    }
    return makers[shape]()


def _malformed(seed: int) -> Points:
    """An irregular smooth blob or jagged polygon, uneven enough to be none of the named shapes."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        t = np.linspace(0, 2 * np.pi, 73)[:-1]
        sizes, phases = rng.uniform(0.12, 0.26, 4), rng.uniform(0, 2 * np.pi, 4)
        r = 1 + sum(a * np.cos(k * t + p) for k, a, p in zip((2, 3, 4, 5), sizes, phases, strict=True))
    else:
        n = int(rng.integers(6, 10))
        t = (np.arange(n) + rng.uniform(-0.32, 0.32, n)) * 2 * np.pi / n
        # One deep notch and one long spike keep the polygon from passing for a circle or a star.
        r = rng.permutation(np.concatenate([[0.4, 1.25], rng.uniform(0.55, 1.05, n - 2)]))
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=1)


def shape_points(shape: str, size: float, tilt: float, flip: bool, seed: int) -> Points:
    """A shape centred on (0, 0) whose longer side is ``size`` px, tilted by ``tilt`` degrees."""
    points = _malformed(seed) if shape == "other" else _unit_shape(shape)
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    points = (points * (-1 if flip else 1, 1)) @ np.array([(c, s), (-s, c)])
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * size / float((high - low).max())


def _dense(points: Points) -> Points:
    """The outline with 8 points on every edge, so that levels can be measured on straight sides."""
    steps = np.arange(8)[:, None, None] / 8
    return (points + steps * (np.roll(points, -1, axis=0) - points)).reshape(-1, 2)


def seat(points: Points, width: float, side: int, deepest: float = 5.0) -> tuple[float, float]:
    """Where something rests on a shape: the (x, y) nearest its top (side -1) or bottom (side 1) at which
    it is ``width`` px wide, at most ``deepest`` px inside so that the shape stays readable."""
    dense = _dense(points)
    inside = (dense[:, 1] * side).max() - dense[:, 1] * side
    # The middle is taken from the whole slice, or a slightly tilted flat side would be met at its corner.
    end = dense[inside <= deepest, 0]
    for depth in np.arange(1.0, deepest, 0.5):
        if np.ptp(dense[inside <= depth, 0]) >= width:
            break
    return float((end.min() + end.max()) / 2), float((dense[:, 1] * side).max() - depth) * side


def _balloon(points: Points, side: int, k: float) -> list[Part]:
    """An oval up at one side, its string tied to the nearest point of the subject."""
    x = side * ((points[:, 0] * side).max() - 1)
    knot = points[:, 1].min() - 4
    gap = points - (x, knot)
    tie = points[np.argmin((gap**2).sum(axis=1))] * 0.8
    tail = np.array([(x, knot - 3), (x + 2.2, knot), (x - 2.2, knot)])
    return [
        Part("balloon", stroke((x, knot), tuple(tie), 1.3), "edge", False),
        Part("balloon", tail, "edge", False),
        Part("balloon", ellipse(x, knot - 1 - 8.5 * k, 7.5 * k, 8.5 * k)),
    ]


def _flag(points: Points, side: int, k: float) -> list[Part]:
    """A pole touching one side of the subject, its cloth flying outwards at the top."""
    x, top = side * ((points[:, 0] * side).max() + 0.5), points[:, 1].min() - 9
    cloth = box(min(x, x + side * 15 * k), top + 0.8, max(x, x + side * 15 * k), top + 11.5 * k)
    pole = stroke((x, top), (x, points[:, 1].max() * 0.8), 2.2)
    return [Part("flag", cloth), Part("flag", pole, "edge", False)]


def _umbrella(points: Points, side: int, k: float) -> list[Part]:
    """A scalloped dome up at one side on a hooked pole."""
    x, rim = side * ((points[:, 0] * side).max() + 1.5), points[:, 1].min() - 1
    foot = points[:, 1].max() * 0.7
    r = 14 * k
    scallops = [ellipse(x + dx * r, rim, r / 3, 2.6, 0, -180) for dx in (2 / 3, 0, -2 / 3)]
    dome = np.concatenate([ellipse(x, rim, r, 12.5 * k, 180, 360), *scallops])
    end = x + side * 4
    hook = [stroke((x, foot), (end, foot), 1.8), stroke((end, foot + 0.9), (end, foot - 3), 1.8)]
    return [
        Part("umbrella", stroke((x, rim - 8 * k), (x, foot + 0.9), 1.8), "edge", False),
        *(Part("umbrella", piece, "edge", False) for piece in hook),
        Part("umbrella", dome),
    ]


def _hat(points: Points, side: int, k: float) -> list[Part]:
    """A top hat with a band; its brim lies a little inside the subject's top."""
    x, y = seat(points, 11, -1)
    return [
        Part("hat", box(x - 7 * k, y - 11.5 * k, x + 7 * k, y)),
        Part("hat", box(x - 7 * k, y - 4.8, x + 7 * k, y - 2), "mark", False),
        Part("hat", box(x - 11.5 * k, y - 2.2, x + 11.5 * k, y + 1.6)),
    ]


def _crown(points: Points, side: int, k: float) -> list[Part]:
    """Three spikes on a band."""
    x, y = seat(points, 11, -1)
    spikes = np.array([(-8.5, 1), (-10.5, -11), (-4.8, -5.5), (0, -13), (4.8, -5.5), (10.5, -11), (8.5, 1)])
    return [Part("crown", spikes * k + (x, y))]


def _cart(points: Points, side: int, k: float) -> list[Part]:
    """A box on two wheels that hides the subject's lowest few pixels."""
    x, y = seat(points, 10, 1, 4.5)
    wheels = [(x + dx * k, y + 9.5 * k) for dx in (-8.5, 8.5)]
    return [
        Part("cart", box(x - 15 * k, y, x + 15 * k, y + 8.5 * k)),
        *(Part("cart", ellipse(*at, 4.6 * k, 4.6 * k), "edge", False) for at in wheels),
        *(Part("cart", ellipse(*at, 2 * k, 2 * k), "fill", False) for at in wheels),
    ]


def _boat(points: Points, side: int, k: float) -> list[Part]:
    """A wide hull with a flat deck and a round bottom."""
    x, y = seat(points, 10, 1, 4.5)
    hull = ellipse(x, y, 19 * k, 12.5 * k, 0, 180)
    return [Part("boat", hull), Part("boat", box(x - 18.6 * k, y, x + 18.6 * k, y + 2.6), "mark", False)]


def _cloud(points: Points, side: int, k: float) -> list[Part]:
    """Three overlapping lobes on a flat base; the edge is a larger copy underneath."""
    x, y = seat(points, 10, 1, 4.5)
    lobes = [(-10.5, 8.2, 6.6), (0, 6.3, 7.8), (10.5, 8.2, 6.6)]
    parts = []
    for tone, grow in (("edge", 0.9), ("fill", 0.0)):
        parts += [
            Part("cloud", ellipse(x + dx * k, y + dy * k, r * k + grow, r * k + grow), tone, False)
            for dx, dy, r in lobes
        ]
        base = box(x - 10.5 * k, y + 8 * k, x + 10.5 * k, y + 14.8 * k + grow)
        parts.append(Part("cloud", base, tone, False))
    return parts


def _ball(points: Points, side: int, k: float) -> list[Part]:
    """A small ball with a belt, on the ground beside the subject."""
    r = 6.3 * k
    outline = _dense(points)
    low = outline[outline[:, 1] > outline[:, 1].max() - 2 * r]
    x, y = side * ((low[:, 0] * side).max() + r + 0.5), points[:, 1].max() - r
    belt = box(x - r + 0.8, y - 1.4, x + r - 0.8, y + 1.4)
    return [Part("ball", ellipse(x, y, r, r)), Part("ball", belt, "mark", False)]


def _ladder(points: Points, side: int, k: float) -> list[Part]:
    """Two rails with rungs, taller than the subject, which covers a little of the inner rail."""
    x, half = side * ((points[:, 0] * side).max() + 4.5), 6.3
    top, foot = points[:, 1].min() - 8 * k, points[:, 1].max() + 6 * k
    rungs = [box(x - half, y, x + half, y + 2.2) for y in np.arange(top + 4, foot - 4, 7.0)]
    rails = [box(x + dx - 1.4, top, x + dx + 1.4, foot) for dx in (-half, half)]
    return [Part("ladder", piece, "fill", False) for piece in rungs + rails]


_EACH = (_balloon, _flag, _umbrella, _hat, _crown, _cart, _boat, _cloud, _ball, _ladder)
MAKERS: dict[str, Callable[[Points, int, float], list[Part]]] = {one.__name__[1:]: one for one in _EACH}
BEHIND = ("balloon", "ladder", "umbrella", "flag")  # drawn before the subject, so that they never cut into it
