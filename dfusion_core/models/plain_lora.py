"""A LoRA file of diffusers, kohya or peft as the same LoRA in one form: a factor of 1, and one rank in all layers.

diffusers' reader takes one alpha for all layers of a file, and passes over half a layer whose other half is missing.
So alpha over rank is multiplied into B here, and what is no plain LoRA is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import pad

from ..errors import ModelError, one_line, short
from .added import OTHER_LORA as INSTEAD
from .added import SETTINGS
from .configs import read_config
from .lora import METADATA

if TYPE_CHECKING:
    from ..params import Model

PEFT = "base_model.model."  # before the names of its tensors
DOWN = re.compile(r"[._](lora_A|lora_down|lora\.down|lora_linear_layer\.down|to_\w+_lora\.down)\.(default\.)?weight$")
ALPHA = ".alpha"
# Other ways to change a model, by names of their tensors; none of them can be read as a LoRA.
OTHERS = {
    "LoHa": re.compile(r"hada_"),
    "LoKr": re.compile(r"lokr_"),
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "OFT": re.compile(r"oft_"),
    "IA3": re.compile(r"ia3_|\.on_input$"),
    "a LoRA with a Tucker core": re.compile(r"lora_mid"),
    "the difference of whole weights": re.compile(r"\.diff(_b)?$"),
}
NAME = 200  # characters of a tensor's name that a message quotes; what tells names apart is their end
# What settings may say besides rank and alpha: none of it changes what the tensors mean.
HARMLESS = {
    *("base_model_name_or_path", "revision", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "runtime_config"),
    *("megatron_core", "qalora_group_size", "corda_config", "eva_config", "loftq_config", "lora_ga_config"),
}
PLAIN = {"peft_type": "LORA", "bias": "none"}
STARTS = (True, False, "gaussian", "eva", "orthogonal")  # others change the base model's weights as well
Tensors = dict[str, torch.Tensor]


def read_plain_lora(model: Model, files: Mapping[str, Path]) -> Tensors:
    """The tensors of ``model.lora`` in names that diffusers reads, fp32; every layer's effect is B A.

    Raises ModelError with the file and the tensor or the setting that is in the way.
    """
    file = files["weights.safetensors"]
    tensors, header = _read(file)
    layers = _layers(file, tensors)
    found: Tensors = {}
    is_peft = all(down.startswith(PEFT) for down, _, _ in layers)
    settings = _peft_settings(model, files) if is_peft else _header_settings(file, header)
    for down, up, alpha in layers:
        rows = len(tensors[down])
        if alpha is None:
            factor = _factor(file, _of_part(settings, down, is_peft), rows, down)
        else:
            factor = _number(file, alpha, tensors[alpha]) / rows
        found |= {down: tensors[down], up: tensors[up] * factor}
    rank = max(len(tensors[down]) for down, _, _ in layers)
    for down, up, _ in layers:  # further rows of A and columns of B that are 0 change no product
        missing = rank - len(found[down])
        found[down] = pad(found[down], (0, 0) * (found[down].ndim - 1) + (0, missing))
        found[up] = pad(found[up], (0, 0) * (found[up].ndim - 2) + (0, missing))
    return {_renamed(name): tensor for name, tensor in found.items()} if is_peft else found


def _read(file: Path) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a file in fp32, and its header."""
    tensors: Tensors = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                if not tensor.is_floating_point():
                    raise ValueError(f"{short(name, NAME)} is {tensor.dtype}")
                if not (exact := tensor.float()).isfinite().all():
                    raise ValueError(f"{short(name, NAME)} is NaN or infinite")
                tensors[name] = exact
            return tensors, dict(opened.metadata() or {})
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"model.lora: {file} cannot be read: {one_line(error)}.", INSTEAD) from error


def _layers(file: Path, tensors: Tensors) -> list[tuple[str, str, str | None]]:
    """(A, B, alpha) of each layer by name. Raises ModelError for a tensor that is none of these."""
    for name in sorted(tensors):
        if kind := next((kind for kind, sign in OTHERS.items() if sign.search(name)), None):
            raise ModelError(
                f"model.lora: {file} has {short(name, NAME)}, so it is {kind}, and no plain LoRA.", INSTEAD
            )
    found: list[tuple[str, str, str | None]] = []
    for name in tensors:
        if part := DOWN.search(name):
            up = up_of(name)
            _check_halves(file, tensors, name, up)
            stems = (name[: part.start()], name.removesuffix(".weight").removesuffix(".down"))
            found.append((name, up, next((f"{stem}{ALPHA}" for stem in stems if f"{stem}{ALPHA}" in tensors), None)))
    known = {name for layer in found for name in layer}
    if other := sorted(tensors.keys() - known):
        raise ModelError(
            f"model.lora: {file} has {short(other[0], NAME)}, which belongs to no layer of a plain LoRA.", INSTEAD
        )
    if not found:
        raise ModelError(f"model.lora: {file} has no layer of a LoRA.", INSTEAD)
    return found


def up_of(down: str) -> str:
    """The name of B for that of A."""
    part = DOWN.search(down)
    assert part is not None
    return down[: part.start()] + part[0].replace("lora_A", "lora_B").replace("down", "up")


def _check_halves(file: Path, tensors: Tensors, down: str, up: str) -> None:
    """B must be there, with as many columns as A has rows."""
    if up not in tensors:
        raise ModelError(
            f"model.lora: {file} is not whole: it has {short(down, NAME)} and no {short(up, NAME)}.", INSTEAD
        )
    first, second = tensors[down].shape, tensors[up].shape
    if min(len(first), len(second)) < 2 or not first[0] or first[0] != second[1]:
        raise ModelError(
            f"model.lora: {file}: {short(down, NAME)} {tuple(first)} and {short(up, NAME)} {tuple(second)} have no "
            "rank in common.",
            INSTEAD,
        )


def _number(file: Path, name: str, tensor: torch.Tensor) -> float:
    if tensor.numel() != 1:
        raise ModelError(f"model.lora: {file}: {short(name, NAME)} is {tuple(tensor.shape)} and no number.", INSTEAD)
    return float(tensor)


def _peft_settings(model: Model, files: Mapping[str, Path]) -> dict[str, Any]:
    """What peft keeps beside its tensors: without it nobody knows alpha."""
    if SETTINGS not in files:
        raise ModelError(
            f"model.lora: '{model.lora}' is peft's and has no {SETTINGS} beside it, which says its alpha.", INSTEAD
        )
    found = read_config(files[SETTINGS], "model.lora")
    if not isinstance(found, dict):
        raise ModelError(f"model.lora: {files[SETTINGS]} holds no object of JSON.", INSTEAD)
    if missing := [key for key in ("r", "lora_alpha") if key not in found]:
        raise ModelError(f"model.lora: {files[SETTINGS]} has no {missing[0]}.", INSTEAD)
    _check_settings(files[SETTINGS], found)
    return found


def _header_settings(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings in the header of diffusers' files, as ``unet.r``; none in older ones, where alpha is the rank."""
    try:
        found = json.loads(header.get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"model.lora: {METADATA} in the header of {file} cannot be read: {one_line(error)}.", INSTEAD
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"model.lora: {METADATA} in the header of {file} is no object of JSON.", INSTEAD)
    _check_settings(file, {key.partition(".")[2]: value for key, value in found.items()})
    return found


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Raise ModelError for a setting by which B A would mean something else."""
    for key, value in settings.items():
        if key in ("r", "lora_alpha", *HARMLESS):
            continue
        starts = key == "init_lora_weights" and any(value is one or value == one for one in STARTS)
        if value and not starts and PLAIN.get(key) != value:
            raise ModelError(
                f"model.lora: {file} has {short(key)} {short(json.dumps(value))}: it is no plain LoRA.", INSTEAD
            )


def _of_part(settings: Mapping[str, Any], name: str, is_peft: bool) -> tuple[Any, Any]:
    """(rank, alpha) that the settings give the part of the model that a tensor is of; None where they say nothing."""
    prefix = "" if is_peft else f"{name.partition('.')[0]}."
    return settings.get(f"{prefix}r"), settings.get(f"{prefix}lora_alpha")


def _factor(file: Path, said: tuple[Any, Any], rows: int, name: str) -> float:
    """Alpha over rank of a layer with so many rows in A."""
    rank, alpha = said
    if rank is None and alpha is None:
        return 1.0
    if type(rank) is not int or rank != rows:
        raise ModelError(
            f"model.lora: {file}: its settings have r {short(json.dumps(rank))}, and {short(name, NAME)} {rows} rows.",
            INSTEAD,
        )
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ModelError(f"model.lora: {file}: its settings have lora_alpha {short(json.dumps(alpha))}.", INSTEAD)
    return float(alpha) / rank


def _renamed(name: str) -> str:
    """peft's name of a tensor as diffusers has it."""
    inner = name.removeprefix(PEFT)
    return f"{'text_encoder' if inner.startswith('text_model.') else 'unet'}.{inner}"
