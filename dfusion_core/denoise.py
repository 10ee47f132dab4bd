"""Denoising with everything kept: plain (Eq. 1, with cross-attention maps on the way) and fused (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from . import ddim
from .attention import capturing, fusing
from .errors import BadNumber
from .masks import item_maps
from .policy import Policy
from .text import Text

Control = Callable[..., AbstractContextManager[Any]]  # `attention.fusing`, or a rival of it with the same arguments


@dataclass(frozen=True)
class Trajectories:
    """n denoised images: ``x`` (n, T + 1, c, h, w) from x_T to x_0, ``log_prob`` (n, T), and ``cross_map``
    (n, T, item, map_y, map_x), zero where a prompt has fewer items, or None where no map was asked for."""

    x: torch.Tensor
    log_prob: torch.Tensor
    cross_map: torch.Tensor | None


def check_finite(x: torch.Tensor, step: int, what: str, describe: Sequence[str]) -> None:
    """Raise BadNumber naming the image and the step where a value is NaN or infinite."""
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise BadNumber(
            f"{what} of {describe[row]} is NaN or infinite at t = {step}.",
            "If model.dtype is fp16, try fp32; a learning rate that is too high does this as well.")


def collect_maps(A_cross: torch.Tensor, tokens: Sequence[Sequence[tuple[int, ...]]], count: int = 0) -> torch.Tensor:
    """Maps of each image's items (n, item, y, x) from maps of all tokens (n, y, x, token), padded with zeros.

    There are ``count`` of them, or as many as the image with the most items has.
    """
    width = max(count, *(len(one) for one in tokens))
    maps = A_cross.new_zeros(len(tokens), width, *A_cross.shape[1:3])
    for row, items in enumerate(tokens):
        maps[row, :len(items)] = item_maps(A_cross[row:row + 1], items)[0]
    return maps


@torch.no_grad()
def denoise(
    policy: Policy, x_T: torch.Tensor, noise: torch.Tensor, text: Text, empty: Text,
    describe: Sequence[str], tokens: Sequence[Sequence[tuple[int, ...]]] | None = None, maps: str = "up_1",
    items: int = 0,
) -> Trajectories:
    """Eq. (1): denoise n images from x_T (n, c, h, w) with the step noises ``noise`` (n, T, c, h, w).

    Where ``tokens`` gives each image's items as token positions, their cross-attention maps are captured from the
    conditional half of the same forwards; ``items`` is the largest number of items of any prompt of the run.
    Raises BadNumber with the image's description and the step.
    """
    T, n = policy.schedule.num_steps, len(x_T)
    x_t = x_T.to(policy.device)
    states, log_probs, kept = [x_t], [], []
    for i in range(T):
        with capturing(policy.unet, maps) if tokens is not None else nullcontext() as tap:
            eps = policy.predict_noise(x_t, i, text, empty)
            if tap is not None and tokens is not None:
                kept.append(collect_maps(tap.maps()[n:], tokens, items).cpu())
        mean = ddim.mean(policy.schedule, i, x_t, eps)
        x_t = ddim.step(policy.schedule, i, x_t, eps, noise[:, i].to(policy.device))
        check_finite(x_t, T - i, "the latent", describe)
        log_probs.append(ddim.log_prob(x_t, mean, policy.schedule.std[i]))
        states.append(x_t)
    return Trajectories(
        torch.stack(states, dim=1).cpu(), torch.stack(log_probs, dim=1).cpu(),
        torch.stack(kept, dim=1) if kept else None)


@dataclass(frozen=True)
class References:
    """What fused targets attend to. ``x`` (n, T + 1, c, h, w) are the references' trajectories, ``mask``
    (n, T, map_y, map_x) their masks M_t, ``kv`` stored keys and values per step index and layer, or None:
    then the reference's rows ride along in the target's batch."""

    x: torch.Tensor
    mask: torch.Tensor
    kv: dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] | None = None


def _fused_noise(
    policy: Policy, x_t: torch.Tensor, i: int, text: Text, empty: Text, reference: References,
    layers: Sequence[str], control: Control,
) -> torch.Tensor:
    """Guided noise of n targets at step index i while they attend to their references (Eq. 5)."""
    n = len(x_t)
    M = reference.mask[:, i].to(policy.device)
    both_halves = torch.cat([M, M])  # the unconditional half uses the conditional half's mask
    if reference.kv is not None:
        with fusing(policy.unet, layers, both_halves, stored=reference.kv[i]):
            return policy.predict_noise(x_t, i, text, empty)
    rows = torch.cat([reference.x[:, i].to(policy.device), x_t])  # references first, targets behind
    first = torch.arange(n, device=policy.device)
    reference_rows = torch.cat([first, first + 2 * n])  # in each half of the guidance batch
    with control(policy.unet, layers, both_halves, reference_rows=reference_rows, target_rows=reference_rows + n):
        return policy.predict_noise(rows, i, text.repeat(2), empty)[n:]


@torch.no_grad()
def denoise_fused(
    policy: Policy, base_x: torch.Tensor, noise: torch.Tensor, text: Text, empty: Text,
    reference: References, layers: Sequence[str], first_step: int, last_step: int, describe: Sequence[str],
    control: Control = fusing,
) -> torch.Tensor:
    """Eq. (5): the targets' trajectories (n, T + 1, c, h, w).

    Until ``first_step`` a target is its base (same x_T, same noises, nothing fused), so it starts at the base's
    stored x_t there. ``noise`` (n, T, c, h, w) is the base's. ``control`` is
    used where the reference rides along, that is without stored keys and values. Raises BadNumber.
    """
    T = policy.schedule.num_steps
    start = T - first_step
    states = [base_x[:, i].to(policy.device) for i in range(start + 1)]
    for i in range(start, T):
        x_t, fused = states[-1], T - i >= last_step
        eps = (_fused_noise(policy, x_t, i, text, empty, reference, layers, control) if fused
               else policy.predict_noise(x_t, i, text, empty))
        states.append(ddim.step(policy.schedule, i, x_t, eps, noise[:, i].to(policy.device)))
        check_finite(states[-1], T - i, "the fused latent", describe)
    return torch.stack(states, dim=1).cpu()


@torch.no_grad()
def invert(
    policy: Policy, x_0: torch.Tensor, text: Text, empty: Text, describe: Sequence[str]
) -> torch.Tensor:
    """DDIM inversion: trajectories (n, T + 1, c, h, w) that are guessed backwards from x_0 (n, c, h, w).

    The paper's failing alternative to keeping the denoising steps (section 4.4). Raises BadNumber.
    """
    T = policy.schedule.num_steps
    states = [x_0.to(policy.device)]
    for i in reversed(range(T)):
        eps = policy.predict_noise(states[0], i, text, empty)
        states.insert(0, ddim.invert(policy.schedule, i, states[0], eps))
        check_finite(states[0], T - i, "the inverted latent", describe)
    return torch.stack(states, dim=1).cpu()
