"""The choice of the next question, and the recommended number of answers.

The next question is the most informative pair: the one with the largest p (1 - p) Var(score_a - score_b),
where p is the predicted preference. An answer of variance p (1 - p) reduces the volume of the posterior by a factor
1 + that product (D-optimality), so pairs with close and uncertain scores come first. The prompt with the smallest
share of its answers comes first, for BLOCK answers.

One question in REPEAT_EVERY repeats a pair that the labeller has answered, with the sides swapped.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .answers import SKIP, Answer
from .bradley_terry import Fit, fit

ENOUGH = 1.25  # answers of a prompt with K pictures, in units of K log2 K
REPEAT_EVERY = 10
REPEAT_AFTER = 5  # answers of this labeller in between
BLOCK = 6
ROW = 5  # pictures of a row that is to be ordered
PAIR, ORDER = "pair", "order"
Pair = frozenset[str]


@dataclass(frozen=True)
class Question:
    """Pictures of one prompt, from left to right: two, or a row to be ordered."""

    prompt: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """The number of answers, and the recommended number."""

    done: int
    needed: int


class Asker(Protocol):
    """The interface that selects the questions of a session."""

    def next(self, labeller: str, answers: Sequence[Answer], avoid: Collection[Pair], kind: str) -> Question | None:
        """The next question for this labeller; None if there are enough answers. avoid: pairs that others are looking
        at.
        """
        ...

    def progress(self, labeller: str, answers: Sequence[Answer]) -> Progress:
        """The progress to show to this labeller."""
        ...


def enough(pictures: int) -> int:
    """The recommended number of answers about K pictures of a prompt: 1.25 K log2 K.

    With it Kendall's tau between the fitted and the true order is 0.8 or more on average if 15 % of the answers
    are wrong (tests/unit/test_labels_simulated.py).
    """
    return 0 if pictures < 2 else math.ceil(ENOUGH * pictures * math.log2(pictures))


def fit_group(pictures: Sequence[str], answers: Sequence[Answer]) -> Fit:
    """Scores of a prompt's pictures from the answers about two of them."""
    place = {name: number for number, name in enumerate(pictures)}
    return fit(
        len(pictures),
        [
            (place[one.first], place[one.second], one.share)
            for one in answers
            if one.answer != SKIP and one.first in place and one.second in place
        ],
    )


class Informative:
    """Asks for an order of the pictures of each prompt, until ``share`` of the recommended answers is given."""

    def __init__(self, groups: Mapping[str, Sequence[str]], share: float = 1.0, seed: int | None = None) -> None:
        """groups: of each prompt the names of its pictures, all different."""
        self.groups = {prompt: tuple(names) for prompt, names in groups.items() if len(names) > 1}
        self.needed = {prompt: math.ceil(share * enough(len(names))) for prompt, names in self.groups.items()}
        self._prompt_of = {name: prompt for prompt, names in self.groups.items() for name in names}
        self._random = random.Random(seed)

    def progress(self, labeller: str, answers: Sequence[Answer]) -> Progress:
        """Answers of all labellers, with repeated and without skipped questions.

        Surplus answers about a prompt do not count for another one.
        """
        found = self._counts(answers)
        return Progress(sum(min(found[p], self.needed[p]) for p in self.groups), sum(self.needed.values()))

    def next(self, labeller: str, answers: Sequence[Answer], avoid: Collection[Pair], kind: str) -> Question | None:
        """A repetition if it is due, else the most informative pair (or row) of the prompt with the most missing
        answers.
        """
        found = self._counts(answers)
        open_ = [prompt for prompt in self.groups if found[prompt] < self.needed[prompt]]
        if not open_:
            return None
        if kind == PAIR and (again := repetition(labeller, answers, self.groups, self._random)):
            return again
        prompt = min(open_, key=lambda p: (found[p] // BLOCK * BLOCK / self.needed[p], list(self.groups).index(p)))
        names = self.groups[prompt]
        fitted = fit_group(names, answers)
        if kind == ORDER:
            return Question(prompt, self._row(names, fitted))
        skipped = {one.pair for one in answers if one.answer == SKIP and one.labeller == labeller}
        return Question(prompt, self._pair(names, fitted, {*avoid, *skipped}))

    def _counts(self, answers: Sequence[Answer]) -> dict[str, int]:
        found = dict.fromkeys(self.groups, 0)
        for one in answers:
            prompt = self._prompt_of.get(one.first)
            if one.answer != SKIP and prompt is not None and prompt == self._prompt_of.get(one.second):
                found[prompt] += 1
        return found

    def _pair(self, names: Sequence[str], fitted: Fit, avoid: Collection[Pair]) -> tuple[str, str]:
        """The most informative pair, with random sides; pairs to avoid only if there is no other."""
        a, b = np.triu_indices(len(names), 1)
        variance = np.diag(fitted.covariance)
        spread = variance[a] + variance[b] - 2 * fitted.covariance[a, b]
        lead = fitted.score[a] - fitted.score[b]
        gain = spread / (2 + 2 * np.cosh(lead))  # p (1 - p) = 1 / (2 + 2 cosh(lead))
        late = np.array([frozenset((names[i], names[j])) in avoid for i, j in zip(a.tolist(), b.tolist(), strict=True)])
        lot = np.array([self._random.random() for _ in a])
        best = int(np.lexsort((lot, -gain.round(9), late))[0])
        pair = [names[int(a[best])], names[int(b[best])]]
        self._random.shuffle(pair)
        return pair[0], pair[1]

    def _row(self, names: Sequence[str], fitted: Fit) -> tuple[str, ...]:
        """The pictures with the most uncertain scores, in random order."""
        order = sorted(range(len(names)), key=lambda n: (-round(float(fitted.error[n]), 6), self._random.random()))
        row = [names[n] for n in order[:ROW]]
        self._random.shuffle(row)
        return tuple(row)


def repetition(
    labeller: str, answers: Sequence[Answer], groups: Mapping[str, Sequence[str]], lots: random.Random
) -> Question | None:
    """A pair of these groups that this labeller has answered some time ago, sides swapped, if one is due."""
    known = {name: prompt for prompt, names in groups.items() for name in names}
    mine = [
        one
        for one in answers
        if one.labeller == labeller
        and one.answer != SKIP
        and one.first in known
        and known[one.first] == known.get(one.second)
    ]
    if len(mine) % REPEAT_EVERY != REPEAT_EVERY - 1:
        return None
    twice = {one.pair for one in mine if one.repeat}
    old = [one for one in mine[:-REPEAT_AFTER] if one.pair not in twice]
    if not old:
        return None
    chosen = lots.choice(old)
    return Question(known[chosen.first], (chosen.second, chosen.first))
