"""Denoising with everything kept: plain (Eq. 1, with cross-attention maps on the way) and fused (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..attention.control import capturing, fusing
from ..attention.masks import item_maps
from . import ddim
from .finite import check_finite

if TYPE_CHECKING:
    from ..models.policy import Policy
    from ..models.text import Text

Control = Callable[..., AbstractContextManager[Any]]  # `attention.fusing`, or a rival of it with the same arguments


@dataclass(frozen=True)
class Trajectories:
    """n denoised images: ``x`` (n, T + 1, c, h, w) from x_T to x_0, ``log_prob`` (n, T), and ``cross_map``
    (n, T, item, map_y, map_x), zero where a prompt has fewer items, or None where no map was asked for."""

    x: torch.Tensor
    log_prob: torch.Tensor
    cross_map: torch.Tensor | None


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
    with capturing(policy.unet, maps) if tokens is not None else nullcontext() as tap:
        for i in range(T):
            eps = policy.predict_noise(x_t, i, text, empty)
            if tap is not None and tokens is not None:
                kept.append(collect_maps(tap.maps()[n:], tokens, items).cpu())
            mean = ddim.mean(policy.schedule, i, x_t, eps)
            x_t = ddim.step(policy.schedule, i, x_t, eps, noise[:, i].to(policy.device))
            check_finite(x_t, "the latent", describe, T - i)
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


@contextmanager
def fused_prediction(
    policy: Policy, text: Text, empty: Text, reference: References, first: int, layers: Sequence[str], control: Control,
) -> Iterator[Callable[[torch.Tensor, int], torch.Tensor]]:
    """(x_t, i) -> guided noise of n targets at step index i while they attend to their references (Eq. 5).

    ``first`` is the first step index. Attention is changed once for all steps and what differs between them is
    overwritten in place, so that a compiled U-Net stays the same one.
    """
    n = len(text)
    M = reference.mask[:, first].to(policy.device).repeat(2, 1, 1)  # both halves use the conditional half's mask

    def next_mask(i: int) -> None:
        M.copy_(reference.mask[:, i].repeat(2, 1, 1))

    if reference.kv is not None:
        kv, stored = reference.kv, dict(reference.kv[first])

        def with_stored(x_t: torch.Tensor, i: int) -> torch.Tensor:
            next_mask(i)
            stored.update(kv[i])
            return policy.predict_noise(x_t, i, text, empty)

        with fusing(policy.unet, layers, M, stored=stored):
            yield with_stored
        return

    def in_lock_step(x_t: torch.Tensor, i: int) -> torch.Tensor:
        next_mask(i)
        rows = torch.cat([reference.x[:, i].to(policy.device), x_t])  # references first, targets behind
        return policy.predict_noise(rows, i, text.repeat(2), empty)[n:]

    place = torch.arange(n, device=policy.device)
    reference_rows = torch.cat([place, place + 2 * n])  # in each half of the guidance batch
    with control(policy.unet, layers, M, reference_rows=reference_rows, target_rows=reference_rows + n):
        yield in_lock_step


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
    start, stop = T - first_step, T - last_step + 1
    states = [base_x[:, i].to(policy.device) for i in range(start + 1)]

    def advance(i: int, eps: torch.Tensor) -> None:
        states.append(ddim.step(policy.schedule, i, states[-1], eps, noise[:, i].to(policy.device)))
        check_finite(states[-1], "the fused latent", describe, T - i)

    with fused_prediction(policy, text, empty, reference, start, layers, control) as fused:
        for i in range(start, stop):
            advance(i, fused(states[-1], i))
    for i in range(stop, T):
        advance(i, policy.predict_noise(states[-1], i, text, empty))
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
        check_finite(states[0], "the inverted latent", describe, T - i)
    return torch.stack(states, dim=1).cpu()
