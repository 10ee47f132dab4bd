"""An exported file under the names that ComfyUI looks for: every key names a weight; merged, they are the adapter.

ComfyUI has a model's weights under the names of original checkpoints (``input_blocks.1.1...``), and finds a layer of
a LoRA by either of two names: ``lora_unet_`` and the original name, or ``lora_unet_`` and diffusers' name, with ``_``
for ``.``. Both tables are written down here by their rules, and checked with diffusers' converter of such checkpoints.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file
from test_export_kohya import MODELS, fresh, trained, write

from dfusion_core.commands.export.proof import largest, predict

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original(name: str, config: Any) -> str:
    """The name in an original checkpoint of a parameter that diffusers calls ``name``."""
    layer, kind = name.rsplit(".", 1)
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{kind}"
    if middle := MIDDLE.fullmatch(layer):
        place, number, rest = middle.groups()
        return f"middle_block.{_middle(place, int(number))}.{_rest(place, rest)}.{kind}"
    found = BLOCK.fullmatch(layer)
    assert found, name
    side, block, place, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    each = config.layers_per_block + 1  # down: its blocks and the one that halves; up: one block more
    if side == "down":
        entry = 1 + block * each + (config.layers_per_block if place == "downsamplers" else number)
        part = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[place]
        return f"input_blocks.{entry}.{part}.{'op' if place == 'downsamplers' else _rest(place, rest)}.{kind}"
    entry = block * each + (config.layers_per_block if place == "upsamplers" else number)
    behind = "2" if "CrossAttn" in config.up_block_types[block] else "1"
    part = {"resnets": "0", "attentions": "1", "upsamplers": behind}[place]
    return f"output_blocks.{entry}.{part}.{_rest(place, rest)}.{kind}"


def _middle(place: str, number: int) -> int:
    return 1 if place == "attentions" else 2 * number


def _rest(place: str, rest: str) -> str:
    return RESNET[rest] if place == "resnets" else rest


def lora_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """The original name of a weight by each of the names under which ComfyUI looks for its LoRA."""
    found = {}
    for name in unet.state_dict():
        if name.endswith(".weight"):
            target = original(name, unet.config)
            for one in (name, target):
                found[f"lora_unet_{one.removesuffix('.weight').replace('.', '_')}"] = target
    return found


def as_original(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {original(name, unet.config): value.clone() for name, value in unet.state_dict().items()}


def as_diffusers(weights: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """By diffusers' own converter."""
    prefixed = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    found: dict[str, torch.Tensor] = convert_ldm_unet_checkpoint(prefixed, dict(config))
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_names_here_are_those_of_original_checkpoints(model: str) -> None:
    unet = fresh(model).unet
    found, expected = as_diffusers(as_original(unet), unet.config), unet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.few(1)
@pytest.mark.parametrize("model", MODELS)
def test_every_key_is_found_and_merging_gives_the_adapter(model: str, tmp_path: Path) -> None:
    adapter, plain = trained(model), fresh(model).unet
    file = load_file(write(adapter, tmp_path, model, "fp32"))
    names, weights = lora_names(plain), as_original(plain)
    layers = {key.partition(".")[0] for key in file}
    assert layers and not layers - names.keys(), "lora key not loaded"
    for layer in layers:
        down, up, alpha = (file.pop(f"{layer}.{part}") for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        weight = weights[names[layer]]
        weight += (alpha / down.shape[0] * up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    assert not file  # nothing that the loader does not know
    merged = UNet2DConditionModel.from_config(plain.config)
    merged.load_state_dict(as_diffusers(weights, plain.config))
    ours, base = predict(adapter), predict(plain)
    assert largest(predict(merged) - ours) < 1e-3 * largest(ours - base)
