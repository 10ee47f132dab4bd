"""Diversity of the images of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray


def diversity(embeddings: NDArray[np.float32], groups: Sequence[Any]) -> NDArray[np.float64]:
    """Per picture the mean of 1 - cosine to the others of its group (its prompt); 0 if all are alike.

    embeddings: unit length (n, d). NaN for a picture that is alone. A policy that has collapsed to one picture per
    prompt may have a high score, and no diversity.
    """
    found = np.full(len(embeddings), np.nan)
    for rows in pd.Series(range(len(embeddings))).groupby(list(groups), sort=False).agg(list):
        if len(rows) > 1:
            cosine = embeddings[rows].astype(np.float64) @ embeddings[rows].T
            found[rows] = 1 - (cosine.sum(axis=1) - np.diag(cosine)) / (len(rows) - 1)
    return found
