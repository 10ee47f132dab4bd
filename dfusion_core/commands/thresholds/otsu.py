"""Otsu's threshold, which separates values into two groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def otsu(values: NDArray[Any]) -> tuple[float, float]:
    """The threshold that maximises the variance between the values below it and those at or above it, and the
    separability: that variance as a share of the total variance, 0 to 1 (N. Otsu, 1979).

    values: any shape, at least one. Every cut between two different values is tried, without a histogram; the threshold
    is halfway between the two. If all values are equal, they are the threshold, and separability is 0.
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    if ordered[0] == ordered[-1]:
        return float(ordered[0]), 0.0
    below = np.arange(1, len(ordered))  # how many values are below the cut
    above = len(ordered) - below
    sums = ordered.cumsum()
    gap = (sums[-1] - sums[:-1]) / above - sums[:-1] / below  # between the means of the two parts
    between = below * above / len(ordered) ** 2 * gap**2
    best = int(np.where(ordered[1:] > ordered[:-1], between, -1).argmax())
    return float(ordered[best] + ordered[best + 1]) / 2, float(between[best] / ordered.var())
