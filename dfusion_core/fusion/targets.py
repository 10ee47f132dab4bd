"""Eq. (5): denoising targets that attend to their references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..attention.control import fusing
from ..diffusion.finite import check_finite
from ..diffusion.steps import step

if TYPE_CHECKING:
    from ..models.policy import Policy
    from ..models.text import Text

Control = Callable[..., AbstractContextManager[Any]]  # `attention.fusing`, or a variant with the same arguments
StoredKV = dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]  # by step index and module


@dataclass(frozen=True)
class References:
    """The references of n targets.

    x: (n, T + 1, c, h, w), the references' trajectories. mask: bool (n, T, map_y, map_x), M_t. kv: stored keys and
    values by step index and module; None: they are recomputed in the batch of the targets.
    """

    x: torch.Tensor
    mask: torch.Tensor
    kv: StoredKV | None = None


@contextmanager
def fused_prediction(
    policy: Policy, text: Text, reference: References, first: int, layers: Sequence[str], control: Control
) -> Iterator[Callable[[torch.Tensor, int], torch.Tensor]]:
    """Yields (x_t, i) -> guided noise prediction of n targets while they attend to their references (Eq. 5).

    first: the first step index. Both guidance halves use the mask of the conditional half. Attention processors are
    replaced once, and the mask and the stored keys and values of each step are written into the same tensors: a
    compiled U-Net would otherwise be compiled again at every step (tests/stages/test_compiled.py counts the graphs).
    """
    n = len(text)
    M = reference.mask[:, first].to(policy.device).repeat(policy.halves, 1, 1)

    def write_mask(i: int) -> None:
        M.copy_(reference.mask[:, i].repeat(policy.halves, 1, 1))

    if reference.kv is not None:
        kv, current = reference.kv, dict(reference.kv[first])

        def from_store(x_t: torch.Tensor, i: int) -> torch.Tensor:
            write_mask(i)
            current.update(kv[i])
            return policy.predict_noise(x_t, i, text)

        with fusing(policy.unet, layers, M, stored=current):
            yield from_store
        return

    def in_lock_step(x_t: torch.Tensor, i: int) -> torch.Tensor:
        write_mask(i)
        rows = torch.cat([reference.x[:, i].to(policy.device), x_t])  # references first, then targets
        return policy.predict_noise(rows, i, text.repeat(2))[n:]

    place = torch.arange(n, device=policy.device)
    reference_rows = torch.cat([place + 2 * n * half for half in range(policy.halves)])  # in each half of guidance
    with control(policy.unet, layers, M, reference_rows=reference_rows, target_rows=reference_rows + n):
        yield in_lock_step


@torch.no_grad()
def denoise_fused(
    policy: Policy,
    base_x: torch.Tensor,
    noise: torch.Tensor,
    text: Text,
    reference: References,
    layers: Sequence[str],
    steps: range,
    control: Control = fusing,
) -> torch.Tensor:
    """Eq. (5): the targets' trajectories (n, T + 1, c, h, w).

    base_x: (n, T + 1, c, h, w), the bases' trajectories; noise: (n, T, c, h, w), the bases' step noises; steps:
    the step indices that are fused. Before them a target equals its base.
    ``control`` is used if keys and values are recomputed in the batch. Raises NotFinite.
    """
    T = policy.schedule.num_steps
    states = [base_x[:, i].to(policy.device) for i in range(steps.start + 1)]

    def advance(i: int, eps: torch.Tensor) -> None:
        states.append(step(policy.schedule, i, states[-1], eps, noise[:, i].to(policy.device)))
        check_finite(states[-1], "the fused latent", T - i)

    with fused_prediction(policy, text, reference, steps.start, layers, control) as predict:
        for i in steps:
            advance(i, predict(states[-1], i))
    for i in range(steps.stop, T):
        advance(i, policy.predict_noise(states[-1], i, text))
    return torch.stack(states, dim=1).cpu()
