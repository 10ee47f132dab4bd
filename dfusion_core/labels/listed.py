"""Questions from a list of pairs, for targets and for judging: each once, or once per labeller."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence

from .answers import SKIP, Answer
from .asking import Pair, Progress, Question, repetition


class Listed:
    """Asks each pair of a list once, in random order."""

    def __init__(self, pairs: Sequence[Question], everybody: bool, seed: int | None = None) -> None:
        """everybody: each labeller answers every pair, so that labellers can be compared; else one answer is enough."""
        self.pairs, self.everybody = list(pairs), everybody
        self._groups = {
            one.prompt: list(
                dict.fromkeys(name for other in pairs if other.prompt == one.prompt for name in other.pictures)
            )
            for one in pairs
        }
        self._random = random.Random(seed)

    def progress(self, labeller: str, answers: Sequence[Answer]) -> Progress:
        """Pairs that are answered; with ``everybody`` by this labeller."""
        return Progress(len(self.pairs) - len(self._open(labeller, answers)), len(self.pairs))

    def next(self, labeller: str, answers: Sequence[Answer], avoid: Collection[Pair], kind: str) -> Question | None:
        """An unanswered pair, in an order that differs between labellers, with random sides."""
        left = self._open(labeller, answers)
        if not left:
            return None
        if again := repetition(labeller, answers, self._groups, self._random):
            return again
        skipped = {one.pair for one in answers if one.answer == SKIP and one.labeller == labeller}
        pair = min(
            left,
            key=lambda one: (
                frozenset(one.pictures) in skipped,
                not self.everybody and frozenset(one.pictures) in avoid,
                _lot(labeller, one.pictures),
            ),
        )
        sides = list(pair.pictures)
        self._random.shuffle(sides)
        return Question(pair.prompt, tuple(sides))

    def _open(self, labeller: str, answers: Sequence[Answer]) -> list[Question]:
        done = {one.pair for one in answers if one.answer != SKIP and (not self.everybody or one.labeller == labeller)}
        return [one for one in self.pairs if frozenset(one.pictures) not in done]


def _lot(labeller: str, pictures: Collection[str]) -> str:
    return hashlib.sha256("|".join([labeller, *sorted(pictures)]).encode()).hexdigest()
