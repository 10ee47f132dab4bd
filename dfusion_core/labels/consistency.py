"""How often a labeller says the same when a pair is shown once more, sides swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .answers import FIRST, SECOND, SKIP, Answer


@dataclass(frozen=True)
class Consistency:
    """Of ``repeats`` answers to a repeated pair, ``same`` are as the first one was; None if there is none."""

    same: int
    repeats: int

    @property
    def share(self) -> float | None:
        """``same`` of ``repeats``."""
        return self.same / self.repeats if self.repeats else None


def consistency(answers: Sequence[Answer], labeller: str) -> Consistency:
    """Of one labeller; a tie agrees with a tie only."""
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
