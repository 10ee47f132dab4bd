"""The training set of a round as a table of winners and losers.

All kinds of pairs have the same columns: pair, prompt_id, prompt, and for winner and loser the stage that made
the image (``sample`` or ``fuse``), its row there, and its reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import from_numpy

from ..errors import DFusionError
from .rule import adopts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..params.sections import Adopt

SAMPLE, FUSE = "sample", "fuse"


def target_table(
    pairs: pd.DataFrame, target_reward: NDArray[Any], without_mask: NDArray[np.bool_], adopt: Adopt
) -> pd.DataFrame:
    """Eq. (7) on every pair: pair, prompt_id, prompt, target_reward, adopted.

    target_reward: (pair,); without_mask: bool (pair,), True if the mask is empty; the target then equals its base and
    is not adopted.
    """
    R_a, R_r, R_b = (
        from_numpy(x.astype("float64"))
        for x in (target_reward, pairs.reference_reward.to_numpy(), pairs.base_reward.to_numpy())
    )
    good = adopts(R_a, R_r, R_b, adopt.threshold).numpy() if adopt.enabled else R_a.isfinite().numpy()
    return pairs[["pair", "prompt_id", "prompt"]].assign(target_reward=target_reward, adopted=good & ~without_mask)


def fused_training(pairs: pd.DataFrame, targets: pd.DataFrame, adopt: Adopt) -> pd.DataFrame:
    """Adopted targets against bases; for the other pairs the reference wins, or the pair is dropped.

    Raises DFusionError if ``adopt.fallback`` is drop and none was adopted.
    """
    if adopt.fallback == "drop" and not targets.adopted.any():
        raise DFusionError(
            f"adopt: none of {len(targets)} targets is good enough, and adopt.fallback is drop: "
            "there is nothing to train on.",
            f"Lower adopt.threshold (now {adopt.threshold}), or set adopt.fallback to reference.",
        )
    training = reference_training(pairs)
    taken = targets.adopted.to_numpy()
    training.loc[taken, "winner_stage"] = FUSE
    training.loc[taken, "winner_row"] = pairs.pair[taken]
    training.loc[taken, "winner_reward"] = targets.target_reward[taken]
    return training[taken].reset_index(drop=True) if adopt.fallback == "drop" else training


def reference_training(pairs: pd.DataFrame) -> pd.DataFrame:
    """References against bases."""
    return pairs[["pair", "prompt_id", "prompt"]].assign(
        winner_stage=SAMPLE,
        winner_row=pairs.reference_image,
        winner_reward=pairs.reference_reward,
        loser_stage=SAMPLE,
        loser_row=pairs.base_image,
        loser_reward=pairs.base_reward,
    )


def twin_training(twins: pd.DataFrame, scores: pd.DataFrame, twin_reward: NDArray[Any]) -> pd.DataFrame:
    """The better one of an image and its twin against the other.

    twins: the table of ``pairing.plan.twin_plan``; scores: (image, reward); twin_reward: (pair,).
    """
    table = twins.merge(scores[["image", "reward"]], on="image", validate="one_to_one").sort_values("pair")
    table = table.reset_index(drop=True).assign(twin_reward=twin_reward)
    wins = table.twin_reward > table.reward
    sides: dict[str, pd.Series] = {}
    for side, twin in (("winner", wins), ("loser", ~wins)):
        sides |= {
            f"{side}_stage": twin.map({True: FUSE, False: SAMPLE}),
            f"{side}_row": table.pair.where(twin, table.image),
            f"{side}_reward": table.twin_reward.where(twin, table.reward),
        }
    return table[["pair", "prompt_id", "prompt"]].assign(**sides)


def without_ties(training: pd.DataFrame) -> pd.DataFrame:
    """The pairs whose images have different rewards; equal rewards express no preference.

    Raises DFusionError if none is left.
    """
    different = training[training.winner_reward != training.loser_reward].reset_index(drop=True)
    if different.empty:
        raise DFusionError(
            f"adopt: the images of all {len(training)} pairs have equal rewards: there is nothing to learn from.",
            "Use a reward that tells images apart: see reward.weight and reward.plugins in params.yaml.",
        )
    return different
