"""The tensors of a LoRA file: only a whole plain LoRA, both matrices of every layer, alpha inside one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelError, one_line
from .added import OTHER_LORA as INSTEAD
from .lora import METADATA

Tensors = dict[str, torch.Tensor]
NAME = re.compile(
    r"(?P<layer>.+?)[._](?P<which>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|lora_linear_layer\.down"
    r"|lora_linear_layer\.up|lora\.alpha|alpha)(\.default)?(\.weight)?"
)
DOWNS = ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down")
# What names of tensors say of other ways to change a model; none of them can be read as a LoRA.
OTHERS = {
    "LoHa": re.compile(r"hada_"),
    "LoKr": re.compile(r"lokr_"),
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "OFT": re.compile(r"oft_"),
    "IA3": re.compile(r"ia3_|\.on_input$"),
    "a LoRA with a Tucker core": re.compile(r"lora_mid"),
    "the difference of whole weights": re.compile(r"\.diff(_b)?$"),
}


def read_lora_file(lora: str, file: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors in fp32, and the settings in the file's header (``unet.lora_alpha``, ...), if there are any.

    lora: model.lora, for messages. Raises ModelError for a file that is damaged or holds anything else.
    """
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
            header = json.loads((opened.metadata() or {}).get(METADATA) or "{}")
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"model.lora: {file} cannot be read: {one_line(error)}.", INSTEAD) from error
    for name, tensor in sorted(tensors.items()):
        if kind := next((kind for kind, sign in OTHERS.items() if sign.search(name)), None):
            raise ModelError(f"model.lora: {file} has {name}, so it is {kind}, and no plain LoRA.", INSTEAD)
        if not NAME.fullmatch(name):
            raise ModelError(f"model.lora: {file} has {name}, which no plain LoRA has.", INSTEAD)
        if not tensor.isfinite().all():
            raise ModelError(f"model.lora: {file} is damaged: {name} is NaN or infinite.", INSTEAD)
    return with_alphas(tensors, file, header), header


def with_alphas(tensors: Tensors, file: Path, header: dict[str, Any]) -> Tensors:
    """Every layer's two matrices, the second times alpha over rank where the file has an ``alpha`` for it.

    Raises ModelError where one of the two is missing, or where the header says what alpha is as well.
    """
    layers: dict[str, dict[str, str]] = {}
    for name in tensors:
        layer, kind = split(name)
        layers.setdefault(layer, {})[kind] = name
    found = dict(tensors)
    for layer, names in layers.items():
        if not {"down", "up"} <= names.keys():
            raise ModelError(f"model.lora: {file} has only a part of layer {layer}: {', '.join(names)}.", INSTEAD)
        if "alpha" in names and header:
            raise ModelError(f"model.lora: {file} has {names['alpha']}, and another alpha in its header.", INSTEAD)
        if "alpha" in names:
            alpha, rank = found.pop(names["alpha"]), len(tensors[names["down"]])
            found[names["up"]] = tensors[names["up"]] * (float(alpha) / rank)
    return found


def split(name: str) -> tuple[str, str]:
    """The layer of a tensor, and whether it is its "down" (A), "up" (B) or "alpha"."""
    match = NAME.fullmatch(name)
    assert match is not None  # every name was looked at
    which = match["which"]
    return match["layer"], "alpha" if which.endswith("alpha") else "down" if which in DOWNS else "up"
