"""The files of model.vae (another autoencoder) and model.lora (a LoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .builtin import local_path

if TYPE_CHECKING:
    from ..params import Model

FOLDER = "vae/"  # of a whole model in diffusers format, whose autoencoder is taken
NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # in a folder: of diffusers, of peft
SETTINGS = "adapter_config.json"  # of peft
OTHER_LORA = "Set model.lora to a plain LoRA for this model, in a file of diffusers, kohya or peft, or to null."


def vae_files(model: Model, names: Iterable[str], has_weights: Callable[[str, str | None], bool]) -> tuple[str, ...]:
    """The configuration and weights of the autoencoder among all files of a folder or repository.

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


def lora_files(model: Model) -> dict[str, Path]:
    """The files of ``model.lora`` by their role; none if it is null. Raises ModelError."""
    if model.lora is None:
        return {}
    path = local_path(model.lora)
    file = next((path / name for name in NAMES if (path / name).is_file()), path) if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        raise ModelError(
            f"model.lora: '{model.lora}' is no .safetensors file, and no folder with {' or '.join(NAMES)}.", OTHER_LORA
        )
    settings = file.parent / SETTINGS
    is_peft = file.name == NAMES[1] and settings.is_file()
    return {"weights.safetensors": file} | ({SETTINGS: settings} if is_peft else {})
