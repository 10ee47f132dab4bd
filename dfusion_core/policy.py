"""The policy: a text-to-image diffusion model with its adapter, and the few things the stages ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .artefacts import model_source
from .ddim import Schedule, schedule
from .errors import ModelError, one_line
from .lora import load_lora
from .store.provenance import hash_file

if TYPE_CHECKING:
    from .params import Model, Sample

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Policy:
    """A loaded model. ``schedule`` holds the DDIM coefficients of Eq. 1 for the sampling parameters."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Schedule
    guidance_scale: float
    device: torch.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        size = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), size, size

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Text-encoder outputs (n, tokens, width)."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
            return_tensors="pt").input_ids
        states: torch.Tensor = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return states.to(self.unet.dtype)

    def predict_noise(
        self, x_t: torch.Tensor, step: int | torch.Tensor, text: torch.Tensor, empty: torch.Tensor
    ) -> torch.Tensor:
        """Guided prediction for latents (n, c, h, w) at step index ``step`` (an int, or one per latent).

        One batch of 2 n rows: first all unconditional halves, then all conditional ones. ``text`` is
        (n, tokens, width), ``empty`` (1, tokens, width), the embedding of the empty prompt. Returns fp32.
        """
        n = len(x_t)
        timestep = self.schedule.timesteps[torch.as_tensor(step)].expand(n).to(self.device)
        rows = torch.cat([x_t, x_t]).to(self.unet.dtype)
        words = torch.cat([empty.expand(n, -1, -1), text])
        out: torch.Tensor = self.unet(rows, torch.cat([timestep, timestep]), words).sample
        without, with_text = out.float().chunk(2)
        return without + self.guidance_scale * (with_text - without)

    @torch.no_grad()
    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """Pictures (n, height, width, 3) uint8 of final latents."""
        latents = x_0.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        pixels: torch.Tensor = self.vae.decode(latents).sample.float()
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the first GPU, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named dtype; "auto" is fp16 on a GPU (finer than bf16 for log-probs) and fp32 on a CPU."""
    return DTYPES[("fp16" if device.type == "cuda" else "fp32") if name == "auto" else name]


def load_pipeline(model: Model) -> Any:
    """The model's ``StableDiffusionPipeline`` from safetensors only; ModelError where there is none."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    source = model_source(model.id)
    dtype = pick_dtype(model.dtype, pick_device(model.device))
    try:
        return StableDiffusionPipeline.from_pretrained(
            source, revision=model.revision, dtype=dtype, use_safetensors=True, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model: '{model.id}' cannot be loaded: {one_line(error)}.",
            "Set model.id to a folder in diffusers format, a name on the Hub, or micro-world.") from error


def model_files(model: Model) -> dict[str, Any]:
    """What pins a local model: its id and the sha256 of each of its files. A Hub id is pinned by its revision."""
    folder = Path(model_source(model.id))
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    hashes = {str(f.relative_to(folder)): hash_file(f) for f in files if f.is_file()}
    return {"id": model.id, "revision": model.revision, "files": hashes}


def load_policy(model: Model, sample: Sample, adapter: Path | None, *, train: bool = False) -> Policy:
    """The model with its adapter: merged for sampling, or separate and trainable.

    Raises ModelError. ``adapter`` is a folder that ``save_lora`` wrote, or None for the bare model.
    """
    pipeline = load_pipeline(model)
    device = pick_device(model.device)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.to(device).eval().requires_grad_(False)
    if device.type == "cpu":  # convolutions there are faster with channels last
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    if adapter is not None:
        load_lora(pipeline.unet, adapter, train=train)
    return Policy(
        unet=pipeline.unet, vae=pipeline.vae, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer,
        schedule=schedule(pipeline.scheduler, num_steps=sample.num_steps, eta=sample.eta),
        guidance_scale=sample.guidance_scale, device=device)
