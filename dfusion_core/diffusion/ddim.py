"""Eq. (1): the DDIM sampler as a Gaussian policy, p(x_{t-1} | x_t, c) = N(mean, std^2 I).

There are three indices. The paper counts t = T..1; arrays are indexed by i = T - t = 0..T-1; the network's input is
a scheduler timestep (951..1 for T = 20). The functions here take i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .tables import Steps, at_least_fp32, rows, take

PREDICTION_TYPES = ("epsilon", "v_prediction")
# Missing in a scheduler's file, these are defaults of its class, which are for its own way of sampling
LEFT_OPEN = frozenset({"timestep_spacing", "steps_offset", "clip_sample", "set_alpha_to_one"})


@dataclass(frozen=True)
class Schedule(Steps):
    """Per-step coefficients of Eq. (1), float64 on the CPU; entry i belongs to the step x_{T-i} -> x_{T-i-1}.

    timesteps (T,) int64: the network's input. abar_t, abar_prev (T,): cumulative signal variance before
    and after the step. std (T,): the noise added, in latent units; all > 0 when eta > 0.
    """

    timesteps: Tensor
    abar_t: Tensor
    abar_prev: Tensor
    std: Tensor
    eta: float
    prediction_type: str


def schedule(scheduler: Any, num_steps: int, eta: float) -> Schedule:
    """The coefficients of `num_steps` DDIM steps at noise weight `eta` (Table 3: 20 steps, eta 1).

    scheduler: a diffusers scheduler (not modified; PNDM and DDPM are possible too) or its config. Used are
    DDIM's timesteps under this config, the table of cumulative alphas, and the prediction type.
    Raises ValueError for eta < 0, a prediction type other than epsilon / v_prediction, for clip_sample or
    thresholding, which Eq. (1) does not have (latent models do not use them), and for timesteps that do not
    form a chain of steps with a density (see `_previous`).
    """
    ddim = _ddim_scheduler(scheduler)
    config = ddim.config
    if eta < 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    if config.prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}, got {config.prediction_type!r}")
    if config.clip_sample or config.thresholding:
        raise ValueError("the scheduler clips samples (clip_sample or thresholding); set both to false")
    ddim.set_timesteps(num_steps)
    timesteps = ddim.timesteps.cpu().long()
    abar = ddim.alphas_cumprod.double().cpu()
    previous = _previous(timesteps, num_steps, config)
    abar_t, abar_prev = abar[timesteps], abar[previous]
    if config.prediction_type == "epsilon" and bool((abar_t <= 0).any()):
        raise ValueError("a zero-SNR first step needs v_prediction: x_0 cannot be told from epsilon there")
    std = eta * ((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev)).sqrt()
    if eta and not bool((std.isfinite() & (std > 0)).all()):
        given = ", ".join(f"{key} {config[key]!r}" for key in ("beta_start", "beta_end", "beta_schedule"))
        raise ValueError(f"{given} in scheduler_config.json leave a step without noise, and without a density")
    return Schedule(timesteps, abar_t, abar_prev, std, eta, config.prediction_type)


def mean(schedule: Schedule, i: int | Tensor, x_t: Tensor, eps: Tensor, prediction_type: str | None = None) -> Tensor:
    """Eq. (1): mu(x_t, t, c) = sqrt(abar_prev) x_0 + sqrt(1 - abar_prev - std^2) eps.

    i: one step index, or (batch,) of them (training batches mix steps). x_t, eps: (batch, channel, y, x); eps
    is the U-Net's guided output, a velocity if prediction_type (default: the schedule's) is v_prediction.
    Returns float32 (float64 for float64 inputs).
    """
    x_t, eps = at_least_fp32(x_t), at_least_fp32(eps)
    abar_t, abar_prev = take(schedule.abar_t, i, x_t), take(schedule.abar_prev, i, x_t)
    # a step from zero SNR (abar_t = 0) does not depend on x_t, and rounding may leave -1e-17 under the root
    direction = (1 - abar_prev - take(schedule.std, i, x_t) ** 2).clamp(min=0).sqrt()
    a, s = abar_t.sqrt(), (1 - abar_t).sqrt()
    if (prediction_type or schedule.prediction_type) == "v_prediction":
        x_0, eps = a * x_t - s * eps, a * eps + s * x_t
    else:
        x_0 = (x_t - s * eps) / a
    return abar_prev.sqrt() * x_0 + direction * eps


def step(schedule: Schedule, i: int | Tensor, x_t: Tensor, eps: Tensor, noise: Tensor) -> Tensor:
    """Eq. (1): draw x_{t-1} = mean + std * noise. All (batch, channel, y, x); returns float32."""
    mu = mean(schedule, i, x_t, eps)
    return mu + schedule.std_at(i, mu) * noise.to(mu)


def invert(schedule: Schedule, i: int, x_prev: Tensor, eps: Tensor) -> Tensor:
    """DDIM inversion: x_t of the deterministic step that led to x_{t-1}, as if ``eps`` were the noise at x_t.

    eps: the U-Net's output at (x_{t-1}, t); inversion assumes that it equals that at (x_t, t), which
    is not exact. x_prev, eps: (batch, channel, y, x). Returns x_t in float32.
    """
    x_prev, eps = at_least_fp32(x_prev), at_least_fp32(eps)
    abar_t, abar_prev = (take(table, i, x_prev) for table in (schedule.abar_t, schedule.abar_prev))
    if schedule.prediction_type == "v_prediction":
        eps = abar_prev.sqrt() * eps + (1 - abar_prev).sqrt() * x_prev
    x_0 = (x_prev - (1 - abar_prev).sqrt() * eps) / abar_prev.sqrt()
    return abar_t.sqrt() * x_0 + (1 - abar_t).sqrt() * eps


def log_prob(x_prev: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Eq. (1): log N(x_prev | mean, std^2 I), nats per latent element: the *mean* over elements, not the sum.

    The mean (as in DDPO's and the authors' code) keeps ratios near 1 for 16,384 elements. x_prev must be the
    stored (rounded) state and is held constant: gradients reach the mean only. x_prev, mean: (batch, channel,
    y, x); std: scalar, (batch,) or (batch, 1, 1, 1). Returns (batch,). With std = 0 (eta = 0) there is no
    density: NaN.
    """
    mean, std = at_least_fp32(mean), rows(std, mean)
    z = (x_prev.detach().to(mean) - mean) / std
    return (-0.5 * z**2 - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).mean(1)


def gaussian_kl(mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    """Eq. (9): KL(N(mean, std^2) || N(mean_old, std^2)) = (mean - mean_old)^2 / (2 std^2), nats per element.

    mean, mean_old: (batch, channel, y, x); std as in `log_prob`. Returns (batch,).
    """
    mean = at_least_fp32(mean)
    return ((mean - mean_old.to(mean)) ** 2 / (2 * rows(std, mean) ** 2)).flatten(1).mean(1)


def sensitivity(schedule: Schedule) -> Tensor:
    """|dmu/deps| / std of Eq. (1) for each step index, float64 (T,).

    The gradient of a log-prob with respect to the U-Net's output (noise, or a velocity) is the step's standard normal
    noise times this, over the number of latent elements. At T = 20 and eta = 1 it is 5.4 at t = 2 and 0.6 to 1.1
    elsewhere, so that this timestep dominates Eq. 6. Infinite where std is 0.
    """
    abar_t, abar_prev, std = schedule.abar_t, schedule.abar_prev, schedule.std
    direction = (1 - abar_prev - std**2).clamp(min=0).sqrt()
    if schedule.prediction_type == "v_prediction":
        slope = abar_t.sqrt() * direction - abar_prev.sqrt() * (1 - abar_t).sqrt()
    else:
        slope = direction - (abar_prev * (1 - abar_t) / abar_t).sqrt()
    return slope.abs() / std


def _previous(timesteps: Tensor, num_steps: int, config: Any) -> Tensor:
    """The timestep at which each step ends; 0 for the last one.

    Raises ValueError if a step does not end at the timestep at which the next one begins (linspace spacing,
    trailing spacing with a number of steps that does not divide the timesteps), if the first is beyond the table of
    alphas, and if the last begins at timestep 0, where it has no noise and no density.
    """
    count: int = config.num_train_timesteps
    gap = count // num_steps
    given = f"timestep_spacing '{config.timestep_spacing}' and steps_offset {config.steps_offset} put {num_steps} steps"
    remedy = "set them to 'leading' and 1 in scheduler_config.json"
    if int(timesteps[0]) >= count:
        raise ValueError(f"{given} past timestep {count - 1}, the last there is: take fewer steps")
    if not torch.equal(timesteps[:-1] - gap, timesteps[1:]):
        divisor = f", or take a number of steps that divides {count}" if config.timestep_spacing == "trailing" else ""
        raise ValueError(f"{given} at unequal distances, and DDIM's formula takes each for {gap}: {remedy}{divisor}")
    if int(timesteps[-1]) == 0:
        raise ValueError(f"{given} so that the last begins at timestep 0, adds no noise and has no density: {remedy}")
    # The clamp to 0 (as in DDPO's and the authors' code) replaces "the step before the first timestep": with it the
    # last step keeps std > 0 and a finite log-prob even where set_alpha_to_one would make its std zero.
    return (timesteps - gap).clamp(min=0)


def _ddim_scheduler(scheduler: Any) -> Any:
    """A new DDIMScheduler: set_timesteps modifies it, and the given one may belong to a pipeline.

    Raises ValueError for a scheduler without a table of betas (EDM, flow matching).
    """
    from diffusers import DDIMScheduler

    config = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
    if "beta_schedule" not in config:
        raise ValueError("the scheduler has no beta_schedule, so it is not one of a discrete diffusion model")
    left_open = LEFT_OPEN.intersection(config.pop("_use_default_values", ()))
    given = {name: value for name, value in config.items() if name not in left_open}
    build: Any = DDIMScheduler.from_config
    # PNDM and Euler configs have no clip_sample, and DDIM's defaults for it and the offset are made for pixel models
    return build({"clip_sample": False, "steps_offset": 1, **given})
