"""The language of the micro-world: its words, prompts, near misses and classifier labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from typing import Any, TypeAlias

Word: TypeAlias = Any  # str, or None if the template does not have this factor

TEMPLATES = ("behaviour", "attribute", "relation")
SHAPES = ("circle", "square", "triangle", "star", "heart", "moon", "cross", "diamond")
OTHER = "other"  # a malformed shape: drawable, never nameable in a prompt
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "checkered", "ringed")
ACTIVITIES = (
    ("holding", "balloon"),
    ("holding", "flag"),
    ("holding", "umbrella"),
    ("wearing", "hat"),
    ("wearing", "crown"),
    ("riding", "cart"),
    ("riding", "boat"),
    ("riding", "cloud"),
    ("kicking", "ball"),
    ("climbing", "ladder"),
)
ACCESSORIES = tuple(accessory for _, accessory in ACTIVITIES)
RELATIONS = ("above", "below", "on the left of", "on the right of")
OPPOSITE = {
    "above": "below",
    "below": "above",
    "on the left of": "on the right of",
    "on the right of": "on the left of",
}
FACTORS = {
    "behaviour": ("shape", "activity"),
    "attribute": ("colour", "pattern", "shape"),
    "relation": ("first", "relation", "second"),
}
HEADS: dict[str, int] = {
    "template": len(TEMPLATES),
    "shape_a": len(SHAPES) + 1,
    "shape_b": len(SHAPES) + 1,
    "accessory": len(ACCESSORIES),
    "colour": len(COLOURS),
    "pattern": len(PATTERNS),
    "axis": 2,
}


def activity_phrase(verb: str, accessory: str) -> str:
    """The phrase of an activity with its article, e.g. "holding an umbrella"."""
    return f"{verb} {'an' if accessory[0] in 'aeiou' else 'a'} {accessory}"


PHRASES = tuple(activity_phrase(*activity) for activity in ACTIVITIES)
VALUES = {
    "shape": SHAPES,
    "activity": PHRASES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "first": SHAPES,
    "second": SHAPES,
    "relation": RELATIONS,
}


@dataclass(frozen=True)
class Named:
    """The factors a prompt names; those its template does not use are None.

    ``activity`` is the whole phrase, e.g. "holding a balloon".
    """

    template: str
    shape: Word = None
    activity: Word = None
    colour: Word = None
    pattern: Word = None
    first: Word = None
    second: Word = None
    relation: Word = None

    @property
    def accessory(self) -> Word:
        """The accessory's word, or None if no activity is named."""
        return self.activity.split()[-1] if self.activity else None

    def factors(self) -> dict[str, str]:
        """The factors this template names, in caption order."""
        return {name: getattr(self, name) for name in FACTORS[self.template]}


def text(named: Named) -> str:
    """The caption that names these factors."""
    if named.template == "behaviour":
        return f"a {named.shape} {named.activity}"
    if named.template == "attribute":
        return f"a {named.colour} and {named.pattern} {named.shape}"
    return f"the {named.first} {named.relation} the {named.second}"


@cache
def _all_named(template: str) -> tuple[Named, ...]:
    """Every combination of named factors of a template."""
    if template == "behaviour":
        return tuple(Named(template, shape=s, activity=a) for s, a in product(SHAPES, PHRASES))
    if template == "attribute":
        return tuple(Named(template, colour=c, pattern=p, shape=s) for c, p, s in product(COLOURS, PATTERNS, SHAPES))
    if template == "relation":
        return tuple(
            Named(template, first=a, second=b, relation=r) for (a, b), r in product(permutations(SHAPES, 2), RELATIONS)
        )
    raise ValueError(f"unknown template {template!r}; expected one of {', '.join(TEMPLATES)}")


@cache
def _table() -> dict[str, Named]:
    """Every prompt of the grammar with its factors (544 in all)."""
    return {text(named): named for template in TEMPLATES for named in _all_named(template)}


def all_prompts(template: str) -> list[str]:
    """Every prompt of a template: 80 behaviour, 240 attribute or 224 relation."""
    return [text(named) for named in _all_named(template)]


def parse(prompt: str) -> Named:
    """The factors that a prompt names. Raises ValueError for a prompt outside the grammar."""
    named = _table().get(" ".join(prompt.split()))
    if named is None:
        raise ValueError(
            f"not a micro-world prompt: {prompt!r}; expected e.g. 'a heart holding a balloon', "
            "'a blue and dotted square' or 'the star above the circle'"
        )
    return named


def equivalent(prompt: str) -> str | None:
    """The other prompt for the same picture (relation prompts only), else None."""
    named = parse(prompt)
    if named.template != "relation":
        return None
    return text(Named("relation", first=named.second, second=named.first, relation=OPPOSITE[named.relation]))


def near_misses(prompt: str) -> list[str]:
    """Prompts that differ in one factor (for relations also the swapped order), without those for the same picture."""
    named = parse(prompt)
    changed = [replace(named, **{factor: value}) for factor in FACTORS[named.template] for value in VALUES[factor]]
    if named.template == "relation":
        changed.append(replace(named, first=named.second, second=named.first))
    barred = {prompt, text(named), equivalent(prompt)}
    found = dict.fromkeys(text(other) for other in changed)
    return [other for other in found if other in _table() and other not in barred]


def ordered_pair(named: Named) -> tuple[str, str]:
    """The (top or left, bottom or right) shapes of a relation, independent of the caption's order."""
    leading = named.relation in ("above", "on the left of")
    return (named.first, named.second) if leading else (named.second, named.first)


def shape_index(shape: str) -> int:
    """Class index of a shape; "other" is the last class."""
    return SHAPES.index(shape) if shape in SHAPES else len(SHAPES)


def named_labels(named: Named) -> dict[str, int]:
    """Class indices of the heads of these factors."""
    found = {"template": TEMPLATES.index(named.template)}
    if named.template == "relation":
        a, b = ordered_pair(named)
        axis = int(named.relation in ("above", "below"))
        return found | {"shape_a": shape_index(a), "shape_b": shape_index(b), "axis": axis}
    found["shape_a"] = shape_index(named.shape)
    if named.template == "behaviour":
        return found | {"accessory": ACCESSORIES.index(named.accessory)}
    return found | {"colour": COLOURS.index(named.colour), "pattern": PATTERNS.index(named.pattern)}


def expected(prompt: str) -> dict[str, int]:
    """The labels a correct picture of this prompt must have (named heads and the template only)."""
    return named_labels(parse(prompt))
