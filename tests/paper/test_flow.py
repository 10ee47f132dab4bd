"""Rectified flow as a Gaussian policy: its marginals, its limit, its log-probs, and the schedules of the models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from dfusion_core.diffusion import ddim, flow, steps

SD35: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
FLUX: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
PLAIN: dict[str, Any] = {"shift": 1.0}
# A mixture of two normal distributions in one dimension
WEIGHT, CENTRE, SPREAD = (0.3, 0.7), (-2.0, 1.0), (0.3, 0.5)


def scheduler(config: dict[str, Any]) -> Any:
    return FlowMatchEulerDiscreteScheduler(**config)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 4, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("T", [2, 10, 28])
@pytest.mark.parametrize(("config", "tokens"), [(SD35, 4096), (FLUX, 4096), (FLUX, 1024), (PLAIN, 64)])
def test_noise_levels_are_those_of_the_models_scheduler(config: dict[str, Any], tokens: int, T: int) -> None:
    """Told the levels 1 ... 1/T, diffusers' scheduler shifts them as ours does."""
    theirs = scheduler(config)
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15) if config.get("use_dynamic_shifting") else None
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / T, T).tolist(), mu=mu)
    ours = flow.schedule(scheduler(config), T, 1.0, tokens)
    torch.testing.assert_close(ours.sigma_t.float(), theirs.sigmas[:-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-6, atol=1e-3)
    assert torch.equal(ours.sigma_prev[:-1], ours.sigma_t[1:]) and 0 < ours.sigma_prev[-1] <= flow.LAST_SIGMA


@pytest.mark.parametrize("i", [0, 4, 8])
def test_without_noise_it_is_the_schedulers_euler_step(i: int) -> None:
    theirs = scheduler(SD35)
    theirs.set_timesteps(sigmas=torch.linspace(1, 0.1, 10).tolist())
    ours = flow.schedule(SD35, 10, 0.0)
    x, v = noise(0).float(), noise(1).float()
    expected = theirs.step(v, theirs.timesteps[i], x).prev_sample
    torch.testing.assert_close(steps.step(ours, i, x, v, noise(2)), expected, rtol=0, atol=1e-6)


def test_as_eta_goes_to_zero_the_step_goes_to_eulers() -> None:
    x, v, z = noise(0), noise(1), noise(2)
    still = flow.mean(flow.schedule(SD35, 10, 0.0), 3, x, v)
    errors = [float((steps.step(flow.schedule(SD35, 10, eta), 3, x, v, z) - still).abs().max()) for eta in (0.1, 0.01)]
    assert errors[0] > 0 and errors[1] < errors[0] / 9


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_keeps_the_marginal_of_one_picture_exactly(eta: float) -> None:
    """Where x_0 is known, v = (x_s - x_0) / s, and x_s' has mean (1 - s') x_0 and std s' for every noise weight."""
    schedule, x_0 = flow.schedule(SD35, 10, eta), torch.tensor(1.7, dtype=torch.float64).view(1, 1, 1, 1)
    for i in range(10):
        s, s_prev, std = (float(table[i]) for table in (schedule.sigma_t, schedule.sigma_prev, schedule.std))

        def mu(x: torch.Tensor, i: int = i, s: float = s) -> float:
            return float(flow.mean(schedule, i, x, (x - x_0) / s))

        centre = mu((1 - s) * x_0)
        slope = mu((1 - s) * x_0 + 1) - centre
        assert centre == pytest.approx((1 - s_prev) * float(x_0), abs=1e-9)
        assert (slope * s) ** 2 + std**2 == pytest.approx(s_prev**2, abs=1e-9)


def mixture_velocity(x: torch.Tensor, s: float) -> torch.Tensor:
    """E[eps - x_0 | x_s = x] of the mixture, from Gaussian conditioning."""
    densities, velocities = [], []
    for w, m, d in zip(WEIGHT, CENTRE, SPREAD, strict=True):
        variance = (1 - s) ** 2 * d**2 + s**2
        off = x - (1 - s) * m
        densities.append(w * torch.exp(-(off**2) / (2 * variance)) / math.sqrt(variance))
        velocities.append(-m + (s - (1 - s) * d**2) / variance * off)
    p, v = torch.stack(densities), torch.stack(velocities)
    return (p * v).sum(0) / p.sum(0)


def mixture_cdf(x: torch.Tensor, s: float) -> torch.Tensor:
    """The distribution function of x_s."""
    parts = [
        w * 0.5 * (1 + torch.erf((x - (1 - s) * m) / math.sqrt(2 * ((1 - s) ** 2 * d**2 + s**2))))
        for w, m, d in zip(WEIGHT, CENTRE, SPREAD, strict=True)
    ]
    return torch.stack(parts).sum(0)


def test_marginals_are_those_of_the_ode_on_a_mixture() -> None:
    """20,000 walks of the SDE and of the ODE have the mixture's own distribution at every fourth of the way."""
    T, n = 200, 20_000
    for eta in (0.0, 0.5, 1.0):
        schedule = flow.schedule(PLAIN, T, eta)
        x, draws = noise(0, n, 1, 1, 1), torch.Generator().manual_seed(1)
        for i in range(T):
            v = mixture_velocity(x, float(schedule.sigma_t[i]))
            z = torch.randn(x.shape, generator=draws, dtype=torch.float64)
            x = steps.step(schedule, i, x, v, z)
            if (i + 1) % 50 == 0:
                found, expected = (
                    (torch.arange(n) + 0.5) / n,
                    mixture_cdf(x.flatten().sort().values, float(schedule.sigma_prev[i])),
                )
                assert (found - expected).abs().max() < 0.02, (eta, i)  # 5 % of samples of n exceed 0.0096


def test_the_noise_is_that_of_flow_grpo_in_the_limit_of_small_steps() -> None:
    """Its SDE adds a^2 s / (1 - s) ds of variance: ours with a = sqrt(2) eta."""
    for eta in (0.3, 1.0):
        schedule = flow.schedule(PLAIN, 10_000, eta)
        for i in (2000, 5000, 8000):
            s, gap = float(schedule.sigma_t[i]), float(schedule.sigma_t[i] - schedule.sigma_prev[i])
            assert float(schedule.std[i]) ** 2 / gap == pytest.approx(2 * eta**2 * s / (1 - s), rel=2e-3)


def test_log_prob_by_hand() -> None:
    """T = 2, no shift: from s = 1 to 1/2 everything is drawn anew, std = 1/2."""
    schedule = flow.schedule(PLAIN, 2, 1.0)
    x, v, x_prev = (torch.full((1, 1, 1, 1), value) for value in (0.6, 0.2, 0.5))
    mean = flow.mean(schedule, 0, x, v)
    assert float(mean) == pytest.approx(0.5 * (0.6 - 0.2)) and float(schedule.std[0]) == pytest.approx(0.5)
    expected = -0.5 * ((0.5 - 0.2) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    assert float(steps.log_prob(x_prev, mean, schedule.std[0])) == pytest.approx(expected, rel=1e-6)


def test_every_step_has_a_density_and_16_bits_are_computed_in_32() -> None:
    schedule = flow.schedule(SD35, 20, 1.0)
    assert bool((schedule.std > 0).all()) and schedule.step_index(20) == 0
    out = flow.mean(schedule, torch.tensor([3, 9]), noise(0).bfloat16(), noise(1).bfloat16())
    assert out.dtype == torch.float32


def test_sensitivity_is_the_gradient_of_the_mean() -> None:
    schedule = flow.schedule(SD35, 6, 0.7)
    for i in range(6):
        v = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(flow.mean(schedule, i, noise(0, 1, 1, 1, 1), v).sum(), v)
        assert float(slope.abs() / schedule.std[i]) == pytest.approx(float(steps.sensitivity(schedule)[i]))


def test_inversion_undoes_the_deterministic_step() -> None:
    schedule, x, v = flow.schedule(SD35, 6, 0.0), noise(0), noise(1)
    torch.testing.assert_close(steps.invert(schedule, 2, flow.mean(schedule, 2, x, v), v), x)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (DDIMScheduler(), "DDIMScheduler"),
        (scheduler({"use_karras_sigmas": True}), "use_karras_sigmas"),
        (scheduler({"shift_terminal": 0.1}), "shift_terminal"),
    ],
)
def test_a_scheduler_that_is_no_such_flow_is_refused_by_name(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        flow.schedule(given, 10, 1.0)


def test_diffusion_goes_through_the_same_functions_unchanged() -> None:
    schedule = ddim.schedule(DDIMScheduler(clip_sample=False, steps_offset=1), 10, 1.0)
    x, eps, z = noise(0), noise(1), noise(2)
    assert torch.equal(steps.step(schedule, 3, x, eps, z), ddim.step(schedule, 3, x, eps, z))
    assert torch.equal(steps.sensitivity(schedule), ddim.sensitivity(schedule))
