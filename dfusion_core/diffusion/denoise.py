"""Eq. (1): denoising images and storing their trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ..attention.control import capturing
from ..attention.masks import item_maps
from . import steps
from .finite import check_finite

if TYPE_CHECKING:
    from ..models.text import Text

Tokens = Sequence[tuple[int, ...]]  # of one prompt: for each item its token positions


class Denoiser(Protocol):
    """The interface of a policy that denoising uses."""

    unet: torch.nn.Module
    schedule: steps.AnySchedule
    device: torch.device

    def predict_noise(self, x_t: torch.Tensor, i: int, text: Text) -> torch.Tensor:
        """Guided prediction (n, c, h, w), float32, at step index i."""
        ...


@dataclass(frozen=True)
class Trajectories:
    """n denoised images.

    x: (n, T + 1, c, h, w), the latents x_T ... x_0. log_prob: (n, T), nats per latent element. cross_map:
    (n, T, item, map_y, map_x), attention probabilities, zero where a prompt has fewer items; None if not captured.
    """

    x: torch.Tensor
    log_prob: torch.Tensor
    cross_map: torch.Tensor | None


@dataclass(frozen=True)
class Capture:
    """The cross-attention maps to capture: those of ``layer``, for each image's items.

    tokens: one entry per image. items: size of the item axis, the largest number of items of any prompt of the run.
    """

    layer: str
    tokens: Sequence[Tokens]
    items: int


def collect_maps(A_cross: torch.Tensor, capture: Capture) -> torch.Tensor:
    """Maps of each image's items (n, item, y, x) from maps of all tokens (n, y, x, token), padded with zeros."""
    maps = A_cross.new_zeros(len(A_cross), capture.items, *A_cross.shape[1:3])
    for row, tokens in enumerate(capture.tokens):
        maps[row, : len(tokens)] = item_maps(A_cross[row : row + 1], tokens)[0]
    return maps


@torch.no_grad()
def denoise(
    policy: Denoiser, x_T: torch.Tensor, noise: torch.Tensor, text: Text, capture: Capture | None = None
) -> Trajectories:
    """Eq. (1): denoise n images from x_T (n, c, h, w) with the step noises ``noise`` (n, T, c, h, w).

    text: n prompts. Maps are captured from the conditional half of the same forward passes. Raises NotFinite.
    """
    T, n = policy.schedule.num_steps, len(x_T)
    x_t = x_T.to(policy.device)
    states, log_probs, maps = [x_t], [], []
    with capturing(policy.unet, capture.layer) if capture is not None else nullcontext() as tap:
        for i in range(T):
            eps = policy.predict_noise(x_t, i, text)
            if tap is not None and capture is not None:
                maps.append(collect_maps(tap.maps()[-n:], capture).cpu())
            mean = steps.mean(policy.schedule, i, x_t, eps)
            x_t = steps.step(policy.schedule, i, x_t, eps, noise[:, i].to(policy.device))
            check_finite(x_t, "the latent", T - i)
            log_probs.append(steps.log_prob(x_t, mean, policy.schedule.std[i]))
            states.append(x_t)
    return Trajectories(
        torch.stack(states, dim=1).cpu(),
        torch.stack(log_probs, dim=1).cpu(),
        torch.stack(maps, dim=1) if maps else None,
    )
