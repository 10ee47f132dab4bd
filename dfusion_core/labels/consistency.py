"""Consistency of a labeller: equal answers to repeated pairs with swapped sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .answers import FIRST, SECOND, SKIP, Answer


@dataclass(frozen=True)
class Consistency:
    """Of ``repeats`` answers to a repeated pair, ``same`` equal the first one; None if there are none."""

    same: int
    repeats: int

    @property
    def share(self) -> float | None:
        """``same`` of ``repeats``."""
        return self.same / self.repeats if self.repeats else None


def consistency(answers: Sequence[Answer], labeller: str) -> Consistency:
    """Consistency of one labeller; a tie agrees with a tie only."""
    said: dict[frozenset[str], str] = {}
    same = repeats = 0
    for one in answers:
        if one.labeller != labeller or one.answer == SKIP:
            continue
        if one.repeat and one.pair in said:
            repeats += 1
            same += said[one.pair] == preferred(one)
        else:
            said[one.pair] = preferred(one)
    return Consistency(same, repeats)


def preferred(one: Answer) -> str:
    """The name of the picture that was preferred; empty for a tie."""
    return {FIRST: one.first, SECOND: one.second}.get(one.answer, "")
