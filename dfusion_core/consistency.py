"""How alike the two images of a pair look, and what fusion gained: the figures of one round's pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute difference of pictures (n, row, column, 3), 0 to 1; only ``where`` (n, row, column), if given."""
    difference = np.abs(a.astype(np.float32) - b).mean(axis=-1) / 255
    return float(difference.mean() if where is None else difference[where].mean())


def enlarged(maps: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Maps (..., y, x) at ``size`` (row, column), nearest neighbour, as masks are in fusion."""
    rows, columns = (np.arange(wanted) * have // wanted for wanted, have in zip(size, maps.shape[-2:], strict=True))
    return maps[..., rows, :][..., columns]


def never_masked(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (n, *size) that no step's mask (n, step, y, x) covers."""
    touched: NDArray[np.bool_] = np.any(mask, axis=1)
    return ~enlarged(touched, size)


def fused_figures(
    training: pd.DataFrame, base: NDArray[np.uint8], reference: NDArray[np.uint8], target: NDArray[np.uint8],
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """Figures of fused pairs: all pictures and masks (n, ...) one row a row of ``training``.

    ``target_gain`` and ``reference_lead`` are rewards over the base's; a method that makes consistent pairs has
    ``target_distance`` well below ``reference_distance``, and next to nothing outside the mask.
    """
    outside = never_masked(mask, base.shape[1:3])
    return {
        "pairs": len(training), "adopted": int(training.adopted.sum()), "adopted_share": float(training.adopted.mean()),
        "reference_lead": float((training.reference_reward - training.base_reward).mean()),
        "target_gain": float((training.target_reward - training.base_reward).mean()),
        "mask_coverage": float(mask.mean()),
        "reference_distance": distance(reference, base), "target_distance": distance(target, base),
        "target_distance_outside": distance(target, base, outside) if outside.any() else None}


def pair_figures(winner_reward: pd.Series, loser_reward: pd.Series, first: NDArray[np.uint8],
                 second: NDArray[np.uint8]) -> dict[str, Any]:
    """Figures of pairs that were not fused."""
    return {"pairs": len(first), "reward_gap": float((winner_reward - loser_reward).mean()),
            "pair_distance": distance(first, second)}
