"""Intervals of mean gains: 95 % of simulated ones hold the true mean."""

from __future__ import annotations

import numpy as np
import pytest

from dfusion_core.evaluation.intervals import Estimate, of_other_prompts, of_other_trainings, of_these_prompts

RUNS = 2_000
TRUE = 0.03


def covered(estimates: list[Estimate]) -> float:
    return float(np.mean([e.low <= TRUE <= e.high for e in estimates]))


@pytest.mark.parametrize("prompts", [6, 12])
def test_other_prompts(prompts: int) -> None:
    """Prompts differ, images of a prompt differ less: pooling the images would cover 60 %."""
    rng = np.random.default_rng(0)
    names, found = np.repeat(np.arange(prompts), 16), []
    for _ in range(RUNS):
        values = TRUE + rng.normal(0, 0.05, prompts)[names] + rng.normal(0, 0.1, len(names))
        found.append(of_other_prompts(values, names.tolist()))
    assert covered(found) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("images", [4, 12])
def test_these_prompts(images: int) -> None:
    """The prompts' own means are what is asked for, and each prompt has a spread of its own."""
    rng = np.random.default_rng(1)
    effect = rng.normal(0, 0.1, 12)
    effect += TRUE - effect.mean()
    spread, names = rng.uniform(0.02, 0.2, 12), np.repeat(np.arange(12), images)
    found = [of_these_prompts(effect[names] + rng.normal(0, spread[names]), names.tolist()) for _ in range(RUNS)]
    assert covered(found) == pytest.approx(0.95, abs=0.02)


def test_these_prompts_with_zeros_and_ones() -> None:
    """Paired differences of right and wrong are -1, 0 and 1."""
    rng = np.random.default_rng(2)
    names = np.repeat(np.arange(12), 12)
    chance = np.linspace(-0.2, 0.26, 12)
    assert chance.mean() == pytest.approx(TRUE)
    found = []
    for _ in range(RUNS):
        draw = rng.random(len(names))
        up = (1 + chance[names]) / 4
        found.append(of_these_prompts((draw < up).astype(float) - (draw > 0.5 + up), names.tolist()))
    assert covered(found) == pytest.approx(0.95, abs=0.02)


@pytest.mark.few(6)
@pytest.mark.parametrize("sizes", [(0.02, 0.05, 0.05), (0.05, 0.02, 0.05), (0.0, 0.05, 0.1), (0.0, 0.0, 0.1)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_other_trainings(sizes: tuple[float, float, float], seeds: int, groups: int) -> None:
    """Trainings and prompts crossed, in one template and in the mean over three. Where one of the two
    makes no difference, the interval may be too wide, as its variance cannot be told from nothing. Two trainings are
    too few to tell how much trainings differ: 89 % at worst."""
    rng, found = np.random.default_rng(3), []
    training, prompt, rest = sizes
    for _ in range(RUNS):
        found.append(
            of_other_trainings(
                [
                    TRUE
                    + rng.normal(0, training, (seeds, 1))
                    + rng.normal(0, prompt, (1, 12))
                    + rng.normal(0, rest, (seeds, 12))
                    for _ in range(groups)
                ]
            )
        )
    assert (0.88 if seeds == 2 else 0.93) <= covered(found) <= (0.98 if all(sizes) else 1.0)


def test_by_hand() -> None:
    """Means 0, 2 and 4: mean 2, standard error 2 / sqrt(3), t of two degrees of freedom 4.3027."""
    found = of_other_prompts(np.array([-1.0, 1.0, 2.0, 4.0]), ["a", "a", "b", "c"])
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.mean == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)


def test_one_training_is_t_over_prompts() -> None:
    x = np.random.default_rng(4).normal(size=(1, 7))
    assert of_other_trainings([x]) == of_other_prompts(x[0], list(range(7)))


def test_no_spread_and_a_single_unit() -> None:
    assert of_other_prompts(np.ones(4), [1, 2, 3, 4]) == Estimate(1.0, 1.0, 1.0)
    assert np.isnan(of_other_prompts(np.ones(3), [1, 1, 1]).low)
