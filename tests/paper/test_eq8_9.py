"""Eq. (8), DDPO: -r grad(log p) A; Eq. (9), DPOK: -alpha grad(log p) A + beta grad KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfusion_core.diffusion.ddim import gaussian_kl, log_prob
from dfusion_core.training.losses import ddpo_loss, dpok_loss


def d(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logs(*ratios: float) -> Tensor:
    return d(*ratios).log()


def test_ddpo_hand_numbers() -> None:
    """clip 0.1. A = 2: r = 1.05 -> -2.1; r = 1.3 -> max(-2.6, -2.2) = -2.2; r = 0.5 -> max(-1, -1.8) = -1.
    A = -2: r = 1.3 -> max(2.6, 2.2) = 2.6; r = 0.5 -> max(1.0, 1.8) = 1.8.
    """
    ratio, A = logs(1.05, 1.3, 0.5, 1.3, 0.5), d(2, 2, 2, -2, -2)
    expected = d(-2.1, -2.2, -1.0, 2.6, 1.8)
    torch.testing.assert_close(ddpo_loss(ratio, torch.zeros_like(ratio), A, 0.1), expected)


def test_ddpo_gradient_is_the_printed_one_inside_the_clip_range() -> None:
    lp, old, A = d(0.35, -0.2).requires_grad_(), d(0.3, -0.15), d(1.5, -0.7)
    ddpo_loss(lp, old, A, clip=0.2).sum().backward()
    assert lp.grad is not None
    torch.testing.assert_close(lp.grad, (-(lp - old).exp() * A).detach())
    assert torch.autograd.gradcheck(lambda x: ddpo_loss(x, old, A, 0.2), (lp,))


def test_ddpo_stops_only_where_the_policy_went_far_enough() -> None:
    """No gradient where the ratio already moved with the advantage; always where it moved against it."""
    lp = logs(1.3, 0.5, 1.3, 0.5).requires_grad_()
    ddpo_loss(lp, torch.zeros_like(lp), d(1, 1, -1, -1), 0.1).sum().backward()
    assert lp.grad is not None and (lp.grad != 0).tolist() == [False, True, True, False]


def test_dpok_hand_numbers() -> None:
    """alpha .99, beta .01, r = 1.05, A = 2, KL = 0.5: .99 * (-2.1) + .01 * 0.5 = -2.074."""
    loss = dpok_loss(logs(1.05), d(0), d(2), d(0.5), alpha=0.99, beta=0.01, clip=0.1)
    torch.testing.assert_close(loss, d(-2.074))


def test_dpok_gradient_at_ratio_1() -> None:
    """Through a real Gaussian step: d/dmean of Eq. (9); the KL to the old mean has no slope at the start."""
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, std, A = torch.zeros_like(x).requires_grad_(), d(0.5).squeeze(), d(1.5, -0.5)
    old = mean.detach()
    lp = log_prob(x, mean, std)
    dpok_loss(lp, lp.detach(), A, gaussian_kl(mean, old, std), 0.99, 0.01, 1e-4).sum().backward()
    assert mean.grad is not None
    expected = -0.99 * A.view(-1, 1, 1, 1) * (x - old) / std**2 / 12
    torch.testing.assert_close(mean.grad, expected)


@pytest.mark.parametrize("shift", [0.3, -1.1])
def test_kl_term_pulls_back(shift: float) -> None:
    """grad of (mean - old)^2 / (2 std^2): (mean - old) / std^2 per element, over the number of elements."""
    old = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    mean = (old + shift).requires_grad_()
    gaussian_kl(mean, old, d(0.5).squeeze()).backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, torch.full_like(old, shift / 0.25 / 4))


def test_old_policy_gets_no_gradient() -> None:
    lp, old = d(0.1).requires_grad_(), d(0.0).requires_grad_()
    ddpo_loss(lp, old, d(1), 10.0).backward()
    assert old.grad is None and lp.grad is not None
