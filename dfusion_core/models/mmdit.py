"""Calling the transformers of SD 3 and FLUX as their pipelines do, with latents that are pictures (n, c, h, w)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .size import FLUX_PATCH as FLUX_PATCH
from .text import Text

TRANSFORMERS = ("SD3Transformer2DModel", "FluxTransformer2DModel")


def network_of(pipeline: Any) -> Any:
    """The network of a pipeline: its U-Net, or its transformer."""
    unet = getattr(pipeline, "unet", None)
    return pipeline.transformer if unet is None else unet


def part_name(network: Any) -> str:
    """The network's name in a pipeline, "unet" or "transformer": the prefix in peft's and diffusers' adapter files."""
    return "transformer" if hasattr(network, "transformer_blocks") else "unet"


def is_flux(network: Any) -> bool:
    """Whether it takes packed latents and rotary positions."""
    return hasattr(network, "single_transformer_blocks")


def embeds_guidance(network: Any) -> bool:
    """Whether the guidance scale is an input of the network, so that there is no unconditional row."""
    return bool(getattr(network.config, "guidance_embeds", False))


def latent_channels(network: Any) -> int:
    """Channels of the latents that a transformer denoises."""
    count = int(network.config.in_channels)
    return count // FLUX_PATCH**2 if is_flux(network) else count


def image_tokens(network: Any, size: tuple[int, int]) -> int:
    """Number of tokens of a latent of this height and width."""
    patch = FLUX_PATCH if is_flux(network) else network.config.patch_size
    return (size[0] // patch) * (size[1] // patch)


def velocity(network: Any, rows: Tensor, timestep: Tensor, text: Text, guidance: float) -> Tensor:
    """The predicted velocity (n, c, h, w) of n rows. timestep: (n,), 1000 times the noise level."""
    if is_flux(network):
        return _flux_velocity(network, rows, timestep, text, guidance)
    out: Tensor = network(
        hidden_states=rows, encoder_hidden_states=text.states, pooled_projections=text.pooled, timestep=timestep
    ).sample
    return out


def _flux_velocity(network: Any, rows: Tensor, timestep: Tensor, text: Text, guidance: float) -> Tensor:
    y, x = (side // FLUX_PATCH for side in rows.shape[-2:])
    places: Any = positions(y, x).to(rows)
    places.extent = (y, x)  # so that it need not be read back from the device
    told = torch.full((len(rows),), guidance, device=rows.device) if embeds_guidance(network) else None
    out: Tensor = network(
        hidden_states=pack(rows),
        encoder_hidden_states=text.states,
        pooled_projections=text.pooled,
        timestep=timestep / 1000,
        guidance=told,
        img_ids=places,
        txt_ids=torch.zeros(text.states.shape[1], 3).to(rows),
    ).sample
    return unpack(out, y, x)


def positions(y: int, x: int) -> Tensor:
    """(token, 3): FLUX's coordinates of image tokens; the first is 0."""
    rows, columns = torch.meshgrid(torch.arange(y), torch.arange(x), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1).float()


def pack(latents: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, token, c * 4): squares of two by two, row by row."""
    n, c, h, w = latents.shape
    squares = latents.view(n, c, h // FLUX_PATCH, FLUX_PATCH, w // FLUX_PATCH, FLUX_PATCH)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c * FLUX_PATCH**2)


def unpack(tokens: Tensor, y: int, x: int) -> Tensor:
    """The inverse of `pack` for y by x tokens."""
    n, _, width = tokens.shape
    squares = tokens.view(n, y, x, width // FLUX_PATCH**2, FLUX_PATCH, FLUX_PATCH)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, y * FLUX_PATCH, x * FLUX_PATCH)
