"""The adapter: a LoRA on the U-Net's attention through peft, saved in diffusers' own file format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from .params import Lora

FILE = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_weights looks for
PREFIX = "unet"


def add_lora(unet: UNet2DConditionModel, lora: Lora, seed: int) -> None:
    """Attach a fresh adapter whose effect is zero (B = 0); A is drawn from ``seed``.

    Alpha equals the rank, so the effect is B A without a further factor in every program that reads the file.
    """
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(
            r=lora.rank, lora_alpha=lora.rank, target_modules=list(lora.targets), init_lora_weights="gaussian"))


def trainable(unet: UNet2DConditionModel) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name, in a fixed order."""
    return {name: p for name, p in sorted(unet.named_parameters()) if p.requires_grad}


def adapter_tensors(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The adapter in diffusers' key names, fp32 on the CPU."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    found = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    return {f"{PREFIX}.{name}": value.detach().float().cpu().contiguous() for name, value in found.items()}


def save_lora(unet: UNet2DConditionModel, folder: Path) -> Path:
    """Write the adapter as ``folder/pytorch_lora_weights.safetensors``; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors(unet), folder / FILE, metadata={"format": "pt"})
    return folder / FILE


def load_lora(unet: UNet2DConditionModel, folder: Path, *, train: bool) -> None:
    """Attach the adapter of ``folder``: trainable, or merged into the weights where nothing is trained.

    Merging happens once, into freshly loaded weights: unmerging and merging again would leave rounding behind.
    """
    unet.load_lora_adapter(str(folder), weight_name=FILE, prefix=PREFIX, adapter_name="default")
    if train:
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        unet.fuse_lora()
        unet.requires_grad_(False)
