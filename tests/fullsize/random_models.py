"""Stable Diffusion's U-Nets at their true size with random weights, filled fast, and a policy around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dfusion_core.diffusion.ddim import schedule
from dfusion_core.models.architectures import KNOWN
from dfusion_core.models.policy import Policy
from dfusion_core.models.single_file import SCHEDULER
from dfusion_core.models.text import Text

TOKENS = 77
SHARPNESS = 1.5  # of attention: at 1 untrained maps are nearly uniform, at 2 the network is chaotic
ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")


def random_unet(family: str) -> Any:
    """The U-Net, frozen, laid out as ``load_policy`` does."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(KNOWN[family].unet)
    return filled(unet.to_empty(device="cpu").to(memory_format=torch.channels_last).eval().requires_grad_(False))


def filled(unet: Any) -> Any:
    """Give a frozen U-Net random weights that keep activations at about unit variance from layer to layer."""
    weights = dict(unet.named_parameters())
    largest = max(weight.numel() for weight in weights.values())
    pool = normal(0, largest + 2**22)  # every tensor is a slice of it: drawing each would take 20 s at full size
    offset = 0
    for name, weight in weights.items():
        if weight.ndim == 1:
            weight.fill_(float("norm" in name and name.endswith("weight")))
            continue
        offset = (offset + 1_234_577) % (len(pool) - weight.numel())
        scale = weight[0].numel() ** -0.5 * (SHARPNESS if name.endswith(ATTENTION) else 1)
        weight.copy_(pool[offset : offset + weight.numel()].view(weight.shape) * scale)
    return unet


def random_policy(family: str) -> Policy:
    """The U-Net with the scheduler, steps and guidance of the paper; no autoencoder, and texts are random."""
    unet = random_unet(family)
    steps = schedule(SCHEDULER | {"prediction_type": "epsilon"}, num_steps=20, eta=1.0)
    return Policy(
        unet=unet,
        vae=None,
        encode=RandomTexts(unet.config.cross_attention_dim),
        tokenizer=None,
        schedule=steps,
        guidance_scale=5.0,
        device=torch.device("cpu"),
        latent_size=(unet.config.sample_size,) * 2,
    )


@dataclass(frozen=True)
class RandomTexts:
    """Stands for the text encoders: normal states of 77 tokens, the same for the same text."""

    width: int
    pooled: int = 0

    def __call__(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        seeds = [sum(text.encode()) for text in texts]
        states = torch.stack([normal(seed, TOKENS, self.width) for seed in seeds]).to(dtype)
        pooled = torch.stack([normal(seed, self.pooled) for seed in seeds]).to(dtype)
        return Text(states, pooled if self.pooled else None)


def normal(seed: int, *shape: int) -> torch.Tensor:
    """Standard normals from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
