"""The adapter of a transformer (SD 3, FLUX) in a format that ComfyUI and diffusers read, and a test of its effect.

ComfyUI finds a layer of these models under ``transformer.`` and diffusers' name, as peft's A and B; without an alpha
it computes B A, so alpha / rank is multiplied into B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import ExportError
from ...models.mmdit import FLUX_PATCH, is_flux, velocity
from ...models.text import Text

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
LEVELS = (800.0, 100.0)  # a timestep of much noise, one of little
TOKENS = 32
SIDE = 16  # of a latent


def mmdit_tensors(adapter: Mapping[str, torch.Tensor], factor: float, dtype: str) -> dict[str, torch.Tensor]:
    """The adapter under its own names, rounded to ``dtype`` (fp16 or fp32). factor: alpha / rank.

    Raises ExportError if a number does not fit the dtype.
    """
    found = {}
    for name, value in adapter.items():
        scaled = value * factor if name.endswith("lora_B.weight") else value
        found[name] = scaled.to(DTYPES[dtype]).contiguous()
        if not found[name].isfinite().all():
            raise ExportError(f"export: {name} has a value that {dtype} cannot hold.", "Use --dtype fp32.")
    return found


@torch.no_grad()
def predict_velocity(network: Any) -> torch.Tensor:
    """The transformer's output for fixed random latents and text (2, c, h, w), in fp32 on the CPU."""
    config, n = network.config, len(LEVELS)
    random = torch.Generator().manual_seed(0)
    channels = config.in_channels // FLUX_PATCH**2 if is_flux(network) else config.in_channels
    side = SIDE if is_flux(network) else min(int(config.sample_size), SIDE)
    latents = torch.randn(n, channels, side, side, generator=random)
    text = Text(
        torch.randn(n, TOKENS, config.joint_attention_dim, generator=random),
        torch.randn(n, config.pooled_projection_dim, generator=random),
    )
    return velocity(network.eval(), latents, torch.tensor(LEVELS), text, 3.5)
