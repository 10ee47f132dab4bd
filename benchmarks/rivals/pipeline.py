"""Sampling by diffusers' own pipeline."""

from __future__ import annotations

from typing import Any

import torch

from dfusion_core.models.policy import Policy
from dfusion_core.models.text import Text


def build(policy: Policy, scheduler: Any) -> Any:
    """StableDiffusionPipeline around the policy's networks; texts come embedded."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=policy.vae,
        text_encoder=None,
        tokenizer=None,
        unet=policy.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noises(seed: int, n: int, shape: tuple[int, ...], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x_T (n, c, h, w) and the step noises (n, T, c, h, w) that the pipeline will draw from ``generator(seed)``."""
    x_T = torch.randn(n, *shape, generator=generator(seed + 1))
    stream = generator(seed)
    return x_T, torch.stack([torch.randn(n, *shape, generator=stream) for _ in range(steps)], dim=1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(pipeline: Any, policy: Policy, x_T: torch.Tensor, seed: int, text: Text) -> torch.Tensor:
    """Final latents (n, c, h, w); DDIM with eta 1 and the policy's guidance."""
    found: torch.Tensor = pipeline(
        prompt_embeds=text.states,
        negative_prompt_embeds=policy.negative.states.expand_as(text.states),
        latents=x_T.to(text.states),
        generator=generator(seed),
        num_inference_steps=policy.schedule.num_steps,
        guidance_scale=policy.guidance_scale,
        eta=policy.schedule.eta,
        output_type="latent",
    ).images
    return found.cpu()
