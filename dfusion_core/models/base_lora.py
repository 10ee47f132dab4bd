"""A LoRA that the base model has already: model.lora, merged into the weights in every stage.

Files of diffusers, kohya's tools and peft are read (`plain_lora.py`); the reference model of the training is the base
with this LoRA.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError, one_line
from .added import OTHER_LORA as INSTEAD
from .plain_lora import DOWN, read_plain_lora

if TYPE_CHECKING:
    from ..params import Model


def merge_base_lora(model: Model, pipeline: Any, files: dict[str, Path], dtype: torch.dtype) -> None:
    """Add the LoRA to the pipeline's weights, which are in fp32, and round the sums to ``dtype`` once.

    Raises ModelError where the file is no plain LoRA, where a part of it finds no layer, and where a sum is too large.
    """
    tensors = read_plain_lora(model, files)
    parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if getattr(pipeline, part, None) is not None]
    try:
        pipeline.load_lora_weights(tensors)
        used = sum(_matrices(getattr(pipeline, part)) for part in parts)
    except Exception as error:  # what foreign tensors make diffusers and peft raise is of any kind
        raise ModelError(
            f"model.lora: '{model.lora}' does not fit '{model.id}': {one_line(error)}.", INSTEAD
        ) from error
    given = sum(bool(DOWN.search(name)) for name in tensors)
    if used != given:
        raise ModelError(
            f"model.lora: of the {given} layers of '{model.lora}' {used} are in '{model.id}'; it was made for another "
            "kind of model.",
            INSTEAD,
        )
    pipeline.fuse_lora([part for part in parts if _matrices(getattr(pipeline, part))])
    pipeline.unload_lora_weights()
    for part in (*parts, "vae"):
        getattr(pipeline, part).to(dtype)
    _check_sums(model, [getattr(pipeline, part) for part in parts])


def _matrices(part: Any) -> int:
    """How many layers of a part have a LoRA."""
    from peft.tuners.lora import LoraLayer

    return sum(isinstance(module, LoraLayer) for module in part.modules())


def _check_sums(model: Model, parts: list[Any]) -> None:
    """Raise ModelError where a weight with its LoRA is beyond the numbers of its type."""
    for part in parts:
        for name, value in part.state_dict().items():
            if not value.isfinite().all():
                raise ModelError(
                    f"model.lora: with '{model.lora}' {name} of '{model.id}' is NaN or infinite in {value.dtype}.",
                    INSTEAD,
                )
