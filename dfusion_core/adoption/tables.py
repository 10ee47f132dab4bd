"""The training set of a round as a table: which image of each pair wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import from_numpy

from ..errors import DFusionError
from .rule import adopted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..params.sections import Adopt


def twin_table(twins: pd.DataFrame, scores: pd.DataFrame, twin_reward: NDArray[Any]) -> pd.DataFrame:
    """The training set of ``pairs: same_noise``: of an image and its twin the better one wins.

    ``twins`` is ``plan.twin_plan``'s table, ``scores`` (image, reward), ``twin_reward`` (pair,). Adds image_reward,
    twin_reward, twin_wins, winner_reward and loser_reward; a tie goes to the image.
    """
    table = twins.merge(scores[["image", "reward"]], on="image", validate="one_to_one").sort_values("pair")
    table = table.rename(columns={"reward": "image_reward"}).reset_index(drop=True).assign(twin_reward=twin_reward)
    both = table[["image_reward", "twin_reward"]]
    return table.assign(twin_wins=table.twin_reward > table.image_reward, winner_reward=both.max(axis=1),
                        loser_reward=both.min(axis=1))


def judged(pairs: pd.DataFrame, target_reward: NDArray[Any] | None, adopt: Adopt) -> pd.DataFrame:
    """The pairs with the columns ``target_reward``, ``adopted`` and ``winner_reward``.

    ``target_reward`` (pair,), or None where nothing was fused: then every winner is its reference.
    """
    if target_reward is None:
        return pairs.assign(target_reward=float("nan"), adopted=False, winner_reward=pairs.reference_reward)
    R_a, R_r, R_b = (from_numpy(x.astype("float64")) for x in (
        target_reward, pairs.reference_reward.to_numpy(), pairs.base_reward.to_numpy()))
    taken = adopted(R_a, R_r, R_b, adopt.threshold).numpy() if adopt.enabled else R_a.isfinite().numpy()
    winner = pairs.reference_reward.where(~taken, target_reward)
    return pairs.assign(target_reward=target_reward, adopted=taken, winner_reward=winner)


def kept(table: pd.DataFrame, adopt: Adopt) -> pd.DataFrame:
    """The judged pairs that are trained on: all, or with ``fallback: drop`` those whose target was adopted.

    Raises DFusionError if no pair is left.
    """
    if adopt.fallback == "reference":
        return table
    if not table.adopted.any():
        raise DFusionError(
            f"adopt: none of {len(table)} targets is good enough, and adopt.fallback is drop: "
            "there is nothing to train on.",
            f"Lower adopt.threshold (now {adopt.threshold}), or set adopt.fallback to reference.")
    return table[table.adopted].reset_index(drop=True)
