"""How the timesteps of Eq. 6 share its gradient, and `train.timestep_weight`, against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from dfusion_core.diffusion import ddim
from dfusion_core.params.sections import Train
from dfusion_core.training.objectives import row_loss, timestep_weights

T = 20
SHAPE = (4, 8, 8)


def sd(prediction_type: str = "epsilon") -> ddim.Schedule:
    """Stable Diffusion's schedule at the paper's settings."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler = DDIMScheduler(**config, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)
    return ddim.schedule(scheduler, num_steps=T, eta=1.0)


def gradient_of_log_prob(schedule: ddim.Schedule, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """d log p(x_{t-1} | x_t) / d prediction by autograd, and the step's standard normal noise."""
    g = torch.Generator().manual_seed(i)
    x_t, prediction, z = (torch.randn(1, *SHAPE, generator=g, dtype=torch.float64) for _ in range(3))
    prediction.requires_grad_()
    x_prev = ddim.step(schedule, i, x_t, prediction.detach(), z)
    log_prob = ddim.log_prob(x_prev, ddim.mean(schedule, i, x_t, prediction), schedule.std[i])
    return torch.autograd.grad(log_prob.sum(), prediction)[0], z


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sensitivity_is_what_autograd_says(prediction_type: str) -> None:
    schedule = sd(prediction_type)
    expected = ddim.sensitivity(schedule)
    for i in range(T):
        gradient, z = gradient_of_log_prob(schedule, i)
        ratio = gradient.abs() * math.prod(SHAPE) / z.abs()
        torch.testing.assert_close(ratio, expected[i].expand_as(ratio), rtol=1e-4, atol=0)


def test_t_2_outweighs_the_others() -> None:
    """At the paper's settings: 5.4 at t = 2, 0.6 to 1.1 elsewhere."""
    sensitivity = ddim.sensitivity(sd())
    assert float(sensitivity[T - 2]) == pytest.approx(5.4, abs=0.05)
    others = torch.cat([sensitivity[: T - 2], sensitivity[T - 1 :]])
    assert others.min() >= 0.6 and others.max() < 1.15


@pytest.mark.parametrize(("first", "last"), [(T, 1), (18, 3)])
def test_equal_weights_even_the_timesteps_out(first: int, last: int) -> None:
    """The expected size of a term's gradient is the same at each trained timestep; the mean weight is 1."""
    schedule, steps = sd(), range(T - first, T - last + 1)
    weights = timestep_weights(Train(timestep_weight="equal"), ddim.sensitivity(schedule), steps)
    assert weights is not None
    assert float(weights[list(steps)].mean()) == pytest.approx(1)
    assert not weights[[i for i in range(T) if i not in steps]].any()
    sizes = []
    for i in steps:
        gradient, z = gradient_of_log_prob(schedule, i)
        sizes.append(float((weights[i] * gradient / z).abs().mean()))  # over the noise, which differs by timestep
    assert max(sizes) == pytest.approx(min(sizes), rel=1e-4)
    assert timestep_weights(Train(), ddim.sensitivity(schedule), steps) is None


def test_weighted_loss_has_the_weighted_gradient() -> None:
    """Of Eq. 6 at ratio 1: each term's gradient with respect to its log-prob, times the weight."""
    schedule, steps = sd(), range(T)
    train = Train(timestep_weight="equal")
    weights = timestep_weights(train, ddim.sensitivity(schedule), steps)
    assert weights is not None
    old = {"log_prob": torch.zeros(2, T, dtype=torch.float64)}
    now = {"log_prob": torch.zeros(2, T, dtype=torch.float64, requires_grad=True)}
    none = torch.zeros(2, T, dtype=torch.float64)
    loss = row_loss("dpo", train, now, old, none, schedule.std.double())
    plain = torch.autograd.grad(loss.sum(), now["log_prob"], retain_graph=True)[0]
    weighted = torch.autograd.grad((loss * weights).sum(), now["log_prob"])[0]
    torch.testing.assert_close(weighted, plain * weights)
    assert (plain[0] < 0).all() and (plain[1] > 0).all()
