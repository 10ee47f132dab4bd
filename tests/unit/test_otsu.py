"""Otsu's threshold against a search through every possible one."""

from __future__ import annotations

import numpy as np
import pytest

from dfusion_core.commands.thresholds.otsu import otsu


def between(values: np.ndarray, threshold: float) -> float:
    """Variance between the values below the threshold and the others, as the definition has it."""
    below, above = values[values < threshold], values[values >= threshold]
    if not len(below) or not len(above):
        return 0.0
    mean = values.mean()
    return (len(below) * (below.mean() - mean) ** 2 + len(above) * (above.mean() - mean) ** 2) / len(values)


def test_by_hand() -> None:
    """1 1 2 | 8 9: means 4/3 and 17/2, weights 3/5 and 2/5, so 6/25 * (43/6)^2; the variance is 63.4/5."""
    threshold, separability = otsu(np.array([8, 1, 2, 9, 1]))
    assert threshold == 5.0
    variance = np.var([1, 1, 2, 8, 9])
    assert separability == pytest.approx(6 / 25 * (43 / 6) ** 2 / variance)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.concatenate([random.normal(0, 1, 40), random.normal(random.uniform(0, 5), 2, random.integers(1, 60))])
    values = np.round(values, int(random.integers(0, 4)))  # with many equal values and with few
    threshold, separability = otsu(values)
    best = max(between(values, candidate) for candidate in np.unique(values))
    assert between(values, threshold) == pytest.approx(best)
    assert separability == pytest.approx(best / values.var())
    assert threshold not in values


def test_shape_and_scale_do_not_matter() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=(3, 4, 5)).astype(np.float32)
    threshold, separability = otsu(values)
    assert otsu(values.ravel()[::-1]) == (threshold, separability)
    assert otsu(values * np.float32(2**-10)) == pytest.approx((threshold * 2**-10, separability))


def test_two_heaps_are_told_apart_and_one_value_is_not() -> None:
    values = np.array([0.1] * 30 + [0.7] * 3)
    assert otsu(values) == pytest.approx((0.4, 1.0))
    assert otsu(np.full((2, 2), 0.25)) == (0.25, 0.0)
    assert otsu(np.array([0.25])) == (0.25, 0.0)
