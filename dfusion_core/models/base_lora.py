"""model.lora: a LoRA that is part of the base model, merged into the weights in every stage.

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
from .text_lora import is_for_text, merge_text_lora

if TYPE_CHECKING:
    from ..params import Model


def merge_base_lora(model: Model, pipeline: Any, files: dict[str, Path], dtype: torch.dtype) -> None:
    """Add the LoRA to the pipeline's weights, which are in fp32, and round the sums to ``dtype`` once.

    Raises ModelError if the file is not a plain LoRA, if a part of it matches no layer, and if a sum is too large.
    """
    tensors = read_plain_lora(model, files)
    text = {name: tensor for name, tensor in tensors.items() if is_for_text(name)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in text}
    try:
        used = merge_text_lora(pipeline, text)
        if (
            plain
        ):  # the text encoders are not diffusers' to load: it goes through transformers, which asks for a newer peft
            pipeline.load_lora_weights(plain)
            used += _matrices(pipeline.unet)
    except Exception as error:  # foreign tensors make diffusers and peft raise any kind of exception
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
    if plain:
        pipeline.fuse_lora(["unet"])
        pipeline.unload_lora_weights()
    parts = [getattr(pipeline, name, None) for name in ("unet", "text_encoder", "text_encoder_2", "vae")]
    there = [part.to(dtype) for part in parts if part is not None]
    _check_sums(model, there)


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
