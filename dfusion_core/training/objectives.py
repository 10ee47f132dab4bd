"""Which loss a row of training has: Eq. 6 for a pair, Eq. 8 or 9 for each of its two images.

A row is one pair at one step. ``now`` and ``old`` hold what the policy says, and said before the round, of the winner
(index 0) and the loser (index 1): ``log_prob`` (2, rows) and, for DPOK, ``mean`` (2, rows, c, h, w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..diffusion.ddim import gaussian_kl
from .losses import ddpo_loss, dpo_loss, dpok_loss

if TYPE_CHECKING:
    from torch import Tensor

    from ..params.sections import Algo, Train


def needs_advantage(algo: Algo) -> bool:
    """Whether the loss weighs images by their normalised rewards."""
    return algo != "dpo"


def skips_shared_steps(algo: Algo) -> bool:
    """Whether steps that winner and loser share can be left out.

    In Eq. 6 their two ratios are the same, and the gradient is exactly zero; in Eq. 8 and 9 they add up.
    """
    return algo == "dpo"


def remembered(algo: Algo) -> tuple[str, ...]:
    """What has to be known of the policy before the round."""
    return ("log_prob", "mean") if algo == "dpok" else ("log_prob",)


def row_loss(
    algo: Algo, train: Train, now: dict[str, Tensor], old: dict[str, Tensor], advantage: Tensor, std: Tensor
) -> Tensor:
    """The loss of each row (rows,). ``advantage`` (2, rows); ``std`` (rows,), the noise of its step."""
    log_prob, log_prob_old = now["log_prob"], old["log_prob"]
    if algo == "dpo":
        return dpo_loss(log_prob[0], log_prob_old[0], log_prob[1], log_prob_old[1], train.dpo_beta, train.dpo_form)
    if algo == "ddpo":
        return ddpo_loss(log_prob, log_prob_old, advantage, train.ratio_clip).sum(0)
    kl = gaussian_kl(now["mean"].flatten(0, 1), old["mean"].flatten(0, 1), std.repeat(2)).view_as(log_prob)
    return dpok_loss(
        log_prob, log_prob_old, advantage, kl, train.dpok_alpha, train.dpok_beta, train.ratio_clip).sum(0)
