"""Eq. (6), (8), (9): the losses of DPO, DDPO and DPOK, one value per row (an image or pair at one step).

All log-probs are those of `ddim.log_prob` (nats per latent element), (row,). `_old` is the policy before the
round, without fusion and without gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

DpoForm = Literal["ratio", "log_ratio"]


def dpo_loss(
    log_prob_w: Tensor,
    log_prob_w_old: Tensor,
    log_prob_l: Tensor,
    log_prob_l_old: Tensor,
    beta: float,
    form: DpoForm = "ratio",
) -> Tensor:
    """Eq. (6): -log sigmoid[ beta p(x^a)/p_old(x^a) - beta p(x^b)/p_old(x^b) ]; w: target, l: base.

    form "log_ratio" takes the logarithm of both ratios (D3PO, Wallace et al.); Eq. (6) prints none. The two are
    equal to first order at ratio 1, where the loss is log 2. Returns (row,).
    """
    log_ratio_w, log_ratio_l = log_prob_w - log_prob_w_old.detach(), log_prob_l - log_prob_l_old.detach()
    if form == "ratio":
        return -logsigmoid(beta * (log_ratio_w.exp() - log_ratio_l.exp()))
    if form != "log_ratio":
        raise ValueError(f"the form of Eq. (6) must be 'ratio' or 'log_ratio', got {form!r}")
    return -logsigmoid(beta * (log_ratio_w - log_ratio_l))


def ddpo_loss(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Eq. (8): policy gradient, clipped as in PPO: max(-A r, -A clamp(r, 1-clip, 1+clip)).

    r = p / p_old; advantage A: the normalised reward, (row,). Its gradient inside the clip range is Eq. (8)'s
    -r grad(log p) A. Returns (row,).
    """
    ratio = (log_prob - log_prob_old.detach()).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def dpok_loss(
    log_prob: Tensor,
    log_prob_old: Tensor,
    advantage: Tensor,
    kl: Tensor,
    alpha: float,
    beta: float,
    clip: float,
) -> Tensor:
    """Eq. (9): alpha * policy term + beta * KL(p || p_old); paper: alpha 0.99, beta 0.01.

    The policy term is that of `ddpo_loss` (appendix C: "DPOK also employs the clipping mechanism in PPO"),
    whose gradient at ratio 1 is the printed -grad(log p) A. kl: `ddim.gaussian_kl`, (row,). Returns (row,).
    """
    return alpha * ddpo_loss(log_prob, log_prob_old, advantage, clip) + beta * kl
