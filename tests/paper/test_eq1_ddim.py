"""Eq. (1) against diffusers' DDIM step, torch's Gaussian, numbers worked by hand, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from dfusion_core.diffusion import ddim

SD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
SHAPE = (3, 4, 6, 5)


def noise(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_sd_schedule_at_20_steps() -> None:
    """Leading spacing, offset 1: 951, 901, ... 1. The last step ends at abar[0] = 0.99915 and adds 0.0206.

    Worked by hand: abar[0] = 1 - 0.00085 = 0.99915 and beta[1] = 0.000855, so abar[1] = 0.998296;
    std^2 = 0.00085 / 0.001704 * (1 - 0.998296/0.99915) = 0.4988 * 0.000855 = 0.000426; std = 0.0206.
    """
    schedule = ddim.schedule(SD, 20, 1.0)
    assert schedule.timesteps.tolist() == list(range(951, 0, -50))
    assert schedule.num_steps == 20
    assert float(schedule.abar_prev[-1]) == pytest.approx(0.99915, abs=1e-6)
    assert float(schedule.std[-1]) == pytest.approx(0.0206, abs=5e-5)
    assert (schedule.std > 0).all()
    assert torch.equal(schedule.abar_t[1:-1], schedule.abar_prev[:-2])  # each step starts where the last ended


def test_last_std_is_positive_where_alpha_would_be_one() -> None:
    """With set_alpha_to_one diffusers' own last step has std 0; the clamp to timestep 0 keeps a density."""
    schedule = ddim.schedule({**SD, "set_alpha_to_one": True}, 20, 1.0)
    assert float(schedule.std[-1]) == pytest.approx(0.0206, abs=5e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("num_steps", "eta"), [(20, 1.0), (20, 0.3), (7, 1.0), (50, 0.0)])
def test_step_equals_diffusers(prediction_type: str, num_steps: int, eta: float) -> None:
    config = {**SD, "prediction_type": prediction_type}
    schedule, theirs = ddim.schedule(config, num_steps, eta), DDIMScheduler(**config)
    theirs.set_timesteps(num_steps)
    for i, timestep in enumerate(theirs.timesteps):
        x_t, eps, z = noise(3 * i), noise(3 * i + 1), noise(3 * i + 2)
        given = {"variance_noise": z} if eta else {}
        expected = theirs.step(eps, timestep, x_t, eta=eta, **given).prev_sample
        torch.testing.assert_close(ddim.step(schedule, i, x_t, eps, z), expected, rtol=1e-5, atol=2e-5)


def test_hand_numbers() -> None:
    """abar_t = 0.36, abar_prev = 0.64, eta 1; x_t = 1, eps = 0.5.

    x_0 = (1 - 0.8*0.5)/0.6 = 1; std^2 = 0.36/0.64 * (1 - 0.36/0.64) = 0.5625 * 0.4375 = 0.24609375;
    mean = 0.8*1 + sqrt(0.36 - 0.24609375)*0.5 = 0.8 + 0.3375*0.5 = 0.96875; std = 0.49607837.
    log N(mean + std) = -0.5 - log 0.49607837 - 0.91893853 = -0.71791731.
    """
    a, p = torch.tensor([0.36]).double(), torch.tensor([0.64]).double()
    std = torch.tensor([0.24609375]).double().sqrt()
    schedule = ddim.Schedule(torch.tensor([500]), a, p, std, 1.0, "epsilon")
    x_t, eps = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
    mean = ddim.mean(schedule, 0, x_t, eps)
    assert float(mean) == pytest.approx(0.96875, abs=1e-6)
    x_prev = ddim.step(schedule, 0, x_t, eps, torch.ones(1, 1, 1, 1))
    assert float(ddim.log_prob(x_prev, mean, schedule.std[0])) == pytest.approx(-0.71791731, abs=1e-6)


def test_log_prob_is_the_mean_of_the_normal_density() -> None:
    x, mean = noise(0), noise(1)
    std = torch.tensor([0.02, 0.4, 1.3])
    expected = torch.distributions.Normal(mean, std.view(-1, 1, 1, 1)).log_prob(x).flatten(1).mean(1)
    torch.testing.assert_close(ddim.log_prob(x, mean, std), expected)
    torch.testing.assert_close(ddim.log_prob(x, mean, std.view(-1, 1, 1, 1)), expected)
    half = ddim.log_prob(x, mean.half(), torch.tensor(0.4))
    assert half.dtype == torch.float32


def test_kl_is_torchs() -> None:
    mean, old, std = noise(0), noise(1), torch.tensor([0.1, 0.4, 1.3])
    wide = std.view(-1, 1, 1, 1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, wide), normal(old, wide)).flatten(1).mean(1)
    torch.testing.assert_close(ddim.gaussian_kl(mean, old, std), expected)
    assert not ddim.gaussian_kl(mean, mean, std).any()


def test_rows_of_different_steps_equal_each_alone() -> None:
    schedule, i = ddim.schedule(SD, 20, 1.0), torch.tensor([19, 0, 7])
    x_t, eps, z = noise(0), noise(1), noise(2)
    together = ddim.step(schedule, i, x_t, eps, z)
    mean = ddim.mean(schedule, i, x_t, eps)
    log_prob = ddim.log_prob(together, mean, schedule.std_at(i, mean))
    for row, k in enumerate(i.tolist()):
        one = slice(row, row + 1)
        alone = ddim.step(schedule, k, x_t[one], eps[one], z[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-6)
        own = ddim.log_prob(alone, ddim.mean(schedule, k, x_t[one], eps[one]), schedule.std[k])
        torch.testing.assert_close(log_prob[one], own, rtol=1e-5, atol=1e-5)


def test_log_prob_gradient_by_finite_differences() -> None:
    schedule = ddim.schedule(SD, 20, 1.0)
    x_t, x_prev = noise(0, torch.float64), noise(1, torch.float64)

    def f(eps: Tensor) -> Tensor:
        return ddim.log_prob(x_prev, ddim.mean(schedule, torch.tensor([3, 10, 19]), x_t, eps), torch.tensor(0.7))

    assert torch.autograd.gradcheck(f, noise(2, torch.float64).requires_grad_())


def test_stored_state_is_held_constant() -> None:
    """The score-function gradient: x_{t-1} is data, though it was drawn from the same mean."""
    mean = noise(0).requires_grad_()
    x_prev = mean + 0.1 * noise(1)
    ddim.log_prob(x_prev, mean, torch.tensor(0.1)).sum().backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, noise(1) / 0.1 / math.prod(SHAPE[1:]), rtol=1e-4, atol=1e-4)


def test_half_precision_in_fp32_out() -> None:
    schedule = ddim.schedule(SD, 20, 1.0)
    x_prev = ddim.step(schedule, 5, noise(0).half(), noise(1).bfloat16(), noise(2))
    assert x_prev.dtype == torch.float32


def test_other_schedulers_are_read_and_left_alone() -> None:
    betas = {name: SD[name] for name in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    ours, pndm, theirs = ddim.schedule(SD, 20, 1.0), PNDMScheduler(**betas), DDIMScheduler(**SD)
    theirs.set_timesteps(7)
    for scheduler in (pndm, theirs):
        read = ddim.schedule(scheduler, 20, 1.0)
        assert torch.equal(read.std, ours.std) and torch.equal(read.timesteps, ours.timesteps)
    assert len(theirs.timesteps) == 7


def test_paper_step_to_index() -> None:
    schedule = ddim.schedule(SD, 20, 1.0)
    assert [schedule.step_index(t) for t in (20, 18, 1)] == [0, 2, 19]
    for t in (0, 21):
        with pytest.raises(ValueError, match=r"outside 20\.\.1"):
            schedule.step_index(t)


@pytest.mark.parametrize(
    ("change", "eta", "message"),
    [
        ({}, -0.1, "eta"),
        ({"prediction_type": "sample"}, 1.0, "prediction_type"),
        ({"clip_sample": True}, 1.0, "clip"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 1.0, "zero-SNR"),
    ],
)
def test_refused(change: dict[str, Any], eta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ddim.schedule({**SD, **change}, 20, eta)
