"""Line charts as inline SVG: points, lines, intervals, a legend. Nothing to click, prints as it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .html import text

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 260, 70, 40, 12, 170
COLOURS = ("#1965b0", "#dc050c", "#4eb265", "#882e72")


@dataclass(frozen=True)
class Line:
    """One curve; ``low`` and ``high`` (as many as ``y``) draw its intervals."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= wanted)
    first = math.floor(low / step)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [k * step for k in range(first, last + 1)]


def chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """The lines in one picture; "" without a point."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for values in (line.y, line.low or (), line.high or ()) for y in values]
    if not xs:
        return ""
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">']
    for tick in y_ticks:
        _, y = place(x_ticks[0], tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for number, line in enumerate(lines):
        parts.append(_curve(line, COLOURS[number % len(COLOURS)], number, place))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{text(x_label)}</text>'
                 f'<text transform="translate(13 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
                 f"{text(y_label)}</text>")
    return "".join(parts) + "</svg>"


def _curve(line: Line, colour: str, number: int, place: object) -> str:
    assert callable(place)
    points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
    parts = [f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
             + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>']
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    for x, low, high in zip(line.x, line.low or (), line.high or (), strict=False):
        (a, b), (_, c) = place(x, low), place(x, high)
        parts.append(f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{b:.1f}" y2="{c:.1f}" stroke="{colour}"/>')
    top = TOP + 14 + 18 * number
    parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{top - 9}" width="10" height="10" fill="{colour}"/>'
                 f'<text x="{WIDTH - RIGHT + 30}" y="{top}">{text(line.name)}</text>')
    return "".join(parts)
