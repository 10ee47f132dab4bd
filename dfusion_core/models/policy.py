"""The policy: a text-to-image diffusion model with its adapter; prediction, log-probs and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..diffusion import ddim, flow, steps
from ..diffusion.denoise import Capture, Trajectories, denoise
from ..diffusion.finite import check_finite
from ..diffusion.noise import trajectory_noises
from ..diffusion.steps import AnySchedule
from ..errors import ModelError
from . import mmdit
from .device import pick_device
from .flow_text import FlowTextEncoder
from .loading import load_pipeline
from .lora import load_lora
from .pins import check_pin, read_pin
from .size import latent_size, own_side, picture_scale
from .source import locate
from .text import Text, TextEncoder, guided

if TYPE_CHECKING:
    from ..params import Model, Sample


@dataclass(frozen=True)
class Images:
    """n sampled images: their trajectories, and their pictures (n, height, width, 3) uint8."""

    trajectories: Trajectories
    picture: torch.Tensor


@dataclass
class Policy:
    """A text-to-image diffusion model as a policy: p(x_{t-1} | x_t, c) of Eq. 1 with classifier-free guidance.

    unet: the network, a U-Net or a transformer. schedule: the coefficients of its process for the sampling
    parameters. latent_size: (height, width) of latents; None: the model's own. negative_prompt: the text of the
    unconditional half of guidance.
    """

    unet: Any
    vae: Any
    encode: TextEncoder | FlowTextEncoder
    tokenizer: Any
    schedule: AnySchedule
    guidance_scale: float
    device: torch.device
    latent_size: tuple[int, int] | None = None
    negative_prompt: str = ""

    @property
    def is_transformer(self) -> bool:
        """Whether the network is a transformer with joint attention."""
        return mmdit.part_name(self.unet) == "transformer"

    @property
    def halves(self) -> int:
        """Rows per image in a batch: two with classifier-free guidance, one if the scale is an input of the network."""
        return 1 if self.is_transformer and mmdit.embeds_guidance(self.unet) else 2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        channels = mmdit.latent_channels(self.unet) if self.is_transformer else int(self.unet.config.in_channels)
        height, width = self.latent_size or (own_side(self.unet.config, self.vae.config),) * 2
        return channels, height, width

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of a picture, in pixels."""
        _, height, width = self.latent_shape
        scale = picture_scale(self.vae.config)
        return height * scale, width * scale

    def embed(self, texts: Sequence[str]) -> Text:
        """The embeddings of n prompts, on the policy's device and in the network's dtype."""
        return self.encode(texts, self.unet.dtype)

    @cached_property
    def negative(self) -> Text:
        """The embedding (1) of the unconditional half of guidance: of the negative prompt, or of the empty one."""
        return self.embed([self.negative_prompt])

    def predict_noise(self, x_t: torch.Tensor, i: int | torch.Tensor, text: Text) -> torch.Tensor:
        """Guided prediction for latents x_t (n, c, h, w) of n prompts at step index i (an int, or (n,)).

        One batch of 2 n rows: the unconditional halves first, then the conditional ones; n rows if the guidance
        scale is an input of the network. Returns float32 (n, c, h, w): noise, or a velocity if
        ``schedule.prediction_type`` is v_prediction or flow.
        """
        n = len(x_t)
        timestep = self.schedule.timesteps[torch.as_tensor(i)].expand(n).to(self.device)
        if self.halves == 1:
            return self._forward(x_t.to(self.unet.dtype), timestep, text).float()
        rows = torch.cat([x_t, x_t]).to(self.unet.dtype)
        both = guided(self.negative, text)
        out = self._forward(rows, torch.cat([timestep, timestep]), both)
        unconditional, conditional = out.float().chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _forward(self, rows: torch.Tensor, timestep: torch.Tensor, text: Text) -> torch.Tensor:
        """The network's output for a batch, without guidance."""
        if self.is_transformer:
            return mmdit.velocity(self.unet, rows, timestep, text, self.guidance_scale)
        out: torch.Tensor = self.unet(
            rows, timestep, text.states, added_cond_kwargs=self._conditions(text), encoder_attention_mask=text.mask
        ).sample
        return out

    def log_prob(
        self, x_t: torch.Tensor, x_prev: torch.Tensor, i: int | torch.Tensor, text: Text
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(x_{t-1} | x_t, c) of n steps (Eq. 1), nats per latent element (n,), and the mean (n, c, h, w).

        x_t, x_prev: (n, c, h, w); i: one step index, or (n,).
        """
        x_t = x_t.to(self.device)
        mean = steps.mean(self.schedule, i, x_t, self.predict_noise(x_t, i, text))
        return steps.log_prob(x_prev.to(self.device), mean, self.schedule.std[i]), mean

    def sample(
        self,
        seeds: Sequence[int],
        text: Text,
        *,
        step_seeds: Sequence[int] | None = None,
        capture: Capture | None = None,
    ) -> Images:
        """Sample n images of n prompts. Raises NotFinite.

        seeds: (n,), seeds of x_T and of the step noises; step_seeds: (n,), other seeds of the step noises.
        """
        T = self.schedule.num_steps
        x_T, noise = trajectory_noises(seeds, self.latent_shape, T)
        if step_seeds is not None:
            _, noise = trajectory_noises(step_seeds, self.latent_shape, T)
        made = denoise(self, x_T, noise, text, capture)
        return Images(made, self.decode(made.x[:, -1]))

    def _conditions(self, words: Text) -> dict[str, torch.Tensor] | None:
        """SDXL's further conditions: the pooled prompt; original and target size, no crop."""
        if words.pooled is None:
            return None
        size = self.picture_size
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=words.states.dtype, device=self.device)
        return {"text_embeds": words.pooled, "time_ids": sizes.expand(len(words), -1)}

    @torch.no_grad()
    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """Pictures (n, height, width, 3) uint8 of final latents (n, c, h, w). Raises NotFinite."""
        latents = x_0.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        if shift := getattr(self.vae.config, "shift_factor", None):  # of SD 3 and FLUX
            latents = latents + shift
        pixels: torch.Tensor = self.vae.decode(latents).sample.float()
        check_finite(pixels, "the decoded picture")
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def load_policy(model: Model, sample: Sample, adapter: Path | None, *, train: bool = False) -> Policy:
    """The model with its adapter: merged for sampling, or separate and trainable.

    ``adapter`` is a folder that ``save_lora`` wrote, or None for the bare model. If there is a pin beside it, the model
    must be the pinned one. Raises ModelError.
    """
    pinned = read_pin(adapter)
    source = locate(model, pinned)
    check_pin(pinned, model, source)
    pipeline = load_pipeline(model, source)
    device = pick_device(model.device)
    network = mmdit.network_of(pipeline)
    is_flow = mmdit.part_name(network) == "transformer"
    encode = FlowTextEncoder(pipeline, model) if is_flow else TextEncoder(pipeline, model.long_prompts)
    _place(network, pipeline.vae, [encoder for _, encoder in encode.parts], device)
    if adapter is not None:
        load_lora(network, adapter, train=train)
    if train and model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    pipeline.vae.use_slicing, pipeline.vae.use_tiling = model.vae_slicing, model.vae_tiling
    if model.compile:
        from .compiling import compile_unet

        compile_unet(network)
    check_guidance(model, sample, network)
    size = latent_size(sample, network.config, pipeline.vae.config)
    return Policy(
        unet=network,
        vae=pipeline.vae,
        encode=encode,
        tokenizer=pipeline.tokenizer,
        schedule=schedule_of(pipeline, model, sample, size),
        guidance_scale=sample.guidance_scale,
        device=device,
        latent_size=size,
        negative_prompt=sample.negative_prompt,
    )


def _place(network: Any, vae: Any, encoders: Sequence[Any], device: torch.device) -> None:
    """Move the frozen parts to the device, in its fast memory format."""
    for part in (network, vae, *encoders):
        part.to(device).eval().requires_grad_(False)
    if len(encoders) > 1 and vae.config.force_upcast:  # SDXL's autoencoder overflows in fp16
        vae.float()
    if device.type == "cpu":  # convolutions there are faster with channels last
        network.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)


def check_guidance(model: Model, sample: Sample, network: Any) -> None:
    """Raise ModelError for a negative prompt if there is no unconditional half."""
    if sample.negative_prompt and mmdit.part_name(network) == "transformer" and mmdit.embeds_guidance(network):
        raise ModelError(
            f"sample.negative_prompt: '{model.id}' is told the guidance and has no half for a negative prompt.",
            "Leave sample.negative_prompt empty.",
        )


def schedule_of(pipeline: Any, model: Model, sample: Sample, size: tuple[int, int]) -> AnySchedule:
    """The coefficients of the process: DDIM for a U-Net, rectified flow for a transformer. Raises ModelError."""
    network = mmdit.network_of(pipeline)
    is_flow = mmdit.part_name(network) == "transformer"
    try:
        if not is_flow:
            return ddim.schedule(pipeline.scheduler, num_steps=sample.num_steps, eta=sample.eta)
        return flow.schedule(pipeline.scheduler, sample.num_steps, sample.eta, mmdit.image_tokens(network, size))
    except ValueError as error:
        how = "as a rectified flow" if is_flow else "by DDIM"
        remedy = (
            "Set model.id to a copy of the model with its own scheduler/scheduler_config.json (docs/transformers.md)."
            if is_flow
            else "See docs/models.md."
        )
        raise ModelError(f"model.id: '{model.id}' cannot be sampled {how}: {error}.", remedy) from error
