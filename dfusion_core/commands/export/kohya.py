"""The adapter in kohya's format for ComfyUI and A1111: `lora_unet_LAYER.lora_down.weight`, `.lora_up.weight`,
`.alpha`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import torch

from ...errors import ExportError
from ...models.lora import prefix_of, to_bytes
from .base_model import ARCHITECTURES, Base

PARTS = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}  # peft's names, kohya's names
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
PLACE = re.compile(r"(?:(?P<side>down|up)_blocks\.(?P<block>\d+)|mid_block)\.attentions\.(?P<layer>\d+)\.(?P<rest>.+)")


def sgm_name(layer: str, layers_per_block: int) -> str:
    """diffusers' name of a layer in a transformer, in the names of SDXL's own code.

    Its blocks are numbered through: input block 0 is the first convolution, each down block has ``layers_per_block``
    blocks and one that halves; each up block has one more than ``layers_per_block``. In each, 0 is the residual block
    and 1 the transformer. Raises ExportError for a layer outside the transformers.
    """
    place = PLACE.fullmatch(layer)
    if not place:
        raise ExportError(
            f"export: the layer {layer} has no name in kohya's files for SDXL; only those of transformers have.",
            "Choose lora.targets among attention and feed-forward layers.",
        )
    if place["side"] is None:
        return f"middle_block.1.{place['rest']}"
    number = int(place["block"]) * (layers_per_block + 1) + int(place["layer"])
    block = f"input_blocks.{number + 1}" if place["side"] == "down" else f"output_blocks.{number}"
    return f"{block}.1.{place['rest']}"


def kohya_tensors(
    adapter: Mapping[str, torch.Tensor],
    alpha: float,
    dtype: str,
    sgm_layers_per_block: int | None = None,
) -> dict[str, torch.Tensor]:
    """The adapter under kohya's names, A and B rounded to ``dtype`` (fp16 or fp32).

    ``adapter`` has peft's names, ``sgm_layers_per_block`` is for SDXL only. The effect of a layer is alpha / rank B A,
    as in peft. Raises ExportError if a number does not fit the dtype.
    """
    found: dict[str, torch.Tensor] = {}
    for name, value in adapter.items():
        layer, part = name.removeprefix(f"{prefix_of(adapter)}.").rsplit(".lora_", 1)
        if sgm_layers_per_block is not None:
            layer = sgm_name(layer, sgm_layers_per_block)
        key = f"lora_unet_{layer.replace('.', '_')}"
        rounded = value.to(DTYPES[dtype])
        if not rounded.isfinite().all():
            raise ExportError(f"export: {name} has a value that {dtype} cannot hold.", "Use --dtype fp32.")
        found |= {f"{key}.{PARTS[part]}": rounded.contiguous(), f"{key}.alpha": torch.tensor(float(alpha))}
    return found


def kohya_metadata(base: Base, name: str, rank: int, alpha: float, size: tuple[int, int]) -> dict[str, str]:
    """What tools show and sort by. ``size`` (width, height) of the pictures it was trained on. No date: an export of
    the same adapter has the same bytes."""
    architecture = ARCHITECTURES.get(base.version, base.version)
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_base_model_version": base.version,
        "ss_v2": str(base.version.startswith("sd_v2")),
        "ss_sd_model_name": base.id,
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models" if base.sgm else "diffusers",
        "modelspec.title": name,
        "modelspec.resolution": f"{size[0]}x{size[1]}",
        **({} if base.flow else {"modelspec.prediction_type": "v" if base.v_prediction else "epsilon"}),
        "modelspec.license": base.licence.id,
    }


def kohya_file(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> tuple[bytes, str]:
    """The file's bytes, and the hash by which A1111 identifies a LoRA: the sha256 of everything after the header."""
    plain = to_bytes(tensors, metadata)
    digest = hashlib.sha256(plain[8 + int.from_bytes(plain[:8], "little") :]).hexdigest()
    hashes = {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    return to_bytes(tensors, {**metadata, **hashes}), digest
