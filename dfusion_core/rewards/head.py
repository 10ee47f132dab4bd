"""A small reward model on CLIP's embeddings, fitted on people's answers; it scores targets without further answers.

    P(first is preferred) = sigmoid(w . (e_first - e_second))
    score(target) = score(reference) + w . (e_target - e_reference)

A logistic regression without intercept, because sides are random. Its accuracy is measured by cross-validation that
leaves out a fifth of the prompts at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError
from ..labels.answers import FIRST, SECOND, Answer

FOLDS = 5
STRENGTH = 1.0  # inverse of the ridge penalty, in units of the embeddings' own spread
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """The preferred direction w (d,) of embeddings, and the accuracy on ``count`` answers that it was not fitted on;
    None if only one prompt has answers."""

    direction: Values
    accuracy: float | None
    count: int

    def lead(self, new: Values, old: Values) -> Values:
        """Lead of pictures (n, d) over others (n, d), in logits."""
        found: Values = (new.astype(float) - old.astype(float)) @ self.direction
        return found


def fit_head(embeddings: Mapping[str, Values], answers: Sequence[Answer]) -> Head:
    """Fit a head. embeddings: (d,) by the hash of the picture. Ties are not used. Raises LabelError."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score

    used = [one for one in answers if one.answer in (FIRST, SECOND) and {one.first, one.second} <= embeddings.keys()]
    if not used:
        raise LabelError("adopt: there is no answer to fit a head on.", "Ask people with 'dfusion label ROUND'.")
    x = np.stack([embeddings[one.first] - embeddings[one.second] for one in used]).astype(float)
    won = np.array([one.answer == FIRST for one in used])
    spread = float(np.sqrt((x**2).sum(axis=1).mean())) or 1.0
    rows, wins = np.concatenate([x, -x]) / spread, np.concatenate([won, ~won])  # in both orders: no side is favoured
    prompts = np.array([one.prompt for one in used] * 2)
    model, folds = LogisticRegression(C=STRENGTH, fit_intercept=False), min(FOLDS, len(set(prompts)))
    accuracy = (
        float(np.mean(cross_val_score(model, rows, wins, groups=prompts, cv=GroupKFold(folds)))) if folds > 1 else None
    )
    return Head(model.fit(rows, wins).coef_[0] / spread, accuracy, len(used))
