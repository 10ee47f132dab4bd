"""The adapter as `PeftModel.from_pretrained` reads it: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from ...models.lora import prefix_of, to_bytes
from .base_model import Base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WITHIN = "base_model.model"  # where peft's wrapper keeps the model


def peft_files(
    tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], rank: int, alpha: float, base: Base
) -> dict[str, bytes]:
    """Both files. ``tensors`` have peft's names below ``unet.`` or ``transformer.``; ``settings`` are those of the
    adapter's header.

    Only what decides the adapter is in the settings: those of a newer peft may be refused by an older one.
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
    """The full names of the layers that have an adapter: for files whose header does not say."""
    return sorted({name.partition(".")[2].rsplit(".lora_", 1)[0] for name in tensors})
