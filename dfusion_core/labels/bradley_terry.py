"""Scores of pictures from answers about pairs: the model of Bradley and Terry (1952).

    P(first is preferred) = sigmoid(score_first - score_second)

A tie is half a win for each side. Scores have a normal prior of standard deviation PRIOR, so that they are finite after
the first answer and for a picture that always wins. They are the mode of the posterior, with the covariance of its
normal approximation (Laplace). The unit is the logit: a lead of 1 means that 73 of 100 answers prefer it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

PRIOR = 2.0  # logits
LARGEST_STEP = 2.0  # largest Newton step, in logits: far from the mode the curvature is not informative
EXACT = 1e-10
Values = NDArray[np.float64]
Comparison = tuple[int, int, float]  # first, second, and the score of the first: 1, 0.5 or 0


@dataclass(frozen=True)
class Fit:
    """Scores (n,) of mean zero, and their posterior covariance (n, n)."""

    score: Values
    covariance: Values

    @property
    def error(self) -> Values:
        """Standard errors (n,)."""
        found: Values = np.sqrt(np.diag(self.covariance))
        return found


def fit(count: int, comparisons: Sequence[Comparison]) -> Fit:
    """Scores of ``count`` pictures; zero, with the prior's covariance, without answers."""
    first, second = (np.array([one[side] for one in comparisons], int) for side in (0, 1))
    won = np.array([one[2] for one in comparisons], float)
    score = np.zeros(count)
    for _ in range(200):
        p = expit(score[first] - score[second])
        gradient = -score / PRIOR**2
        np.add.at(gradient, first, won - p)
        np.add.at(gradient, second, p - won)
        step = np.linalg.solve(_curvature(count, first, second, p), gradient)
        score += step * min(1.0, LARGEST_STEP / max(np.abs(step).max(initial=0.0), EXACT))
        if np.abs(step).max(initial=0.0) < EXACT:
            break
    p = expit(score[first] - score[second])
    covariance = np.linalg.inv(_curvature(count, first, second, p)).astype(np.float64)
    return Fit(score - score.mean() if count else score, covariance)


def fit_beside(known: float, won: Sequence[float]) -> float:
    """The score of one picture from answers against another one with a known score.

    won: the picture's score in each answer: 1, 0.5 or 0. The prior mean is the other's score; with ties only, the
    result equals it exactly.
    """
    lead = 0.0
    for _ in range(200):
        p = float(expit(lead))
        step = (sum(one - p for one in won) - lead / PRIOR**2) / (len(won) * p * (1 - p) + 1 / PRIOR**2)
        lead += max(-LARGEST_STEP, min(LARGEST_STEP, step))
        if abs(step) < EXACT:
            break
    return known + lead


def _curvature(count: int, first: NDArray[np.int_], second: NDArray[np.int_], p: Values) -> Values:
    """Negative second derivative (n, n) of the log posterior."""
    weight = p * (1 - p)
    found = np.eye(count) / PRIOR**2
    for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        np.add.at(found, (a, b), sign * weight)
    return found
