"""The transformers of SD 3 and FLUX on the meta device, with calls of the shapes that the stages make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...models.flow_text import T5_TOKENS
from ...models.mmdit import is_flux, latent_channels, velocity
from ...models.text import Text

CLIP_TOKENS = 77


def velocity_call(
    network: Any, size: tuple[int, int], rows: int, tokens: int, device: torch.device
) -> Callable[[], Tensor]:
    """A forward of the transformer for this many rows of latents of this height and width."""
    kind = {"device": device, "dtype": network.dtype}
    x = torch.zeros(rows, latent_channels(network), *size, **kind)
    time = torch.zeros(rows, device=device)
    text = Text(
        torch.zeros(rows, tokens, network.config.joint_attention_dim, **kind),
        torch.zeros(rows, network.config.pooled_projection_dim, **kind),
    )
    return lambda: velocity(network, x, time, text, 1.0)


def text_tokens(kind: str, encoders: int, own: int) -> int:
    """Text tokens of a transformer of this class. own: the limit of its only text encoder, if it has one."""
    if kind.startswith("Flux"):
        return T5_TOKENS["flux"]
    return own if encoders == 1 else CLIP_TOKENS + T5_TOKENS["sd3"]


def shorten(network: Any) -> Any:
    """The transformer with one block of each kind, in place."""
    network.transformer_blocks = network.transformer_blocks[:1]
    if is_flux(network):
        network.single_transformer_blocks = network.single_transformer_blocks[:1]
    return network
