"""The part of a LoRA file that changes the text encoders, added to their weights."""

from __future__ import annotations

import re
from typing import Any

import torch

from .lora_files import Tensors, split

# diffusers', and kohya's, where 1 and 2 are the encoders of SDXL
PREFIX = re.compile(r"text_encoder(?P<two>_2)?\.|lora_te(?P<number>[12]?)_")
OLDER = re.compile(r"_to_(q|k|v|out)$")  # diffusers' names of 2023: to_q_lora.down
MUST_BE = {"use_dora": False, "use_rslora": False, "alpha_pattern": {}, "rank_pattern": {}}


def is_for_text(name: str) -> bool:
    """Whether a tensor changes a text encoder."""
    return PREFIX.match(name) is not None


@torch.no_grad()
def merge_text_lora(pipeline: Any, tensors: Tensors, header: dict[str, Any]) -> int:
    """Add B A to the weights of the layers, with the header's alpha; returns how many layers.

    Raises ValueError for a layer that no text encoder has, or settings of another kind of LoRA.
    """
    pairs: dict[tuple[str, str], Tensors] = {}
    for name, tensor in tensors.items():
        part, layer = _place(split(name)[0])
        pairs.setdefault((part, layer), {})[split(name)[1]] = tensor
    for (part, layer), pair in pairs.items():
        known = _layers(getattr(pipeline, part, None))
        if layer not in known:
            raise ValueError(f"the model has no layer {part}.{layer}")
        factor = _factor(header, part, len(pair["down"]))
        known[layer].weight.add_(factor * (pair["up"] @ pair["down"]))
    return len(pairs)


def _place(layer: str) -> tuple[str, str]:
    """The text encoder and, with _ for every dot, the name of a layer in it."""
    match = PREFIX.match(layer)
    assert match is not None
    second = match["two"] or match["number"] == "2"
    flat = layer[match.end() :].replace(".", "_").removeprefix("text_model_")
    flat = OLDER.sub(lambda old: f"_{old[1]}_proj", flat)
    return "text_encoder_2" if second else "text_encoder", flat


def _layers(encoder: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers of an encoder by their names with _ for every dot."""
    modules = encoder.named_modules() if encoder is not None else ()
    return {
        name.removeprefix("text_model.").replace(".", "_"): module
        for name, module in modules
        if isinstance(module, torch.nn.Linear)
    }


def _factor(header: dict[str, Any], part: str, rank: int) -> float:
    """Alpha over rank: 1 where the header does not say."""
    for key, wanted in MUST_BE.items():
        if header.get(f"{part}.{key}", wanted) not in (wanted, None):
            raise ValueError(f"its header has {part}.{key} {header[f'{part}.{key}']}")
    return float(header.get(f"{part}.lora_alpha", rank)) / rank
