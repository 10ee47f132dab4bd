"""Composition of a picture: ranges of everything that a caption leaves open.

`CONVENTIONAL` follows conventions: the subject is in the middle, at its usual size and upright, accessories are on
their usual side, and unnamed attributes are mostly typical. In `SCATTERED` all of this is uniformly random, so that two
pictures of one caption rarely agree on positions. Backgrounds are random in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from .grammar import ACCESSORIES, COLOURS, SHAPES

Range = tuple[float, float]
# Typical colours of shapes and accessories if the caption names none.
TYPICAL_SHAPE = {shape: COLOURS[i % len(COLOURS)] for i, shape in enumerate(SHAPES)}
TYPICAL_ACCESSORY = {accessory: COLOURS[(2 * i + 3) % len(COLOURS)] for i, accessory in enumerate(ACCESSORIES)}


@dataclass(frozen=True)
class Composition:
    """Ranges of uniformly random numbers, and choices of equal probability.

    sizes: longer side of a figure, px, by template. tilts: largest tilt either way, degrees, by template. mirrored:
    whether a figure may be mirrored. angles: of a pattern, degrees. phase: of a pattern, in periods. sides: of an
    accessory, -1 left, 1 right. accessory_scale: relative to its usual size. place: of the composition in the free
    space, 0 left or top, 1 right or bottom. gap, jitter: between the two figures of a relation along its axis, and
    largest offset across it, px. typical: probability that a colour that is not named is the typical one, and that a
    pattern that is not named is none; else it is random.
    """

    sizes: dict[str, Range]
    tilts: dict[str, float]
    mirrored: bool
    angles: tuple[float, ...]
    phase: Range
    sides: tuple[int, ...]
    accessory_scale: Range
    place: Range
    gap: Range
    jitter: float
    typical: float


CONVENTIONAL = Composition(
    sizes={"behaviour": (28.0, 31.0), "attribute": (33.0, 37.0), "relation": (23.0, 26.0)},
    tilts={"behaviour": 2.0, "attribute": 3.5, "relation": 3.5},
    mirrored=False,
    angles=(45.0,),
    phase=(0.4, 0.6),
    sides=(1,),
    accessory_scale=(1.03, 1.07),
    place=(0.4, 0.6),
    gap=(4.0, 5.0),
    jitter=1.0,
    typical=0.8,
)
SCATTERED = Composition(
    sizes={"behaviour": (26.0, 33.0), "attribute": (30.0, 40.0), "relation": (22.0, 27.0)},
    tilts={"behaviour": 4.0, "attribute": 7.0, "relation": 7.0},  # less if things rest on the shape
    mirrored=True,
    angles=(0.0, 45.0, 90.0, 135.0),
    phase=(0.0, 1.0),
    sides=(-1, 1),
    accessory_scale=(0.95, 1.15),
    place=(0.0, 1.0),
    gap=(3.0, 6.0),
    jitter=6.0,
    typical=0.0,
)
COMPOSITIONS = {"conventional": CONVENTIONAL, "scattered": SCATTERED}
