"""Loading a text-to-image model through diffusers, from safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from ..errors import ModelError, one_line
from ..runtime.device import pick_device, pick_dtype
from .kinds import KINDS, pipeline_kind
from .single_file import load_single_file
from .source import Source, locate

if TYPE_CHECKING:
    from ..params import Model

LATENT_CHANNELS = 4


def load_pipeline(model: Model, source: Source | None = None) -> Any:
    """The model's Stable Diffusion pipeline, 1.x, 2.x or XL, on the CPU. Raises ModelError."""
    import diffusers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    source = source or locate(model)
    dtype = pick_dtype(model.dtype, pick_device(model.device))
    try:
        if source.is_single_file:
            pipeline = load_single_file(source.path, model, dtype)
        else:
            kind = pipeline_kind(model, source.path)
            pipeline = getattr(diffusers, kind).from_pretrained(
                source.path, variant=model.variant, dtype=dtype, use_safetensors=True, local_files_only=True,
                **KINDS[kind])
    except ModelError:
        raise
    except Exception as error:  # what a damaged or foreign file makes diffusers raise is of any kind
        raise ModelError(
            f"model.id: '{model.id}' cannot be loaded: {one_line(error)}.",
            "Set model.id to a folder in diffusers format, a .safetensors file, a name on the Hub, or micro-world."
        ) from error
    check_kind(model, pipeline)
    if not source.is_single_file:
        check_text_encoders(model, pipeline, source)
    return pipeline


def check_text_encoders(model: Model, pipeline: Any, source: Source) -> None:
    """Raise ModelError where a text encoder is not what its file says.

    transformers fills what it does not find in a file with random numbers and goes on: a file under the names of
    another version would leave a model that understands nothing. Vectors (norms, biases) are compared: they are small.
    """
    for part in ("text_encoder", "text_encoder_2"):
        files = [name for name in source.files if name.startswith(f"{part}/") and name.endswith(".safetensors")]
        stored = {name: tensor for file in files for name, tensor in vectors(source.path / file).items()}
        for name, value in getattr(pipeline, part).state_dict().items() if files else ():
            key = name.removeprefix("text_model.")
            if value.ndim == 1 and not (key in stored and torch.equal(stored[key].to(value), value)):
                raise ModelError(
                    f"model.id: {part} of '{model.id}' is not read from its file: {name} is not there or is another.",
                    "The file may be of another version of transformers; use another copy of the model.")


def vectors(file: Path) -> dict[str, torch.Tensor]:
    """The one-dimensional tensors of a safetensors file, without the prefix that some versions write."""
    with safe_open(file, "pt") as opened:
        names = [name for name in opened.keys() if len(opened.get_slice(name).get_shape()) == 1]  # noqa: SIM118
        return {name.removeprefix("text_model."): opened.get_tensor(name) for name in names}


def check_kind(model: Model, pipeline: Any) -> None:
    """Raise ModelError for a U-Net that wants more than a latent, a timestep and a prompt (inpainting, refiner)."""
    config = pipeline.unet.config
    if config.in_channels != LATENT_CHANNELS or config.out_channels != LATENT_CHANNELS:
        raise ModelError(f"model.id: the U-Net of '{model.id}' takes {config.in_channels} channels and gives "
                         f"{config.out_channels}, not {LATENT_CHANNELS}: it is not for text to image.",
                         "Use the text-to-image model it was made from.")
    if config.time_cond_proj_dim is not None or getattr(pipeline.config, "requires_aesthetics_score", False):
        raise ModelError(f"model.id: '{model.id}' is a distilled or refiner model; it cannot be sampled by DDIM steps "
                         "with guidance.", "Use the base model.")
