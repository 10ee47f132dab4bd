"""model.lora: a LoRA that is part of the base model, merged into the weights in every stage.

Files of diffusers, kohya's tools and peft are read; the reference model of the training is the base with this LoRA.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelError, one_line
from .added import OTHER_LORA as INSTEAD
from .added import SETTINGS
from .configs import read_config

if TYPE_CHECKING:
    from ..params import Model

PEFT = "base_model.model."  # before the names of its tensors
DOWN = re.compile(r"[._](lora_A|lora_down|lora\.down|lora_linear_layer\.down|to_\w+_lora\.down)\.(default\.)?weight$")
KNOWN = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|down|up)\.(default\.)?weight$|\.alpha$|\.lora_(A|B)$")
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None, "lora_bias": False}


def merge_base_lora(model: Model, pipeline: Any, files: dict[str, Path], dtype: torch.dtype) -> None:
    """Add the LoRA to the pipeline's weights, which are in fp32, and round the sums to ``dtype`` once.

    Raises ModelError if the file is not a plain LoRA, or if a part of it matches no layer.
    """
    tensors, file = _read(model, files), files["weights.safetensors"]
    parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, part, None) is not None]
    try:
        if all(name.startswith(PEFT) for name in tensors):
            pipeline.load_lora_weights(_from_peft(model, tensors, files))
        else:  # the file itself: its header may have alpha
            pipeline.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True)
        used = sum(_matrices(getattr(pipeline, part)) for part in parts)
    except Exception as error:  # foreign tensors make diffusers and peft raise any kind of exception
        raise ModelError(
            f"model.lora: '{model.lora}' does not fit '{model.id}': {one_line(error)}.", INSTEAD
        ) from error
    given = sum(bool(DOWN.search(name)) for name in tensors)
    if not given or used != given:
        raise ModelError(
            f"model.lora: of the {given} layers of '{model.lora}' {used} are in '{model.id}'; it was made for another "
            "kind of model.",
            INSTEAD,
        )
    pipeline.fuse_lora([part for part in parts if _matrices(getattr(pipeline, part))], safe_fusing=True)
    pipeline.unload_lora_weights()
    for part in (*parts, "vae"):
        getattr(pipeline, part).to(dtype)


def _read(model: Model, files: dict[str, Path]) -> dict[str, torch.Tensor]:
    """The tensors of a plain LoRA."""
    file = files["weights.safetensors"]
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"model.lora: {file} cannot be read: {one_line(error)}.", INSTEAD) from error
    for name, tensor in tensors.items():
        if not KNOWN.search(name):
            raise ModelError(f"model.lora: {file} has {name}, which no plain LoRA has.", INSTEAD)
        if not tensor.isfinite().all():
            raise ModelError(f"model.lora: {file} is damaged: {name} is NaN or infinite.", INSTEAD)
    return tensors


def _from_peft(model: Model, tensors: dict[str, torch.Tensor], files: dict[str, Path]) -> dict[str, torch.Tensor]:
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
