"""Normalised rewards: hand-worked numbers, per prompt, over rounds."""

from __future__ import annotations

import pandas as pd
import pytest

from dfusion_core.errors import DFusionError
from dfusion_core.training.advantages import COLUMNS, advantages, extend

EMPTY = pd.DataFrame(columns=list(COLUMNS))
FIRST = pd.DataFrame({"prompt": ["a", "a", "b", "b"], "reward": [1.0, 3.0, 10.0, 10.0]})
SECOND = pd.DataFrame({"prompt": ["a", "a"], "reward": [5.0, 7.0]})


def of(prompt: str, reward: float, history: pd.DataFrame, clip: float = 5.0) -> float:
    return float(advantages(pd.Series([prompt]), pd.Series([reward]), history, clip)[0])


def test_one_round() -> None:
    """Prompt a: mean 2, population standard deviation 1."""
    history = extend(EMPTY, "r00", FIRST)
    assert [of("a", r, history) for r in (1.0, 2.0, 4.5)] == pytest.approx([-1.0, 0.0, 2.5])
    assert list(history.columns) == ["round", "prompt", "reward"] and set(history["round"]) == {"r00"}


def test_two_rounds() -> None:
    """Rewards 1, 3, 5, 7: mean 4, variance 5. The rows of the first round stay in front."""
    history = extend(extend(EMPTY, "r00", FIRST), "r01", SECOND)
    assert history["round"].tolist() == ["r00"] * 4 + ["r01"] * 2
    assert of("a", 9.0, history) == pytest.approx(5 / 5**0.5)


def test_clipping_on_both_sides() -> None:
    history = extend(EMPTY, "r00", FIRST)
    assert (of("a", 100.0, history), of("a", -100.0, history, 2.5)) == (5.0, -2.5)


def test_equal_scores() -> None:
    """Nothing to tell apart: zero at the mean, the clip elsewhere, never NaN."""
    history = extend(EMPTY, "r00", FIRST)
    assert (of("b", 10.0, history), of("b", 9.0, history)) == (0.0, -5.0)


def test_a_prompt_without_history() -> None:
    with pytest.raises(DFusionError, match="no image of 'c' was scored") as caught:
        of("c", 1.0, extend(EMPTY, "r00", FIRST))
    assert "dvc repro" in caught.value.hint
