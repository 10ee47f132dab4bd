"""model.lora: a LoRA that is part of the base model, merged into the weights in every stage.

Files of diffusers, kohya's tools and peft are read; the reference model of the training is the base with this LoRA.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, one_line
from .added import OTHER_LORA as INSTEAD
from .added import SETTINGS
from .configs import read_config
from .lora_files import Tensors, read_lora_file, split
from .text_lora import is_for_text, merge_text_lora

if TYPE_CHECKING:
    from ..params import Model

PEFT = "base_model.model."  # before the names of its tensors
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None, "lora_bias": False}


def merge_base_lora(model: Model, pipeline: Any, files: dict[str, Path], dtype: torch.dtype) -> None:
    """Add the LoRA to the pipeline's weights, which are in fp32, and round the sums to ``dtype`` once.

    Raises ModelError if the file is not a plain LoRA, or if a part of it matches no layer.
    """
    file = files["weights.safetensors"]
    tensors, header = read_lora_file(str(model.lora), file)
    if all(name.startswith(PEFT) for name in tensors):
        tensors = _from_peft(model, tensors, files)
    text = {name: tensor for name, tensor in tensors.items() if is_for_text(name)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in text}
    try:
        used = merge_text_lora(pipeline, text, header)
        if plain:
            _load_unet(pipeline, plain, file if header else None)
            used += _matrices(pipeline.unet)
    except Exception as error:  # foreign tensors make diffusers and peft raise any kind of exception
        raise ModelError(
            f"model.lora: '{model.lora}' does not fit '{model.id}': {one_line(error)}.", INSTEAD
        ) from error
    given = len({split(name)[0] for name in tensors})
    if not given or used != given:
        raise ModelError(
            f"model.lora: of the {given} layers of '{model.lora}' {used} are in '{model.id}'; it was made for another "
            "kind of model.",
            INSTEAD,
        )
    if plain:
        pipeline.fuse_lora(["unet"], safe_fusing=True)
        pipeline.unload_lora_weights()
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        if getattr(pipeline, part, None) is not None:
            getattr(pipeline, part).to(dtype)


def _load_unet(pipeline: Any, tensors: Tensors, file: Path | None) -> None:
    """Put the LoRA beside the U-Net's weights. file: where a header says its alpha.

    The text encoders are not diffusers' to load: it goes through transformers, which asks for a newer peft.
    """
    if file is None:
        pipeline.load_lora_weights(tensors)
        return
    found, alphas, settings = pipeline.lora_state_dict(
        file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True, return_lora_metadata=True
    )
    unet = {name: tensor.float() for name, tensor in found.items() if not is_for_text(name)}
    settings = {name: value for name, value in (settings or {}).items() if not is_for_text(name)}
    pipeline.load_lora_into_unet(unet, alphas, pipeline.unet, metadata=settings or None, _pipeline=pipeline)


def _from_peft(model: Model, tensors: Tensors, files: dict[str, Path]) -> Tensors:
    """peft's tensors in diffusers' names, with alpha / rank multiplied into B (1 without settings)."""
    if SETTINGS not in files:
        raise ModelError(
            f"model.lora: '{model.lora}' is peft's and has no {SETTINGS} beside it, which says its alpha.", INSTEAD
        )
    settings = read_config(files[SETTINGS])
    for key, plain in PLAIN.items():
        if settings.get(key, plain) not in (plain, [] if plain is None else plain):
            raise ModelError(f"model.lora: {files[SETTINGS]} has {key} {json.dumps(settings[key])}.", INSTEAD)
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("alpha_pattern") or settings.get("rank_pattern"):
        raise ModelError(f"model.lora: {files[SETTINGS]} is not of a LoRA of one rank and one alpha.", INSTEAD)
    factor = float(settings["lora_alpha"]) / int(settings["r"])
    found = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(PEFT)
        prefix = "text_encoder" if inner.startswith("text_model.") else "unet"
        found[f"{prefix}.{inner}"] = tensor * factor if ".lora_B." in name else tensor
    return found


def _matrices(part: Any) -> int:
    """Number of layers of a part that have a LoRA."""
    from peft.tuners.lora import LoraLayer

    return sum(isinstance(module, LoraLayer) for module in part.modules())
