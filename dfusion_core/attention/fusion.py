"""Eq. (5): self-attention fusion: the reference's keys and values inside the mask, the target's outside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. (5): M_hat, the mask M_t at the resolution of a layer, by nearest neighbour.

    The rule of `F.interpolate`, which the authors' code uses: from 16 to 8 it keeps every second row and
    column. mask: bool (row, y, x). Returns bool (row, *size).
    """
    return interpolate(mask[:, None].float(), size=size, mode="nearest")[:, 0].bool()


def flatten(M_hat: Tensor) -> Tensor:
    """Eq. (5): Flatten(M_hat), (row, y, x) -> (row, 1, y*x, 1): it spreads over heads and channels."""
    return M_hat.flatten(1)[:, None, :, None]


def fuse_kv(K_r: Tensor, V_r: Tensor, K_a: Tensor, V_a: Tensor, M_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (5): K_new = K^r * Flatten(M_hat) + K^a * (1 - Flatten(M_hat)), and the same for V.

    K, V: (row, head, token, channel) with token = y*x in row-major order; M_hat: bool (row, y, x).
    A selection and not the printed sum: equal for a binary mask, and a NaN in an unused reference position
    stays out.
    """
    m = flatten(M_hat)
    return torch.where(m, K_r, K_a), torch.where(m, V_r, V_a)
