"""Coefficients of steps, taken from tables and shaped to multiply latents. Arithmetic is in fp32 or better."""

from __future__ import annotations

import torch
from torch import Tensor


class Steps:
    """Base of the coefficients of both processes: T steps, each with the model's timestep and the std of the noise."""

    timesteps: Tensor
    std: Tensor

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.timesteps)

    def step_index(self, t: int) -> int:
        """Array index i = T - t of the paper's step t (T..1)."""
        if not 1 <= t <= self.num_steps:
            raise ValueError(f"step t = {t} is outside {self.num_steps}..1")
        return self.num_steps - t

    def std_at(self, i: int | Tensor, like: Tensor) -> Tensor:
        """std of step i, shaped to multiply `like` (batch, channel, y, x)."""
        return take(self.std, i, like)


def take(table: Tensor, i: int | Tensor, like: Tensor) -> Tensor:
    """Entry i of a table, in the dtype and on the device of `like`: a scalar, or (batch, 1, 1, 1)."""
    if isinstance(i, Tensor) and i.ndim == 1:
        return rows(table[i.to(table.device)], like)
    return table[int(i)].to(like.dtype)  # a 0-dim CPU tensor multiplies tensors on any device


def rows(std: Tensor, like: Tensor) -> Tensor:
    """A scalar, or one number per row as (batch, 1, 1, 1), in the dtype and on the device of `like`."""
    if std.ndim == 0:
        return std.to(like.dtype)
    return std.to(like.dtype).to(like.device).view(len(std), *[1] * (like.ndim - 1))


def at_least_fp32(x: Tensor) -> Tensor:
    """``x`` in fp32, or as it is in fp64: scheduler arithmetic is not done in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
