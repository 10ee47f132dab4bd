"""DDIM inversion undoes the deterministic step exactly where its assumption holds."""

from __future__ import annotations

import pytest
import torch

from dfusion_core.diffusion import ddim


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_it_undoes_a_step_whose_noise_does_not_change(prediction_type: str) -> None:
    """eta 0: x_{t-1} = mean(x_t, eps). Inversion with the same eps (or its velocity) gives x_t."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "steps_offset": 1,
    }
    schedule = ddim.schedule(config, num_steps=10, eta=0.0)
    x_t, eps = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).unbind(0)
    for i in range(10):
        abar_t, abar_prev = float(schedule.abar_t[i]), float(schedule.abar_prev[i])
        x_0 = (x_t - (1 - abar_t) ** 0.5 * eps) / abar_t**0.5
        forward = backward = eps
        x_prev = abar_prev**0.5 * x_0 + (1 - abar_prev) ** 0.5 * eps
        if prediction_type == "v_prediction":
            forward = abar_t**0.5 * eps - (1 - abar_t) ** 0.5 * x_0
            backward = abar_prev**0.5 * eps - (1 - abar_prev) ** 0.5 * x_0
        torch.testing.assert_close(ddim.mean(schedule, i, x_t, forward), x_prev, rtol=0, atol=1e-4)
        torch.testing.assert_close(ddim.invert(schedule, i, x_prev, backward), x_t, rtol=0, atol=1e-4)
