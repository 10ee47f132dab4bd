"""Normalised rewards of DDPO and DPOK (appendix C): per prompt, over the scores of this and all earlier rounds.

The scores are those of the sampled images. The output of ``train`` passes them to the next round, as it
does with the optimizer's state, so that DVC tracks the dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import DFusionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("round", "prompt", "reward")
SMALLEST_STD = 1e-8  # avoids a division by zero if all images of a prompt have the same score


def extend(history: pd.DataFrame, round: str, scores: pd.DataFrame) -> pd.DataFrame:
    """The history (round, prompt, reward; one row per image) with this round's ``scores`` (prompt, reward) appended."""
    new = scores[["prompt", "reward"]].assign(round=round)[list(COLUMNS)]
    return new if history.empty else pd.concat([history[list(COLUMNS)], new], ignore_index=True)


def advantages(prompts: pd.Series, rewards: pd.Series, history: pd.DataFrame, clip: float) -> NDArray[np.float32]:
    """(R - mean) / std of each reward over its prompt's history, clipped to +-``clip``; (n,).

    The standard deviation is that of the population. Raises DFusionError for a prompt without history.
    """
    groups = history.groupby("prompt").reward
    missing = set(prompts) - set(groups.groups)
    if missing:
        raise DFusionError(
            f"train: no image of '{min(missing)}' was scored, in this round or before.",
            "Run 'dvc repro' from score on.",
        )
    mean, std = prompts.map(groups.mean()), prompts.map(groups.std(ddof=0))
    normalised: NDArray[np.float64] = (rewards.to_numpy() - mean.to_numpy()) / (std.to_numpy() + SMALLEST_STD)
    return normalised.clip(-clip, clip).astype(np.float32)
