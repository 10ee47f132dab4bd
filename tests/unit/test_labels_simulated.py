"""A labeller who errs: with as many answers as are called enough, the fitted order is the true one, nearly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from dfusion_core.labels.answers import FIRST, SECOND, Answer
from dfusion_core.labels.asking import ORDER, PAIR, Informative, enough, fit_group

WRONG = 0.15


def taus(pictures: int, prompts: int, kind: str = PAIR, share: float = 1.0) -> list[float]:
    """Kendall's tau of each prompt after a session with a labeller of whose answers 15 % are wrong."""
    lots = random.Random(pictures)
    groups = {f"p{p}": [f"{p}-{n:02}" for n in range(pictures)] for p in range(prompts)}
    truth = {
        name: value
        for names in groups.values()
        for name, value in zip(names, lots.sample(range(pictures), pictures), strict=True)
    }
    asker = Informative(groups, share, seed=pictures)
    found: list[Any] = []
    for _ in range(5 * enough(pictures) * prompts):
        if (question := asker.next("sim", found, (), kind)) is None:
            break
        row = sorted(question.pictures, key=lambda name: -truth[name]) if kind == ORDER else question.pictures
        for first, second in zip(row, row[1:], strict=False):
            right = truth[first] > truth[second]
            said = FIRST if right != (lots.random() < WRONG) else SECOND
            seen = any(one.pair == {first, second} for one in found)
            found.append(Answer(str(len(found)), "", "sim", question.prompt, first, second, said, seen))
    assert question is None
    return [
        float(kendalltau(fit_group(names, found).score, [truth[name] for name in names])[0])
        for names in groups.values()
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("pictures", [4, 8, 12, 16])
def test_enough_is_enough(pictures: int) -> None:
    found = taus(pictures, prompts=60 if pictures < 8 else 24)
    assert np.mean(found) >= 0.8, found


def test_half_of_it_is_not() -> None:
    """Or the figure would ask people for more than is needed."""
    assert np.mean(taus(16, prompts=8, share=0.4)) < 0.75


def test_what_is_enough() -> None:
    assert [enough(n) for n in (0, 1, 2, 4, 8, 16)] == [0, 0, 3, 10, 30, 80]
