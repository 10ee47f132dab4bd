"""Verification of exported files: loaded by diffusers into a fresh model and compared with the trained adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import ExportError
from ...models.lora import load_lora
from ...models.mmdit import network_of, part_name
from .mmdit_files import predict_velocity
from .peft_files import WEIGHTS

TIMESTEPS = (801, 101)  # a timestep of much noise, one of little
TOKENS = 77
SIDE = 32  # largest height and width of latents: differences show at any size
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # allowed error as a share of the adapter's effect
ROUNDING = 1e-5  # of the U-Net's arithmetic in fp32, as a share of its largest output


@dataclass(frozen=True)
class Proof:
    """Largest differences of noise predictions: ``effect`` of the adapter against the base model, ``error`` of the
    file against the adapter."""

    file: str
    dtype: str
    effect: float
    error: float


@torch.no_grad()
def predict(unet: Any) -> torch.Tensor:
    """The network's output for fixed random latents and text (2, c, h, w), in fp32 on the CPU."""
    if part_name(unet) == "transformer":
        return predict_velocity(unet)
    config, n = unet.config, len(TIMESTEPS)
    random = torch.Generator().manual_seed(0)
    side = min(int(config.sample_size), SIDE)
    latents = torch.randn(n, config.in_channels, side, side, generator=random)
    text = torch.randn(n, TOKENS, config.cross_attention_dim, generator=random)
    added = None
    if config.addition_embed_type == "text_time":  # SDXL: pooled text, and six numbers about the size
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": torch.randn(n, width, generator=random),
            "time_ids": torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]] * n),
        }
    found: torch.Tensor = unet.eval()(latents, torch.tensor(TIMESTEPS), text, added_cond_kwargs=added).sample
    return found


def prove(fresh: Callable[[], Any], adapter: Path, files: Mapping[Path, str]) -> list[Proof]:
    """Compare each file (with its dtype) with the adapter of a folder, and that with the base model.

    ``fresh`` loads the pipeline again, in fp32 on the CPU. Raises ExportError if the adapter changes nothing, or if a
    file differs from it by more than rounding.
    """
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns that the file has nothing for the text encoder, which is correct
    base = predict(network_of(fresh()))
    unet = network_of(fresh())
    load_lora(unet, adapter, train=True)
    ours = predict(unet)
    effect = largest(ours - base)
    if effect <= ROUNDING * largest(base):  # layers with an adapter may round differently
        raise ExportError(
            f"export: the adapter in {adapter} changes nothing: noise predictions are the base model's.",
            "Train it first, or export it anyway with --no-check.",
        )
    proofs = []
    for file, dtype in files.items():
        proof = Proof(file.name, dtype, effect, largest(predict(loaded(fresh(), file)) - ours))
        if proof.error > TOLERANCE[dtype] * effect + ROUNDING * largest(ours):
            raise ExportError(
                f"export: {file.name} does not do what the adapter does: noise predictions differ by {proof.error:.2g} "
                f"where the adapter changes them by {effect:.2g}.",
                "Please report this; --no-check writes it anyway.",
            )
        proofs.append(proof)
    return proofs


def loaded(pipeline: Any, file: Path) -> Any:
    """The network with the file's adapter: by peft if it is peft's own, else by diffusers."""
    if file.name == WEIGHTS:
        from peft import PeftModel

        return PeftModel.from_pretrained(network_of(pipeline), str(file.parent)).get_base_model()
    pipeline.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True)
    return network_of(pipeline)


def largest(values: torch.Tensor) -> float:
    """The largest absolute value."""
    return float(values.abs().max())
