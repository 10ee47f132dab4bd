"""Figures of a round's pairs: similarity of the two images, and gain of fusion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..store import StageData


@dataclass(frozen=True)
class Views:
    """n images for comparison: pictures (n, row, column, 3) uint8, embeddings (n, d) of unit length."""

    picture: NDArray[np.uint8]
    embedding: NDArray[np.float32]

    @classmethod
    def of(cls, sampled: StageData, scored: StageData, images: Iterable[int]) -> Views:
        """Sampled images, from the outputs of ``sample`` and ``score``."""
        wanted = list(images)
        return cls(sampled.rows("picture", wanted), scored.rows("embedding", wanted))


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute difference of pictures (n, row, column, 3), 0 to 1, at ``where`` (n, row, column) if given."""
    difference = np.abs(a.astype(np.float32) - b).mean(axis=-1) / 255
    return float(difference.mean() if where is None else difference[where].mean())


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean cosine of unit-length embeddings (n, d), pair by pair."""
    return float((a * b).sum(axis=1).mean())


def enlarge(maps: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Maps (..., y, x) at ``size`` (row, column), nearest neighbour, as masks are in fusion."""
    rows, columns = (np.arange(wanted) * have // wanted for wanted, have in zip(size, maps.shape[-2:], strict=True))
    return maps[..., rows, :][..., columns]


def never_masked(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (n, *size) that no step's mask (n, step, y, x) covers."""
    touched: NDArray[np.bool_] = np.any(mask, axis=1)
    return ~enlarge(touched, size)


def fused_figures(
    pairs: pd.DataFrame,
    targets: pd.DataFrame,
    base: Views,
    reference: Views,
    target: Views,
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """Figures of fused pairs: views and masks (n, ...) have the rows of ``pairs`` and ``targets``.

    ``target_gain`` and ``reference_lead`` are rewards over the base's. If pairs are consistent,
    ``target_distance`` is well below ``reference_distance``, almost 0 outside the mask, and
    ``target_similarity`` (cosine of image embeddings) is above ``reference_similarity``.
    """
    outside = never_masked(mask, base.picture.shape[1:3])
    return {
        "pairs": len(pairs),
        "adopted": int(targets.adopted.sum()),
        "adopted_share": float(targets.adopted.mean()),
        "reference_lead": float((pairs.reference_reward - pairs.base_reward).mean()),
        "target_gain": float((targets.target_reward - pairs.base_reward).mean()),
        "mask_coverage": float(mask.mean()),
        "reference_distance": distance(reference.picture, base.picture),
        "target_distance": distance(target.picture, base.picture),
        "target_distance_outside": distance(target.picture, base.picture, outside) if outside.any() else None,
        "reference_similarity": similarity(reference.embedding, base.embedding),
        "target_similarity": similarity(target.embedding, base.embedding),
    }


def fresh_gain(pairs: pd.DataFrame, images: pd.DataFrame, scores: pd.DataFrame) -> float:
    """Mean gain of any other image of the prompt over the pairs' bases.

    Bases are selected for low scores, so an image that is independent of the reference gains too (regression to the
    mean). Only a ``target_gain`` above this, or one at a smaller distance from the base, is an effect of the reference.
    """
    of_prompt = images.merge(scores[["image", "reward"]], on="image").groupby("prompt_id").reward.mean()
    return float((pairs.prompt_id.map(of_prompt) - pairs.base_reward).mean())


def pair_figures(training: pd.DataFrame, first: Views, second: Views) -> dict[str, Any]:
    """Figures of pairs that were not fused."""
    return {
        "pairs": len(training),
        "reward_gap": float((training.winner_reward - training.loser_reward).mean()),
        "pair_distance": distance(first.picture, second.picture),
        "pair_similarity": similarity(first.embedding, second.embedding),
    }
