"""Another autoencoder than the model's own: model.vae."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, one_line, short
from .added import FOLDER
from .configs import read_checked
from .whole import check_part

if TYPE_CHECKING:
    from ..params import Model
    from .source import Source

KIND = "AutoencoderKL"
# What a picture's latents mean, with diffusers' defaults.
DEFAULTS: dict[str, Any] = {
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "block_out_channels": [64],
}
INSTEAD = "Set model.vae to an autoencoder that was made for this kind of model, or to null for the model's own."


def load_vae(model: Model, source: Source, own: Any, dtype: torch.dtype) -> Any:
    """The autoencoder of ``source``, which replaces ``own``. Raises ModelError if it does not fit."""
    from diffusers import AutoencoderKL

    folder = source.path / FOLDER if source.files[0].startswith(FOLDER) else source.path
    check_config(model, folder / "config.json", own.config)
    named = model.variant if any(f".{model.variant}." in name for name in source.files) else None
    try:
        vae = AutoencoderKL.from_pretrained(
            folder, variant=named, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # damaged or foreign files make diffusers raise any kind of exception
        raise ModelError(f"model.vae: '{model.vae}' cannot be loaded: {one_line(error)}.", INSTEAD) from error
    check_part(
        f"model.vae: '{model.vae}'", "vae", vae, source.path, [name for name in source.files if "json" not in name]
    )
    return vae


def check_config(model: Model, file: Path, own: Any) -> None:
    """Raise ModelError for an autoencoder with other latents than the network's.

    Families are distinguished by the scaling factor of latents: the autoencoder of SDXL has the channels of SD 1.5,
    and would give pictures of noise. ``own``: the configuration of the model's autoencoder.
    """
    config = read_checked(file, "model.vae")
    kind = config.get("_class_name", KIND)
    if kind != KIND:
        raise ModelError(f"model.vae: '{model.vae}' is a {kind}, and not an {KIND}.", INSTEAD)
    for key, default in DEFAULTS.items():
        given, known = config.get(key, default), own.get(key, default)
        if key == "block_out_channels" and isinstance(given, list):  # of the widths only the number of levels counts
            key, given, known = "levels", len(given), len(known)
        if given != known:
            raise ModelError(
                f"model.vae: '{model.vae}' has {key} {short(json.dumps(given))}, and the latents of '{model.id}' have "
                f"{json.dumps(known)}.",
                INSTEAD,
            )
