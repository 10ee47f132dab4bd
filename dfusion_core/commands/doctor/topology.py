"""The layers with attention, and those that fuse.layers, sample.maps and lora.targets use."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ...attention.grid import Grid
from ...attention.layers import (
    SAME_RESOLUTION,
    LayerError,
    cross_attention_modules,
    first_cross_up_block,
    fused_layers,
    is_transformer,
    layer_paths,
    present_layers,
    self_attention_modules,
)
from ...models.lora import add_lora, load_lora, save_lora, trainable
from .facts import Facts
from .findings import Finding, failed, ok, warning


def topology(facts: Facts) -> Finding:
    """Every layer with attention: modules, heads, positions, and the parameters that use it."""
    there = with_attention(facts)
    rows = [row(facts, name) for name in there]
    own, cross = (sum(one[kind] for one in rows) for kind in ("self-attention", "cross-attention"))
    found = f"attention in {', '.join(there)}: {own} self-attention and {cross} cross-attention modules"
    return ok(found, details=rows)


def row(facts: Facts, name: str) -> dict[str, Any]:
    """A layer's row of the table, with the numbers of its modules that are fused, read for maps, and adapted."""
    unet, params = facts.policy.unet, facts.params
    prefix, (height, width) = f"{layer_paths(unet)[name]}.", resolution(facts, name)
    own, cross = self_attention_modules(unet, [name]), cross_attention_modules(unet, name)
    key, _ = facts.kv[f"{name}.0"]
    return {
        "layer": name,
        "resolution": f"{height}x{width}",
        "tokens": height * width,
        "heads": key.shape[1],
        "channels a head": key.shape[3],
        "self-attention": len(own),
        "cross-attention": len(cross),
        "fused": len(own) if name in params.fuse.layers else 0,
        "maps": sum(path.startswith(prefix) for path in _map_modules(facts)),
        "adapted": sum(path.startswith(prefix) for paths in _named(facts).values() for path in paths),
    }


def with_attention(facts: Facts) -> tuple[str, ...]:
    """The names of the layers that have attention."""
    return present_layers(facts.policy.unet, list(layer_paths(facts.policy.unet)))


def resolution(facts: Facts, layer: str) -> tuple[int, int]:
    """(height, width) of a layer's attention at the size of the run, from the keys of the test forward pass."""
    grid = Grid()
    grid.latent = facts.size
    tried = grid.size(facts.kv[f"{layer}.0"][0].shape[2])
    height, width = (
        side * full // small for side, full, small in zip(tried, facts.policy.latent_shape[1:], facts.size, strict=True)
    )
    return height, width


def fuse_layers(facts: Facts) -> Finding:
    """Each of fuse.layers exists and has attention."""
    unet = facts.policy.unet
    present = fused_layers(unet, facts.params.fuse.layers)
    return ok(f"{len(self_attention_modules(unet, present))} self-attention modules of {', '.join(present)}")


def map_layer(facts: Facts) -> Finding:
    """sample.maps names existing cross-attention, of the first up block with cross-attention."""
    unet, wanted = facts.policy.unet, facts.params.sample.maps
    first = first_cross_up_block(unet)
    remedy = f"Set sample.maps to {first}: the first up block with cross-attention, as in the paper."
    try:
        count = len(cross_attention_modules(unet, wanted))
    except LayerError as error:
        return failed(f"{error.message} {error.hint}", remedy)
    height, width = resolution(facts, first if wanted == SAME_RESOLUTION else wanted)
    found = f"{count} cross-attention modules of {wanted}, maps of {height}x{width}"
    if is_transformer(unet):  # any block may localise
        return ok(found)
    return ok(found) if wanted in (first, SAME_RESOLUTION) else warning(f"{found}; {first} comes before it", remedy)


def adapter_layers(facts: Facts) -> Finding:
    """lora.targets names layers; attaches the adapter, as `train` loads it."""
    unet, lora, layers = facts.policy.unet, facts.params.lora, _named(facts)
    add_lora(unet, lora, facts.params.seed)
    with tempfile.TemporaryDirectory() as folder:
        save_lora(unet, Path(folder))
        unet.delete_adapters("default")
        load_lora(unet, Path(folder), train=True)
    count = sum(weights.numel() for weights in trainable(unet).values())
    each = ", ".join(f"{target} {len(paths)}" for target, paths in layers.items())
    return ok(f"layers: {each}; {count:,} trainable weights of rank {lora.rank}")


def _map_modules(facts: Facts) -> tuple[str, ...]:
    try:
        return cross_attention_modules(facts.policy.unet, facts.params.sample.maps)
    except LayerError:  # reported by another check
        return ()


def _named(facts: Facts) -> dict[str, list[str]]:
    """The layers that each of lora.targets names, by peft's rule."""
    names = [name for name, _ in facts.policy.unet.named_modules()]
    targets = facts.params.lora.targets
    return {target: [name for name in names if f".{name}".endswith(f".{target}")] for target in targets}
