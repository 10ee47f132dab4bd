"""Eq. (1) for rectified flows: the sampler of SD 3 and FLUX as a Gaussian policy, N(mean, std^2 I).

A latent at noise level s is x_s = (1 - s) x_0 + s eps, and the model predicts the velocity v = eps - x_0. So x_0 = x_s
- s v and eps = x_s + (1 - s) v, and the following step to the lower level s' preserves the marginal of x_s' for every
std between 0 and s' (docs/method.md derives it):

    x_s' = (1 - s') x_0 + sqrt(s'^2 - std^2) eps + std z

At std = 0 it is Euler's step of the ODE. The functions are those of `ddim.py` and take the step index i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .tables import Steps, at_least_fp32, take

LAST_SIGMA = 0.03  # level at which the last step ends, about the noise that DDIM leaves in an image of Stable Diffusion
NUMBERS = {  # of a scheduler's config, with their limits
    "num_train_timesteps": (1, 1_000_000),
    "shift": (1e-3, 1e3),
    "base_shift": (-100, 100),
    "max_shift": (-100, 100),
    "base_image_seq_len": (1, 1_000_000),
    "max_image_seq_len": (1, 1_000_000),
}
OTHER_PATHS = ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling")


@dataclass(frozen=True)
class FlowSchedule(Steps):
    """Per-step coefficients, float64 on the CPU; entry i belongs to the step x_{T-i} -> x_{T-i-1}.

    timesteps (T,) float32: the model's input, ``sigma_t`` times the scheduler's number of training timesteps.
    sigma_t, sigma_prev (T,): noise level before and after the step. std (T,): the noise added, all > 0 when eta > 0.
    """

    timesteps: Tensor
    sigma_t: Tensor
    sigma_prev: Tensor
    std: Tensor
    eta: float
    prediction_type: str = "flow"


def schedule(scheduler: Any, num_steps: int, eta: float, tokens: int = 0) -> FlowSchedule:
    """The coefficients of `num_steps` steps at noise weight `eta`.

    scheduler: diffusers' FlowMatchEulerDiscreteScheduler (not modified) or its config; its time shift is applied to
    the levels 1, (T-1)/T, ..., 1/T. tokens: image tokens of the model, which a dynamic shift depends on. The last step
    ends at LAST_SIGMA and not at 0, where it would have no noise and no density. Raises ValueError for eta < 0 or
    > 1, and for a scheduler that is not a rectified flow or has another path.
    """
    config = _config(scheduler)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    sigma_t = shifted(torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64), config, tokens)
    end = min(LAST_SIGMA, float(sigma_t[-1]) / 2)
    sigma_prev = torch.cat([sigma_t[1:], sigma_t.new_tensor([end])])
    timesteps = (sigma_t * config["num_train_timesteps"]).float()
    return FlowSchedule(timesteps, sigma_t, sigma_prev, eta * ancestral_std(sigma_t, sigma_prev), eta)


def shifted(sigma: Tensor, config: Mapping[str, Any], tokens: int) -> Tensor:
    """Evenly spaced noise levels after the time shift of the model's scheduler, static or dependent on ``tokens``."""
    if not config["use_dynamic_shifting"]:
        shift = float(config["shift"])
        return shift * sigma / (1 + (shift - 1) * sigma)
    if not config["base_image_seq_len"] < config["max_image_seq_len"]:
        raise ValueError("scheduler_config.json has a base_image_seq_len that is not below max_image_seq_len")
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    mu = config["base_shift"] + slope * (tokens - config["base_image_seq_len"])
    factor = math.exp(mu) if config["time_shift_type"] == "exponential" else float(mu)
    if not 0 < factor < math.inf:
        raise ValueError(f"scheduler_config.json shifts the levels of {tokens} image tokens by the factor {factor}")
    return factor / (factor + (1 / sigma - 1))


def ancestral_std(sigma_t: Tensor, sigma_prev: Tensor) -> Tensor:
    """The std of the step that samples from q(x_s' | x_s, x_0) of the forward process (eta = 1).

    With r = s' (1 - s) / (s (1 - s')), the ratio of the noise-to-signal ratios, it is s' sqrt(1 - r^2).
    """
    ratio = sigma_prev * (1 - sigma_t) / (sigma_t * (1 - sigma_prev))
    return sigma_prev * (1 - ratio**2).clamp(min=0).sqrt()


def mean(schedule: FlowSchedule, i: int | Tensor, x_t: Tensor, v: Tensor) -> Tensor:
    """Eq. (1): mu(x_t, t, c) = (1 - s') x_0 + sqrt(s'^2 - std^2) eps.

    i: one step index, or (batch,) of them. x_t, v: (batch, channel, y, x); v is the guided velocity. Returns float32
    (float64 for float64 inputs).
    """
    x_t, v = at_least_fp32(x_t), at_least_fp32(v)
    s, s_prev = take(schedule.sigma_t, i, x_t), take(schedule.sigma_prev, i, x_t)
    direction = (s_prev**2 - take(schedule.std, i, x_t) ** 2).clamp(min=0).sqrt()
    return (1 - s_prev) * (x_t - s * v) + direction * (x_t + (1 - s) * v)


def invert(schedule: FlowSchedule, i: int, x_prev: Tensor, v: Tensor) -> Tensor:
    """Euler's step of the ODE backwards: x_t of the deterministic step that led to x_{t-1}, assuming that ``v`` is the
    velocity at x_t. x_prev, v: (batch, channel, y, x). Returns x_t in float32."""
    x_prev, v = at_least_fp32(x_prev), at_least_fp32(v)
    return x_prev + (take(schedule.sigma_t, i, x_prev) - take(schedule.sigma_prev, i, x_prev)) * v


def sensitivity(schedule: FlowSchedule) -> Tensor:
    """|dmu/dv| / std of Eq. (1) for each step index, float64 (T,); infinite where std is 0. See `ddim.sensitivity`."""
    s, s_prev, std = schedule.sigma_t, schedule.sigma_prev, schedule.std
    direction = (s_prev**2 - std**2).clamp(min=0).sqrt()
    return (direction * (1 - s) - (1 - s_prev) * s).abs() / std


def _config(scheduler: Any) -> dict[str, Any]:
    """The scheduler's config with its defaults. Raises ValueError for one of another kind."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    given = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
    if "beta_schedule" in given or "shift" not in given:
        name = given.get("_class_name") or type(scheduler).__name__
        raise ValueError(f"the scheduler ({name}) is no rectified flow: FlowMatchEulerDiscreteScheduler is needed")
    _check_numbers(given)
    config = dict(FlowMatchEulerDiscreteScheduler.from_config(given).config)
    if other := [name for name in OTHER_PATHS if config[name]] or (
        ["shift_terminal"] if config["shift_terminal"] else []
    ):
        raise ValueError(f"scheduler_config.json sets {', '.join(other)}, which this sampler has no room for")
    return config


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Raise ValueError for a number in the file that is none, or that no model has."""
    for key, (least, most) in NUMBERS.items():
        value = given.get(key, least)
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(f"scheduler_config.json has {key} {value!r}, and not a number from {least} to {most}")
