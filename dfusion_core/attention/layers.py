"""Names of a U-Net's layers and of the attention modules in them.

Layers have names, from the topology: down_0.., mid, up_0.. (SD 2.1's layers 0-6 of the paper are down_0,
down_1, down_2, mid, up_1, up_2, up_3); a self-attention module is "up_1.0", "up_1.1", ... in the order of the
layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..errors import DFusionError, did_you_mean

UNet: TypeAlias = Any  # diffusers' UNet2DConditionModel, whose attributes type checkers do not see

SAME_RESOLUTION = "same_resolution"


class LayerError(DFusionError, ValueError):
    """A layer name that this U-Net does not have, or a layer without attention."""


def layer_paths(unet: UNet) -> dict[str, str]:
    """Layer name -> path of its block: {"down_0": "down_blocks.0", ..., "mid": "mid_block", "up_0": ...}."""
    paths = {f"down_{k}": f"down_blocks.{k}" for k in range(len(unet.down_blocks))}
    if unet.mid_block is not None:
        paths["mid"] = "mid_block"
    return paths | {f"up_{k}": f"up_blocks.{k}" for k in range(len(unet.up_blocks))}


def present_layers(unet: UNet, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted layers that exist here and have attention, in the order wanted.

    For the paper's list (mid, up_1, up_2, up_3) on U-Nets of fewer levels. Raises LayerError for a name that
    no U-Net has ("up1") and if nothing is left.
    """
    for name in wanted:
        if not re.fullmatch(r"mid|(down|up)_\d+", name):
            raise _unknown_layer(unet, name)
    present = tuple(name for name in wanted if name in layer_paths(unet) and _modules(unet, name, "attn1"))
    if not present:
        raise LayerError(f"none of the layers {', '.join(wanted)} has attention here.", f"{_choices(unet)}.")
    return present


def fused_layers(unet: UNet, wanted: Sequence[str]) -> tuple[str, ...]:
    """``wanted``, if each of them exists here and has self-attention. Raises LayerError that names those that do not."""
    if absent := [name for name in wanted if name not in layer_paths(unet) or not _modules(unet, name, "attn1")]:
        raise LayerError(
            f"fuse.layers: this U-Net has no attention in {', '.join(absent)}.",
            f"{_choices(unet)}. Set fuse.layers to [{', '.join(from_mid_on(unet))}], the paper's choice from mid on.",
        )
    return tuple(wanted)


def from_mid_on(unet: UNet) -> list[str]:
    """The layers that the paper fuses: of those with attention, mid and the up blocks."""
    there = (name for name in layer_paths(unet) if _modules(unet, name, "attn1"))
    return [name for name in there if name == "mid" or name.startswith("up_")]


def self_attention_modules(unet: UNet, layers: Sequence[str]) -> dict[str, str]:
    """{"up_1.0": "up_blocks.1.attentions.0.transformer_blocks.0.attn1", ...}. Raises LayerError."""
    return {f"{name}.{k}": path for name in layers for k, path in enumerate(_attention_of_layer(unet, name, "attn1"))}


def cross_attention_modules(unet: UNet, modules: str) -> tuple[str, ...]:
    """Paths of the attn2 modules whose maps are read.

    modules: a layer name ("up_1": the paper), or "same_resolution" (the authors' code): all of the resolution
    of the first cross-attention up block, in SD the two of down_2 and the three of up_1. Raises LayerError.
    """
    if modules != SAME_RESOLUTION:
        return _attention_of_layer(unet, modules, "attn2")
    level = _level(unet, first_cross_up_block(unet))
    same = [name for name in layer_paths(unet) if _level(unet, name) == level]
    return tuple(path for name in same for path in _modules(unet, name, "attn2"))


def first_cross_up_block(unet: UNet) -> str:
    """Name of the first up block with cross-attention: up_1 in SD. Raises LayerError."""
    for name in layer_paths(unet):
        if name.startswith("up_") and _modules(unet, name, "attn2"):
            return name
    raise LayerError("no up block of this U-Net has cross-attention.", _choices(unet))


def _level(unet: UNet, name: str) -> int:
    """How often the latent has been halved in a block: 0, 1, ... down, and back up again."""
    kind, _, k = name.partition("_")
    deepest = len(unet.down_blocks) - 1
    return {"down": int(k or 0), "mid": deepest, "up": deepest - int(k or 0)}[kind]


def _modules(unet: UNet, name: str, kind: str) -> tuple[str, ...]:
    prefix = layer_paths(unet)[name]
    paths = (path for path, _ in unet.named_modules() if path.startswith(f"{prefix}."))
    return tuple(path for path in paths if path.endswith(f".{kind}"))


def _attention_of_layer(unet: UNet, name: str, kind: str) -> tuple[str, ...]:
    if name not in layer_paths(unet):
        raise _unknown_layer(unet, name)
    if not (paths := _modules(unet, name, kind)):
        raise LayerError(f"layer {name!r} of this U-Net has no attention.", _choices(unet))
    return paths


def _choices(unet: UNet) -> str:
    return "Layers with attention: " + ", ".join(n for n in layer_paths(unet) if _modules(unet, n, "attn1"))


def _unknown_layer(unet: UNet, name: str) -> LayerError:
    hint = f"{did_you_mean(name, layer_paths(unet))} {_choices(unet)}".strip()
    return LayerError(f"this U-Net has no layer {name!r}.", hint)
