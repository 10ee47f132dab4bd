"""Micro-world scenes: content of a picture, its sampling, and its caption and labels.

A scene holds every random choice as a number, so drawing it needs no further randomness.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .composition import CONVENTIONAL, TYPICAL_ACCESSORY, TYPICAL_SHAPE, Composition
from .grammar import (
    COLOURS,
    FACTORS,
    HEADS,
    OTHER,
    PATTERNS,
    SHAPES,
    TEMPLATES,
    VALUES,
    Named,
    named_labels,
    parse,
    text,
)

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Background:
    """A muted gradient from ``start`` to ``stop`` (RGB 0-255) along ``angle`` (radians).

    ``horizon`` is (level px, RGB) of a lower band; ``discs`` are (x, y, radius px, brightness added).
    """

    start: Rgb
    stop: Rgb
    angle: float
    horizon: tuple[float, Rgb] | None
    discs: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Figure:
    """One shape: ``size`` is its longer side in px, ``tilt`` in degrees, ``flip`` mirrors it.

    ``angle`` (degrees) and ``phase`` (0-1) place the pattern; ``seed`` makes a malformed shape.
    """

    shape: str
    colour: str
    pattern: str
    size: float
    tilt: float
    flip: bool
    angle: float
    phase: float
    seed: int


@dataclass(frozen=True)
class Extra:
    """An accessory's look: its colour, the side it is on (-1 left, 1 right) and its relative scale."""

    colour: str
    side: int
    scale: float


@dataclass(frozen=True)
class Scene:
    """A whole picture.

    ``figures`` are in caption order. ``place`` (x, y in 0-1) is the position of the composition in the free
    space; ``gap`` and ``jitter`` (px) separate the two figures of a relation along and across its axis.
    """

    named: Named
    figures: tuple[Figure, ...]
    accessory: Extra | None
    background: Background
    place: tuple[float, float]
    gap: float
    jitter: float

    @property
    def template(self) -> str:
        """The template of the scene's caption."""
        return self.named.template

    @property
    def items(self) -> tuple[str, ...]:
        """The item words in caption order."""
        extra = (self.named.accessory,) if self.accessory else ()
        return tuple(figure.shape for figure in self.figures) + extra


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the options, evenly."""
    return options[int(rng.integers(len(options)))]


def _muted(rng: np.random.Generator) -> Rgb:
    """A greyish mid-tone (RGB 0-255), far from the six object colours."""
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.10, 0.32), rng.uniform(0.52, 0.74))
    return 255 * r, 255 * g, 255 * b


def _random_background(rng: np.random.Generator) -> Background:
    """A random backdrop; two in five have a horizon, half have discs."""
    horizon = (float(rng.uniform(34, 52)), _muted(rng)) if rng.random() < 0.4 else None
    count = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    discs: tuple[Any, ...] = tuple(
        tuple(float(v) for v in (*rng.uniform(0, 64, 2), rng.uniform(4, 9), rng.uniform(6, 15))) for _ in range(count)
    )
    return Background(_muted(rng), _muted(rng), float(rng.uniform(0, 2 * np.pi)), horizon, discs)


def _random_figure(
    rng: np.random.Generator, shape: str, template: str, how: Composition, **fixed: str | None
) -> Figure:
    """A shape composed as ``how`` says; colour and pattern unless fixed."""
    # Without a pattern in the caption, plain is more probable than each pattern.
    pattern = "plain" if rng.random() < 0.4 else _pick(rng, PATTERNS)
    colour = _pick(rng, COLOURS)
    figure = Figure(
        shape,
        colour,
        pattern,
        size=float(rng.uniform(*how.sizes[template])),
        tilt=float(rng.uniform(-1, 1)) * how.tilts[template],
        flip=bool(rng.random() < 0.5) and how.mirrored,
        angle=float(rng.choice(how.angles)),
        phase=float(rng.uniform(*how.phase)),
        seed=int(rng.integers(2**31)),
    )
    if how.typical:
        usual = rng.random(2) < how.typical
        figure = replace(
            figure,
            colour=TYPICAL_SHAPE.get(shape, colour) if usual[0] else colour,
            pattern="plain" if usual[1] else pattern,
        )
    given: dict[str, Any] = {name: value for name, value in fixed.items() if value}
    return replace(figure, **given)


def _random_accessory(rng: np.random.Generator, name: str, subject: str, how: Composition) -> Extra:
    """An accessory of another colour than its ``subject``, composed as ``how`` says."""
    free = tuple(colour for colour in COLOURS if colour != subject)
    colour = _pick(rng, free)
    extra = Extra(colour, int(rng.choice(how.sides)), float(rng.uniform(*how.accessory_scale)))
    if how.typical and rng.random() < how.typical and TYPICAL_ACCESSORY[name] in free:
        extra = replace(extra, colour=TYPICAL_ACCESSORY[name])
    return extra


def _checked(template: str, named: dict[str, str]) -> dict[str, str]:
    """The fixed factors. Raises ValueError for a factor that the template does not have."""
    for factor, value in named.items():
        if factor not in FACTORS[template]:
            raise ValueError(f"a {template} scene has no factor {factor!r}")
        drawable = VALUES[factor] + ((OTHER,) if VALUES[factor] is SHAPES else ())
        if value not in drawable:
            raise ValueError(f"unknown {factor} {value!r}; expected one of {', '.join(drawable)}")
    return named


def _template_for(named: dict[str, str], rng: np.random.Generator) -> str:
    """A random template among those that have all the fixed factors."""
    fitting = tuple(t for t in TEMPLATES if set(named) <= set(FACTORS[t]))
    if not fitting:
        raise ValueError(f"no template has all of {', '.join(sorted(named))}")
    return _pick(rng, fitting)


def _random_named(rng: np.random.Generator, template: str, fixed: dict[str, str]) -> Named:
    """All named factors: the fixed ones kept, the others random; the shapes of a relation differ."""
    chosen = dict(fixed)
    for factor in FACTORS[template]:
        taken = {chosen.get("first"), chosen.get("second")} - {None}
        options = tuple(v for v in VALUES[factor] if v not in taken)
        chosen.setdefault(factor, _pick(rng, options))
    if template == "relation" and chosen["first"] == chosen["second"] != OTHER:
        raise ValueError(f"a relation needs two different shapes, got {chosen['first']!r} twice")
    return Named(template, **chosen)


def _build(named: Named, rng: np.random.Generator, how: Composition) -> Scene:
    """A scene of these named factors with everything else random."""
    shapes = (named.first, named.second) if named.template == "relation" else (named.shape,)
    figures = tuple(
        _random_figure(rng, shape, named.template, how, colour=named.colour, pattern=named.pattern) for shape in shapes
    )
    accessory = _random_accessory(rng, named.accessory, figures[0].colour, how) if named.activity else None
    place = (float(rng.uniform(*how.place)), float(rng.uniform(*how.place)))
    return Scene(
        named,
        figures,
        accessory,
        _random_background(rng),
        place,
        gap=float(rng.uniform(*how.gap)),
        jitter=float(rng.uniform(-how.jitter, how.jitter)),
    )


def random_scene(
    rng: np.random.Generator, template: str | None = None, how: Composition = CONVENTIONAL, **named: str
) -> Scene:
    """A random scene; ``named`` fixes factors, e.g. shape="heart" or relation="above".

    The shape "other" (malformed) is drawn only if it is fixed.
    """
    if template is not None and template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}; expected one of {', '.join(TEMPLATES)}")
    template = template or _template_for(named, rng)
    return _build(_random_named(rng, template, _checked(template, named)), rng, how)


def scene_for_prompt(prompt: str, rng: np.random.Generator, how: Composition = CONVENTIONAL) -> Scene:
    """A scene that a prompt of the grammar describes; ValueError for any other prompt."""
    return _build(parse(prompt), rng, how)


def caption(scene: Scene) -> str:
    """The scene's caption; one with a malformed shape reads "other" and is no prompt of the grammar."""
    return text(scene.named)


def labels(scene: Scene) -> dict[str, int]:
    """Class index per head; -1 where the template does not have that head."""
    return {head: -1 for head in HEADS} | named_labels(scene.named)
