"""The adapter: a LoRA on the network's attention through peft, saved in diffusers' own file format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.functional import conv2d, linear

from ..attention.layers import Network, kind_of
from ..errors import ModelError, ParamsError, did_you_mean, one_line
from .mmdit import part_name

if TYPE_CHECKING:
    from ..params import Lora

FILE = "pytorch_lora_weights.safetensors"  # the name diffusers' load_lora_weights looks for
METADATA = "lora_adapter_metadata"  # key of peft's settings in diffusers' headers
OUTER_NAME = re.compile(
    r"(?:.*\.)?(?:(?:single_)?transformer_blocks|attentions|resnets|downsamplers|upsamplers)\.\d+\."
)


def add_lora(network: Network, lora: Lora, seed: int) -> None:
    """Attach a new adapter with zero effect (B = 0); A is random, from ``seed``.

    Alpha equals the rank, so that every program that reads the file computes B A with the factor 1.
    Raises ParamsError for a target that this network does not have.
    """
    from peft import LoraConfig

    check_targets(network, lora.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(
            LoraConfig(
                r=lora.rank, lora_alpha=lora.rank, target_modules=list(lora.targets), init_lora_weights="gaussian"
            )
        )


def check_targets(network: Network, targets: Sequence[str]) -> None:
    """Each target must be a suffix of names of layers, and only of linear layers and convolutions.

    peft ignores a target that matches nothing if another one matches. Raises ParamsError.
    """
    layers = {name: isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) for name, layer in network.named_modules()}
    for target in targets:
        named = [fits for name, fits in layers.items() if f".{name}".endswith(f".{target}")]
        if not named or not all(named):
            known = sorted({OUTER_NAME.sub("", name) for name, fits in layers.items() if fits})
            short = [name.partition(".")[2] for name in known]
            kind = kind_of(network)
            what = f"no layer of this {kind}" if not named else f"layers of this {kind} that no LoRA can be added to"
            raise ParamsError(
                f"lora.targets: '{target}' names {what}; it has {', '.join(known)} (to_q stands for every ...to_q).",
                did_you_mean(target, [*known, *short]) or "Correct lora.targets in params.yaml.",
            )


def trainable(network: Network) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name, in a fixed order."""
    return {name: p for name, p in sorted(network.named_parameters()) if p.requires_grad}


def adapter_tensors(network: Network) -> dict[str, torch.Tensor]:
    """The adapter under ``unet.LAYER.lora_A.weight`` (rank first) and ``lora_B`` (rank second), fp32 on the CPU; a
    transformer's under ``transformer.LAYER``.

    These are peft's names for every kind of layer. diffusers' older names (``lora.down``) exist for attention only,
    and of a file that has both kinds its loader takes one and drops the other.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(network)
    prefix = part_name(network)
    return {f"{prefix}.{name}": value.detach().float().cpu().contiguous() for name, value in found.items()}


def save_lora(network: Network, folder: Path) -> Path:
    """Write the adapter as ``folder/pytorch_lora_weights.safetensors``; returns the file.

    Rank, alpha and targets are in its header; without them diffusers and peft assume that alpha is the rank.
    """
    config = network.peft_config["default"]
    settings = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    header = json.dumps({f"{part_name(network)}.{key}": value for key, value in settings.items()}, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(to_bytes(adapter_tensors(network), {"format": "pt", METADATA: header}))
    return folder / FILE


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose metadata is sorted: the library writes it in a random order, and equal adapters would
    have different bytes."""
    data = save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def read_lora(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """The adapter's tensors in peft's names, and its settings (``unet.r``, ``unet.lora_alpha``, ...) if it has any.

    Raises ModelError if there is no readable safetensors file, or if it holds a NaN or an infinity.
    """
    file = folder / FILE
    try:
        with safe_open(file, "pt") as opened:
            tensors = {_peft_name(name): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            settings = (opened.metadata() or {}).get(METADATA)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise ValueError(f"{name} is {'NaN or infinite' if tensor.is_floating_point() else tensor.dtype}")
        return tensors, json.loads(settings) if settings else None
    except (OSError, SafetensorError, RecursionError, RuntimeError, ValueError) as error:  # torch's are RuntimeErrors
        raise ModelError(
            f"adapter: {file} cannot be read: {one_line(error)}.", "See what is damaged with 'dfusion verify runs'."
        ) from error


def prefix_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The prefix of an adapter's names: "unet" or "transformer"."""
    return next(iter(tensors)).partition(".")[0]


def _peft_name(name: str) -> str:
    """diffusers' older names of A and B, as its training scripts write them, in peft's."""
    return name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")


def load_lora(network: Network, folder: Path, *, train: bool) -> None:
    """Attach the adapter of ``folder``: trainable, or merged into fp32 weights if nothing is trained.

    Weights of 16 bits are too coarse for the sum: the merged adapter would differ from the trained one. There it
    is not merged, so that sampling and training compute the same. Adapters are merged once, into newly
    loaded weights, because unmerging and merging again leaves rounding errors.
    Raises ModelError if the file cannot be read, or was made for another model.
    """
    tensors, settings = read_lora(folder)
    prefix = part_name(network)
    try:
        network.load_lora_adapter(tensors, prefix=prefix, adapter_name="default", metadata=settings)
        foreign = sorted(tensors.keys() - adapter_tensors(network).keys())
    except Exception as error:  # foreign tensors and settings make peft raise any kind of exception
        raise _misfit(folder, one_line(error)) from error
    if foreign:
        raise _misfit(folder, f"the {kind_of(network)} has no {foreign[0].removeprefix(f'{prefix}.')}")
    if train or network.dtype != torch.float32:
        network.requires_grad_(False)
        keep_in_fp32(network)
        _set_values(network, tensors)  # again: loading has rounded them to the network's dtype
    else:
        network.fuse_lora()
    if not train:
        network.requires_grad_(False)


def keep_in_fp32(network: Network) -> None:
    """Make the adapter trainable: weights in fp32, products in the network's dtype.

    In 16 bits AdamW's moments underflow and small steps are lost. peft would convert each layer's input to fp32 as
    well, and autograd would keep the copies: a third more memory in training.
    """
    from peft.tuners.lora import LoraLayer

    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
            for layer in (*module.lora_A.values(), *module.lora_B.values()):
                layer.weight.data = layer.weight.data.float()
                layer.requires_grad_(True)
                layer.forward = partial(_in_dtype_of_input, layer)


def _in_dtype_of_input(layer: torch.nn.Linear | torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    weight = layer.weight.to(x.dtype)
    if isinstance(layer, torch.nn.Conv2d):
        return conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return linear(x, weight)


def _set_values(network: Network, tensors: dict[str, torch.Tensor]) -> None:
    from peft import set_peft_model_state_dict

    start = f"{part_name(network)}."
    set_peft_model_state_dict(network, {name.removeprefix(start): value for name, value in tensors.items()})


def _misfit(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"adapter: {folder / FILE} does not fit this model: {why}.",
        "Set model.id to the model that it was trained on, or run 'dvc repro' to train a new one.",
    )
