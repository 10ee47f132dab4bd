"""DDIM inversion: the paper's ablation of storing the denoising steps (section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..diffusion import steps
from ..diffusion.finite import check_finite

if TYPE_CHECKING:
    from ..models.policy import Policy
    from ..models.text import Text


@torch.no_grad()
def invert(policy: Policy, x_0: torch.Tensor, text: Text) -> torch.Tensor:
    """Trajectories (n, T + 1, c, h, w) reconstructed backwards from x_0 (n, c, h, w). Raises NotFinite."""
    T = policy.schedule.num_steps
    states = [x_0.to(policy.device)]
    for i in reversed(range(T)):
        eps = policy.predict_noise(states[0], i, text)
        states.insert(0, steps.invert(policy.schedule, i, states[0], eps))
        check_finite(states[0], "the inverted latent", T - i)
    return torch.stack(states, dim=1).cpu()
