"""The part of a LoRA file that changes the text encoders, added to their weights."""

from __future__ import annotations

import re
from typing import Any

import torch

from .plain_lora import DOWN, Tensors, up_of

# diffusers', and kohya's, where 1 and 2 are the encoders of SDXL
PREFIX = re.compile(r"text_encoder(?P<two>_2)?\.|lora_te(?P<number>[12]?)_")
OLDER = re.compile(r"(?<=self_attn_)to_(q|k|v|out)$")  # diffusers' names of 2023: to_q_lora.down


def is_for_text(name: str) -> bool:
    """Whether a tensor changes a text encoder."""
    return PREFIX.match(name) is not None


@torch.no_grad()
def merge_text_lora(pipeline: Any, tensors: Tensors) -> int:
    """Add B A to the weights of the layers; returns how many layers. Raises ValueError for one that no encoder has."""
    downs = [name for name in tensors if DOWN.search(name)]
    for name in downs:
        part, layer = _place(name)
        known = _layers(getattr(pipeline, part, None))
        if layer not in known:
            raise ValueError(f"the model has no layer {part}.{layer}")
        known[layer].weight.add_(tensors[up_of(name)] @ tensors[name])
    return len(downs)


def _place(name: str) -> tuple[str, str]:
    """The text encoder and, with _ for every dot, the name of a layer in it."""
    match, part = PREFIX.match(name), DOWN.search(name)
    assert match is not None and part is not None
    second = match["two"] or match["number"] == "2"
    layer = name[match.end() : part.start()]
    if older := re.fullmatch(r"[._](to_\w+)_lora\.down\.weight", part[0]):
        layer += f".{older[1]}"
    flat = layer.replace(".", "_").removeprefix("text_model_")
    flat = OLDER.sub(lambda old: f"{old[1]}_proj", flat)
    return "text_encoder_2" if second else "text_encoder", flat


def _layers(encoder: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers of an encoder by their names with _ for every dot."""
    modules = encoder.named_modules() if encoder is not None else ()
    return {
        name.removeprefix("text_model.").replace(".", "_"): module
        for name, module in modules
        if isinstance(module, torch.nn.Linear)
    }
