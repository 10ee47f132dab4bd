"""Eq. (1) from whatever scheduler a model ships: diffusers' own DDIM of that configuration, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline

from dfusion_core.diffusion import ddim

Config = dict[str, Any]
BETAS: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LEADING: Config = BETAS | {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
TRAILING: Config = LEADING | {"timestep_spacing": "trailing"}
ZERO_SNR: Config = TRAILING | {"rescale_betas_zero_snr": True}
SHIPPED: dict[str, Config] = {  # as their scheduler_config.json has it
    "SD 1.5": LEADING | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None},
    "SD 2.1 base": LEADING | {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "skip_prk_steps": True},
    "SD 2.1": LEADING | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "skip_prk_steps": True},
    "SDXL": LEADING
    | {
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    "DPM-Solver": LEADING
    | {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "timestep_spacing": "leading",
    },
    "trailing": TRAILING | {"_class_name": "EulerDiscreteScheduler"},
    "zero SNR": ZERO_SNR | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "alpha to one": LEADING | {"_class_name": "DDIMScheduler", "set_alpha_to_one": True},
    "trailing, alpha to one": TRAILING | {"_class_name": "DDIMScheduler", "set_alpha_to_one": True},
}
SHAPE = (2, 4, 6, 5)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diffusers_ddim(config: Config, num_steps: int) -> Any:
    """In float64. Its last step with ``set_alpha_to_one: false``, as ours is: with true it adds no noise."""
    theirs = DDIMScheduler.from_config({**config, "set_alpha_to_one": False})
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    theirs.set_timesteps(num_steps)
    return theirs


@pytest.mark.parametrize("num_steps", [20, 50])
@pytest.mark.parametrize("name", SHIPPED)
def test_mean_and_std_are_those_of_diffusers(name: str, num_steps: int) -> None:
    """Their step without noise is the mean, and what one unit of noise adds is std."""
    schedule, theirs = ddim.schedule(SHIPPED[name], num_steps, 1.0), diffusers_ddim(SHIPPED[name], num_steps)
    assert torch.equal(schedule.timesteps, theirs.timesteps)
    assert schedule.std.isfinite().all() and (schedule.std > 0).all()
    assert torch.equal(schedule.abar_t[1:], schedule.abar_prev[:-1])  # each step starts where the last one ended
    # From zero SNR they may take the root of a rounding error below 0; test_first_step_of_zero_snr has that step.
    for i in range(0 if schedule.abar_t[0] > 0 else 1, num_steps):
        x_t, out = noise(2 * i), noise(2 * i + 1)
        mean, noisy = (
            theirs.step(out, theirs.timesteps[i], x_t, eta=1.0, variance_noise=z).prev_sample
            for z in (torch.zeros_like(x_t), torch.ones_like(x_t))
        )
        torch.testing.assert_close(ddim.mean(schedule, i, x_t, out), mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(schedule.std_at(i, x_t).expand(SHAPE), noisy - mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SD 1.5", "SD 2.1 base", "SD 2.1", "SDXL", "DPM-Solver", "alpha to one"])
def test_leading_spacing(name: str) -> None:
    """951, 901, ..., 1, and the last step ends at abar[0] = 1 - 0.00085, whatever set_alpha_to_one says."""
    schedule = ddim.schedule(SHIPPED[name], 20, 1.0)
    assert schedule.timesteps.tolist() == list(range(951, 0, -50))
    assert float(schedule.abar_prev[-1]) == pytest.approx(1 - 0.00085, abs=1e-7)


@pytest.mark.parametrize("num_steps", [2, 3, 7, 30, 333, 600, 999])
def test_any_number_of_leading_steps(num_steps: int) -> None:
    """The distance is 1000 // T, so that a chain of any length ends at timestep 1."""
    schedule = ddim.schedule(LEADING, num_steps, 1.0)
    assert schedule.timesteps.tolist() == [1 + k * (1000 // num_steps) for k in reversed(range(num_steps))]
    assert (schedule.std > 0).all() and torch.equal(schedule.abar_t[1:], schedule.abar_prev[:-1])


def test_trailing_spacing() -> None:
    """999, 949, ..., 49: the first is the last timestep of training, and the last step goes 50 timesteps to 0."""
    schedule = ddim.schedule(TRAILING, 20, 1.0)
    assert schedule.timesteps.tolist() == list(range(999, 0, -50))
    assert float(schedule.abar_prev[-1]) == pytest.approx(1 - 0.00085, abs=1e-7)


def test_first_step_of_zero_snr() -> None:
    """abar_t = 0: x_0 = -v, and with std^2 = 1 - abar_prev nothing of x_t is left: mean = -sqrt(abar_prev) v."""
    schedule = ddim.schedule(SHIPPED["zero SNR"], 20, 1.0)
    assert float(schedule.abar_t[0]) == 0
    assert float(schedule.std[0] ** 2) == pytest.approx(1 - float(schedule.abar_prev[0]), abs=1e-12)
    expected = -schedule.abar_prev[0].sqrt() * noise(1)
    torch.testing.assert_close(ddim.mean(schedule, 0, noise(0), noise(1)), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "num_steps", "message"),
    [
        # numpy.linspace(0, 999, 20) goes 999, 946.4, ...; 999 - 1000 // 20 is 949
        (LEADING | {"timestep_spacing": "linspace"}, 20, "'linspace' .* 20 steps at unequal .* each for 50: set"),
        # from timestep 0 there is nowhere to go, at whatever distances
        (LEADING | {"timestep_spacing": "linspace"}, 1000, "'linspace' .* the last begins at timestep 0"),
        # 1000, 966.7, 933.3, each less 1: 999, 966, 932; 966 - 1000 // 30 is 933
        (TRAILING, 30, "'trailing' .* 30 steps at unequal distances, .* each for 33: .* or take .* that divides 1000"),
        # 950, ..., 50, 0; from 0 to 0 std^2 = (1 - a) / (1 - a) (1 - a / a) = 0
        (LEADING | {"steps_offset": 0}, 20, "steps_offset 0 .* the last begins at timestep 0"),
        # 999, ..., 0, and 1 more
        (LEADING, 1000, "steps_offset 1 put 1000 steps past timestep 999, .*: take fewer steps"),
        (LEADING, 1001, "1001"),
        (ZERO_SNR, 20, "zero-SNR first step needs v_prediction"),
        (LEADING | {"prediction_type": "sample"}, 20, "prediction_type must be one of"),
        (LEADING | {"prediction_type": "flow_prediction"}, 20, "prediction_type must be one of"),
    ],
)
def test_refused(config: Config, num_steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ddim.schedule(config, num_steps, 1.0)


@pytest.mark.parametrize(
    "name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_continuous_time_is_refused(name: str) -> None:
    """They have no table of betas, and DDIM's default one is another model's."""
    with pytest.raises(ValueError, match="no beta_schedule"):
        ddim.schedule(getattr(diffusers, name)(), 20, 1.0)


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_every_family_of_samplers(name: str) -> None:
    """What a scheduler's file leaves open is not its class's to say: linspace is the default of many."""
    schedule, expected = (ddim.schedule(given, 20, 1.0) for given in (getattr(diffusers, name)(**BETAS), LEADING))
    for table in ("timesteps", "abar_t", "abar_prev", "std"):
        assert torch.equal(getattr(schedule, table), getattr(expected, table))


def test_linspace_that_was_written_down_is_refused(tmp_path: Path) -> None:
    DPMSolverMultistepScheduler(**BETAS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="timestep_spacing 'linspace'"):
        ddim.schedule(DPMSolverMultistepScheduler.from_pretrained(tmp_path), 20, 1.0)


@pytest.mark.parametrize(
    "outdated", [PNDMScheduler(**BETAS, steps_offset=0), DDIMScheduler(**BETAS, steps_offset=0, clip_sample=True)]
)
def test_what_a_pipeline_corrects(outdated: Any) -> None:
    """What is refused in the file is as it should be in a pipeline of SD 1 and 2, which sets both values right."""
    with pytest.raises(ValueError, match="steps_offset|clip_sample"):
        ddim.schedule(outdated, 20, 1.0)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
    with pytest.warns(FutureWarning, match="is outdated"):
        pipeline = StableDiffusionPipeline(**parts, scheduler=outdated, requires_safety_checker=False)
    assert torch.equal(ddim.schedule(pipeline.scheduler, 20, 1.0).std, ddim.schedule(LEADING, 20, 1.0).std)
