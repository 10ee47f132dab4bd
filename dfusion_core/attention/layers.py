"""Names of a network's layers and of the attention modules in them.

Layers have names, from the topology: of a U-Net down_0.., mid, up_0.. (SD 2.1's layers 0-6 of the paper are down_0,
down_1, down_2, mid, up_1, up_2, up_3), of a transformer block_0.., and single_0.. for FLUX's single blocks. A
self-attention module is "up_1.0", "up_1.1", ... in the order of the layer. A transformer's joint attention serves as
self-attention and cross-attention: its image tokens attend to one another and to the text. The second attention of
SD 3.5's first blocks ("block_0.1") is among image tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..errors import DFusionError, did_you_mean

Network: TypeAlias = Any  # diffusers' U-Nets and transformers, whose attributes type checkers do not see

SAME_RESOLUTION = "same_resolution"


class LayerError(DFusionError, ValueError):
    """A layer name that this network does not have, or a layer without attention."""


def is_transformer(network: Network) -> bool:
    """Whether its layers are the blocks of a transformer with joint attention."""
    return hasattr(network, "transformer_blocks")


def kind_of(network: Network) -> str:
    """ "transformer" or "U-Net", for messages."""
    return "transformer" if is_transformer(network) else "U-Net"


def layer_paths(network: Network) -> dict[str, str]:
    """Layer name -> path of its block: {"down_0": "down_blocks.0", ..., "mid": "mid_block", "up_0": ...}."""
    if is_transformer(network):
        single = range(len(getattr(network, "single_transformer_blocks", ())))
        paths = {f"block_{k}": f"transformer_blocks.{k}" for k in range(len(network.transformer_blocks))}
        return paths | {f"single_{k}": f"single_transformer_blocks.{k}" for k in single}
    paths = {f"down_{k}": f"down_blocks.{k}" for k in range(len(network.down_blocks))}
    if network.mid_block is not None:
        paths["mid"] = "mid_block"
    return paths | {f"up_{k}": f"up_blocks.{k}" for k in range(len(network.up_blocks))}


def present_layers(network: Network, wanted: Sequence[str]) -> tuple[str, ...]:
    """The layers of ``wanted`` that the network has and that have attention, in the order of ``wanted``.

    Applies the paper's list (mid, up_1, up_2, up_3) to U-Nets with fewer levels. Raises LayerError for a name that
    no network has ("up1") and if nothing is left.
    """
    for name in wanted:
        if not re.fullmatch(r"mid|(down|up|block|single)_\d+", name):
            raise _unknown_layer(network, name)
    present = tuple(name for name in wanted if name in layer_paths(network) and _modules(network, name, "attn1"))
    if not present:
        raise LayerError(f"none of the layers {', '.join(wanted)} has attention here.", f"{_choices(network)}.")
    return present


def fused_layers(network: Network, wanted: Sequence[str]) -> tuple[str, ...]:
    """``wanted``, if all of them exist and have self-attention. Raises LayerError naming the others."""
    if absent := [name for name in wanted if name not in layer_paths(network) or not _modules(network, name, "attn1")]:
        raise LayerError(
            f"fuse.layers: this {kind_of(network)} has no attention in {', '.join(absent)}.",
            f"{_choices(network)}. Set fuse.layers to [{', '.join(from_mid_on(network))}], {_from_mid_on(network)}.",
        )
    return tuple(wanted)


def from_mid_on(network: Network) -> list[str]:
    """The layers that the paper fuses, mid and up blocks with attention; of a transformer all blocks."""
    if is_transformer(network):
        return list(layer_paths(network))
    there = (name for name in layer_paths(network) if _modules(network, name, "attn1"))
    return [name for name in there if name == "mid" or name.startswith("up_")]


def self_attention_modules(network: Network, layers: Sequence[str]) -> dict[str, str]:
    """{"up_1.0": "up_blocks.1.attentions.0.transformer_blocks.0.attn1", ...}. Raises LayerError."""
    return {
        f"{name}.{k}": path for name in layers for k, path in enumerate(_attention_of_layer(network, name, "attn1"))
    }


def cross_attention_modules(network: Network, modules: str) -> tuple[str, ...]:
    """Paths of the attn2 modules whose maps are read.

    modules: a layer name ("up_1": the paper), or "same_resolution" (the authors' code): all modules of the
    resolution of the first cross-attention up block, in SD two of down_2 and three of up_1. For a block of a
    transformer its joint attention. Raises LayerError.
    """
    if modules != SAME_RESOLUTION:
        return _attention_of_layer(network, modules, "attn2", "sample.maps: " if is_transformer(network) else "")
    if is_transformer(network):
        raise LayerError(
            "sample.maps: same_resolution is for U-Nets; all blocks of a transformer have one resolution.",
            f"{_choices(network)}. Set sample.maps to {default_maps(network)}.",
        )
    level = _level(network, first_cross_up_block(network))
    same = [name for name in layer_paths(network) if _level(network, name) == level]
    return tuple(path for name in same for path in _modules(network, name, "attn2"))


def first_cross_up_block(network: Network) -> str:
    """Name of the first up block with cross-attention: up_1 in SD. Raises LayerError."""
    if is_transformer(network):
        return default_maps(network)
    for name in layer_paths(network):
        if name.startswith("up_") and _modules(network, name, "attn2"):
            return name
    raise LayerError("no up block of this U-Net has cross-attention.", _choices(network))


def default_maps(network: Network) -> str:
    """The proposed block for maps of a transformer: the middle one (docs/transformers.md)."""
    names = list(layer_paths(network))
    return names[len(names) // 2]


def _from_mid_on(network: Network) -> str:
    return "all of them" if is_transformer(network) else "the paper's choice from mid on"


def _level(network: Network, name: str) -> int:
    """How often the latent is halved in a block: 0, 1, ... in down blocks, and decreasing in up blocks."""
    kind, _, k = name.partition("_")
    deepest = len(network.down_blocks) - 1
    return {"down": int(k or 0), "mid": deepest, "up": deepest - int(k or 0)}[kind]


def _modules(network: Network, name: str, kind: str) -> tuple[str, ...]:
    """Paths of a layer's attention of a kind: attn1 is self-attention, attn2 cross-attention, by a U-Net's names."""
    prefix = layer_paths(network)[name]
    paths = (path for path, _ in network.named_modules() if path.startswith(f"{prefix}."))
    ends: tuple[str, ...] = (f".{kind}",)
    if is_transformer(network):  # attn is joint attention; attn2, where it exists, is among image tokens
        ends = (".attn", ".attn2") if kind == "attn1" else (".attn",)
    return tuple(path for path in paths if path.endswith(ends))


def _attention_of_layer(network: Network, name: str, kind: str, key: str = "") -> tuple[str, ...]:
    if name not in layer_paths(network):
        raise _unknown_layer(network, name, key)
    if not (paths := _modules(network, name, kind)):
        raise LayerError(f"{key}layer {name!r} of this {kind_of(network)} has no attention.", _choices(network))
    return paths


def _choices(network: Network) -> str:
    return "Layers with attention: " + ", ".join(n for n in layer_paths(network) if _modules(network, n, "attn1"))


def _unknown_layer(network: Network, name: str, key: str = "") -> LayerError:
    hint = f"{did_you_mean(name, layer_paths(network))} {_choices(network)}".strip()
    if is_transformer(network):
        hint += f". Set sample.maps to one of them, as {default_maps(network)}." if key else "."
    return LayerError(f"{key}this {kind_of(network)} has no layer {name!r}.", hint)
