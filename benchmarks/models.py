"""The models of the suite: the built-in one, and SD's topology with random weights, in two sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dfusion_core.diffusion.ddim import schedule
from dfusion_core.models.architectures import KNOWN
from dfusion_core.models.builtin import model_source
from dfusion_core.models.device import DTYPES
from dfusion_core.models.lora import add_lora, keep_in_fp32, trainable
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.models.single_file import SCHEDULER
from dfusion_core.models.text import Text
from dfusion_core.params import Lora, Model, Sample

GUIDANCE, ETA = 5.0, 1.0  # the paper's
TOKENS = 77
TRAINED = 1e-2  # scale of the adapter's B: zero, as it begins, would leave A without gradient
MID: dict[str, Any] = {
    "block_out_channels": (96, 192, 384, 384),
    "attention_head_dim": (3, 6, 12, 12),
    "cross_attention_dim": 384,
}
MID_VAE = {"block_out_channels": (32, 64, 128, 128)}


@dataclass(frozen=True)
class Stored:
    """A model in diffusers' format: the built-in one, or a folder."""

    id: str = "micro-world"
    dtype: str = "fp32"

    @property
    def scheduler(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_pretrained(Path(model_source(self.id), "scheduler"))

    def policy(self, steps: int, device: torch.device) -> Policy:
        model = Model(id=self.id, device=str(device), dtype=self.dtype)
        return load_policy(model, Sample(num_steps=steps, eta=ETA, guidance_scale=GUIDANCE), None)


@dataclass(frozen=True)
class RandomSD:
    """SD 2.1's topology with random weights, and changes of the U-Net's and the autoencoder's configurations.

    It predicts a velocity, with which latents keep their unit size where the weights are untrained: else they grow to
    15, and the rounding of their small differences with them.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    dtype: str = "fp32"

    @property
    def scheduler(self) -> Any:
        from diffusers import DDIMScheduler

        config = {key: value for key, value in SCHEDULER.items() if key != "_class_name"}
        return DDIMScheduler(**config | {"prediction_type": "v_prediction"})

    def policy(self, steps: int, device: torch.device) -> Policy:
        from diffusers import AutoencoderKL, UNet2DConditionModel

        known = KNOWN["sd21"]
        with torch.random.fork_rng(devices=[]), device:
            torch.manual_seed(0)
            unet = UNet2DConditionModel.from_config(known.unet | self.unet)
            vae = AutoencoderKL.from_config(known.vae | self.vae)
        for part in (unet, vae):
            torch.nn.Module.to(part.eval().requires_grad_(False), DTYPES[self.dtype])  # diffusers' own `to` warns
            if device.type == "cpu":  # as load_policy does
                part.to(memory_format=torch.channels_last)
        return Policy(
            unet=unet,
            vae=vae,
            encode=RandomTexts(unet.config.cross_attention_dim, device),
            tokenizer=None,
            schedule=schedule(self.scheduler, steps, ETA),
            guidance_scale=GUIDANCE,
            device=device,
        )


@dataclass(frozen=True)
class RandomTexts:
    """Stands for the text encoder, which no figure here includes: the same normal states for the same text."""

    width: int
    device: torch.device

    def __call__(self, texts: Sequence[str], dtype: torch.dtype) -> Text:
        states = [
            torch.randn(TOKENS, self.width, generator=torch.Generator().manual_seed(sum(text.encode())))
            for text in texts
        ]
        return Text(torch.stack(states).to(self.device, dtype))


Source = Stored | RandomSD


def source(name: str, side: int, dtype: str = "fp32") -> Source:
    """``micro``, ``mid`` with latents of ``side`` x ``side``, ``sd21``, or a folder in diffusers' format."""
    if name == "mid":
        return RandomSD(MID | {"sample_size": side}, MID_VAE, dtype)
    if name == "sd21":
        return RandomSD({}, {}, dtype)
    return Stored("micro-world" if name == "micro" else str(Path(name)), dtype)


def adapt(policy: Policy) -> Policy:
    """The policy with an adapter that does something already, as in any round but the first; in place."""
    add_lora(policy.unet, Lora(), seed=0)
    keep_in_fp32(policy.unet)  # as the stage train does
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainable(policy.unet).items():
            if "lora_B" in name:
                parameter.copy_(TRAINED * torch.randn(parameter.shape, generator=stream))
    return policy
