"""Another autoencoder than the model's own: model.vae."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, one_line
from .configs import check_keys, read_config
from .whole import check_part

if TYPE_CHECKING:
    from ..params import Model
    from .source import Source

KIND = "AutoencoderKL"
FOLDER = "vae/"  # of a whole model in diffusers format; its autoencoder may be taken alone
INSTEAD = "Set model.vae to an autoencoder that was made for this kind of model, or to null for the model's own."


def vae_files(model: Model, names: Iterable[str], has_weights: Any) -> tuple[str, ...]:
    """Of all files of a folder or repository the configuration and the weights of its autoencoder.

    has_weights: (name, variant) -> whether a file ``vae/NAME`` holds weights of that variant. Raises ModelError.
    """
    there = sorted(names)
    folder = FOLDER if f"{FOLDER}config.json" in there else ""
    config = f"{folder}config.json"
    inside = [name for name in there if name.startswith(folder) and "/" not in name.removeprefix(folder)]
    for variant in (None, model.variant):
        weights = [name for name in inside if has_weights(f"{FOLDER}{name.removeprefix(folder)}", variant)]
        if config in there and weights:
            return tuple(sorted((config, *weights)))
    raise ModelError(
        f"model.vae: '{model.vae}' has no autoencoder in diffusers format: no config.json with weights in safetensors "
        "beside it.",
        "Set model.vae to a folder or a Hub repository that has both, or to a model with a folder vae.",
    )


def load_vae(model: Model, source: Source, own: Any, dtype: torch.dtype) -> Any:
    """The autoencoder of ``source`` in place of ``own``. Raises ModelError where it does not fit."""
    from diffusers import AutoencoderKL

    folder = source.path / FOLDER if source.files[0].startswith(FOLDER) else source.path
    check_config(model, folder / "config.json", own.config)
    named = model.variant if any(f".{model.variant}." in name for name in source.files) else None
    try:
        vae = AutoencoderKL.from_pretrained(
            folder, variant=named, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # what a damaged or foreign file makes diffusers raise is of any kind
        raise ModelError(f"model.vae: '{model.vae}' cannot be loaded: {one_line(error)}.", INSTEAD) from error
    check_part(
        f"model.vae: '{model.vae}'", "vae", vae, source.path, [name for name in source.files if "json" not in name]
    )
    return vae


def check_config(model: Model, file: Any, own: Any) -> None:
    """Raise ModelError for an autoencoder whose latents the U-Net does not know.

    The factor by which latents are scaled tells families apart: that of SDXL in SD 1.5 has as many channels, and gives
    pictures of noise.
    """
    check_keys(file)
    config = read_config(file)
    kind = config.get("_class_name", KIND)
    if kind != KIND:
        raise ModelError(f"model.vae: '{model.vae}' is a {kind}, and not an {KIND}.", INSTEAD)
    for key, default in (("latent_channels", 4), ("scaling_factor", 0.18215)):
        given = config.get(key, default)
        if given != own[key]:
            raise ModelError(
                f"model.vae: '{model.vae}' has {key} {given}, and the latents of '{model.id}' have {own[key]}.", INSTEAD
            )
