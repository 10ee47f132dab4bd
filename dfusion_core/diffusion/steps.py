"""Eq. (1) for both processes: `ddim.py` for discrete diffusion, `flow.py` for rectified flow.

The type of the schedule selects the process; callers do not depend on it.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from . import ddim, flow
from .ddim import gaussian_kl as gaussian_kl
from .ddim import log_prob as log_prob

AnySchedule: TypeAlias = ddim.Schedule | flow.FlowSchedule


def mean(schedule: AnySchedule, i: int | Tensor, x_t: Tensor, out: Tensor) -> Tensor:
    """mu(x_t, t, c) of the step at index i. out: the model's guided output, noise or a velocity."""
    if isinstance(schedule, flow.FlowSchedule):
        return flow.mean(schedule, i, x_t, out)
    return ddim.mean(schedule, i, x_t, out)


def step(schedule: AnySchedule, i: int | Tensor, x_t: Tensor, out: Tensor, noise: Tensor) -> Tensor:
    """Draw x_{t-1} = mean + std * noise. All (batch, channel, y, x); returns float32."""
    mu = mean(schedule, i, x_t, out)
    return mu + schedule.std_at(i, mu) * noise.to(mu)


def invert(schedule: AnySchedule, i: int, x_prev: Tensor, out: Tensor) -> Tensor:
    """x_t of the deterministic step that led to x_{t-1}."""
    if isinstance(schedule, flow.FlowSchedule):
        return flow.invert(schedule, i, x_prev, out)
    return ddim.invert(schedule, i, x_prev, out)


def sensitivity(schedule: AnySchedule) -> Tensor:
    """|dmu/dout| / std for each step index, float64 (T,)."""
    if isinstance(schedule, flow.FlowSchedule):
        return flow.sensitivity(schedule)
    return ddim.sensitivity(schedule)
