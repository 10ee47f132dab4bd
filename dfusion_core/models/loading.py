"""Loading a text-to-image model through diffusers, from safetensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, one_line
from .added import lora_files
from .base_lora import merge_base_lora
from .configs import check_configs
from .device import pick_device, pick_dtype
from .kinds import pipeline_arguments, pipeline_kind
from .mmdit import TRANSFORMERS, embeds_guidance, is_flux, latent_channels, network_of, part_name
from .single_file import load_single_file
from .source import Source, locate
from .vae import load_vae
from .whole import check_vocabulary, check_whole
from .widths import check_widths

if TYPE_CHECKING:
    from ..params import Model

LATENT_CHANNELS = 4


def load_pipeline(model: Model, source: Source | None = None) -> Any:
    """The model's pipeline, Stable Diffusion 1.x, 2.x, XL or 3.x or FLUX, on the CPU. Raises ModelError."""
    _be_quiet()
    source = source or locate(model)
    device = pick_device(model.device)
    check_device(model, device)
    wanted = pick_dtype(model.dtype, device)
    lora = lora_files(model)
    dtype = torch.float32 if lora else wanted  # weights of 16 bits are too coarse for the sum
    try:
        pipeline = (
            load_single_file(source.path, model, dtype) if source.is_single_file else _folder(model, source, dtype)
        )
    except ModelError:
        raise
    except Exception as error:  # damaged or foreign files make diffusers raise any kind of exception
        raise ModelError(
            f"model.id: '{model.id}' cannot be loaded: {one_line(error)}.",
            "Set model.id to a folder in diffusers format, a .safetensors file, a name on the Hub, or micro-world.",
        ) from error
    check_kind(model, pipeline)
    check_whole(model, pipeline, source)
    check_widths(model, pipeline)
    if source.vae is not None:
        pipeline.vae = load_vae(model, source.vae, pipeline.vae, dtype)
    if lora:
        check_takes_lora(model, pipeline)
        merge_base_lora(model, pipeline, lora, wanted)
    return pipeline


def _be_quiet() -> None:
    """No progress bars, and no advice to train missing weights, which `check_whole` refuses."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()


def _folder(model: Model, source: Source, dtype: torch.dtype) -> Any:
    """The pipeline in a folder in diffusers format, after its configurations and vocabularies are checked."""
    import diffusers

    kind = pipeline_kind(model, source.path)
    check_configs(source.path, source.files)
    for part in sorted({name.split("/")[0] for name in source.files if name.startswith("tokenizer")}):
        check_vocabulary(model, part, source)
    return getattr(diffusers, kind).from_pretrained(
        source.path,
        variant=model.variant,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **pipeline_arguments(kind, source.path),
    )


def check_takes_lora(model: Model, pipeline: Any) -> None:
    """Raise ModelError for a transformer."""
    if part_name(network_of(pipeline)) == "transformer":
        raise ModelError(
            f"model.lora: '{model.id}' is a transformer, and only LoRAs of U-Nets are read here.",
            "Set model.lora to null, and model.id to a folder of the model with that LoRA merged.",
        )


def check_kind(model: Model, pipeline: Any) -> None:
    """Raise ModelError for a network that needs more inputs than a latent, a timestep and a prompt (inpainting,
    refiner).
    """
    if part_name(network_of(pipeline)) == "transformer":
        return check_transformer(model, pipeline)
    config = pipeline.unet.config
    if config.in_channels != LATENT_CHANNELS or config.out_channels != LATENT_CHANNELS:
        raise ModelError(
            f"model.id: the U-Net of '{model.id}' takes {config.in_channels} channels and gives "
            f"{config.out_channels}, not {LATENT_CHANNELS}: it is not for text to image.",
            "Use the text-to-image model it was made from.",
        )
    if config.time_cond_proj_dim is not None or getattr(pipeline.config, "requires_aesthetics_score", False):
        raise ModelError(
            f"model.id: '{model.id}' is a distilled or refiner model; it cannot be sampled by DDIM steps "
            "with guidance.",
            "Use the base model.",
        )


def check_transformer(model: Model, pipeline: Any) -> None:
    """Raise ModelError for a transformer with unsupported inputs, or one that was distilled without guidance."""
    network, latents = pipeline.transformer, int(pipeline.vae.config.latent_channels)
    kind = type(network).__name__
    if kind not in TRANSFORMERS:
        raise ModelError(
            f"model.id: the transformer of '{model.id}' is a {kind}, and this program knows {', '.join(TRANSFORMERS)}.",
            "Set model.id to a model of SD 3, SD 3.5 or FLUX.1-dev, or to micro-world-flow.",
        )
    if latent_channels(network) != latents:
        raise ModelError(
            f"model.id: the transformer of '{model.id}' takes {latent_channels(network)} channels, and "
            f"its autoencoder makes {latents}: it is not for text to image.",
            "Use the text-to-image model it was made from.",
        )
    if is_flux(network) and not embeds_guidance(network):
        raise ModelError(
            f"model.id: '{model.id}' was distilled to a few steps without guidance (guidance_embeds is false).",
            "Set model.id to the model it was made from: black-forest-labs/FLUX.1-dev.",
        )


def check_device(model: Model, device: torch.device) -> None:
    """Raise ModelError if the device does not exist."""
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    there = torch.backends.mps.is_available() if device.type == "mps" else (device.index or 0) < count
    if not there:
        raise ModelError(
            f"model.device: '{model.device}' is not there: torch sees "
            f"{f'{count} GPUs' if device.type == 'cuda' else 'no such device'}.",
            "Set model.device to auto, or to cpu.",
        )
