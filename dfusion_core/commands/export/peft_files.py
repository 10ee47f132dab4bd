"""The adapter for `PeftModel.from_pretrained`: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from ...models.lora import prefix_of, to_bytes
from .base_model import Base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WITHIN = "base_model.model"  # prefix of the model in peft's wrapper


def peft_files(
    tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], rank: int, alpha: float, base: Base
) -> dict[str, bytes]:
    """Both files. ``tensors`` have peft's names below ``unet.`` or ``transformer.``; ``settings`` are those of the
    adapter's header.

    The settings have only what the adapter depends on, because an older peft may refuse those of a newer one.
    """
    prefix = prefix_of(tensors)
    renamed = {f"{WITHIN}.{name.removeprefix(f'{prefix}.')}": value for name, value in tensors.items()}
    config = {
        "base_model_name_or_path": base.id,
        "inference_mode": True,
        "lora_alpha": alpha,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": settings.get(f"{prefix}.target_modules") or layers(tensors),
    }
    return {CONFIG: (json.dumps(config, indent=2) + "\n").encode(), WEIGHTS: to_bytes(renamed, {"format": "pt"})}


def layers(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The full names of the layers with an adapter, for files without settings in the header."""
    return sorted({name.partition(".")[2].rsplit(".lora_", 1)[0] for name in tensors})
