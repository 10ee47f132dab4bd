"""The loss of a training term: Eq. 6 for a pair, Eq. 8 or 9 for each of its two images.

A term is one pair at one timestep. ``now`` and ``old`` hold the log-probs (2, term) of winner and loser under the
trained policy and under the policy before the round; for DPOK also the means, (2 * term, c, h, w) and (2, term, c, h,
w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..diffusion.ddim import gaussian_kl
from .losses import ddpo_loss, dpo_loss, dpok_loss

if TYPE_CHECKING:
    from torch import Tensor

    from ..params.sections import Algo, Train


def needs_advantage(algo: Algo) -> bool:
    """Whether the loss weights images by their normalised rewards."""
    return algo != "dpo"


def skips_shared_steps(algo: Algo) -> bool:
    """Whether steps that winner and loser share can be left out.

    In Eq. 6 the two ratios cancel, and the gradient is exactly zero; in Eq. 8 and 9 they do not.
    """
    return algo == "dpo"


def old_values(algo: Algo) -> tuple[str, ...]:
    """The values of the policy before the round that the loss needs."""
    return ("log_prob", "mean") if algo == "dpok" else ("log_prob",)


def row_loss(
    algo: Algo, train: Train, now: dict[str, Tensor], old: dict[str, Tensor], advantage: Tensor, std: Tensor
) -> Tensor:
    """The loss of each term (term,). ``advantage`` (2, term); ``std`` (term,), std of the step."""
    log_prob, log_prob_old = now["log_prob"], old["log_prob"]
    if algo == "dpo":
        return dpo_loss(log_prob[0], log_prob_old[0], log_prob[1], log_prob_old[1], train.dpo_beta, train.dpo_form)
    if algo == "ddpo":
        return ddpo_loss(log_prob, log_prob_old, advantage, train.ratio_clip).sum(0)
    kl = gaussian_kl(now["mean"], old["mean"].flatten(0, 1), std.repeat(2)).view_as(log_prob)
    return dpok_loss(log_prob, log_prob_old, advantage, kl, train.dpok_alpha, train.dpok_beta, train.ratio_clip).sum(0)


def timestep_weights(train: Train, sensitivity: Tensor, steps: range) -> Tensor | None:
    """Weights (T,) of the terms by step index, or None if all are 1 (the paper).

    ``train.timestep_weight: equal`` divides by the sensitivity of the log-prob to the predicted noise
    (`ddim.sensitivity`), so that all timesteps have the same influence; the mean weight of the trained steps is 1.
    """
    if train.timestep_weight == "none":
        return None
    weights = torch.zeros_like(sensitivity)
    chosen = torch.tensor(steps)
    weights[chosen] = 1 / sensitivity[chosen]
    return weights / weights[chosen].mean()
