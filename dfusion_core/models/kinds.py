"""The kinds of pipeline of diffusers that can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .configs import read_config

if TYPE_CHECKING:
    from ..params import Model

ENCODERS = ("text_encoder_", "tokenizer_")  # some may be absent in SD 3
# Arguments of each kind of pipeline that leave out parts which are not needed.
KINDS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    "StableDiffusionXLPipeline": {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
    "StableDiffusion3Pipeline": {"feature_extractor": None, "image_encoder": None},
    "FluxPipeline": {"feature_extractor": None, "image_encoder": None},
}


def pipeline_arguments(kind: str, folder: Path) -> dict[str, Any]:
    """Arguments of a pipeline of this kind: parts to leave out, and parts that this model does not have."""
    index = read_config(folder / "model_index.json")
    absent = {name: None for name, pair in index.items() if pair == [None, None] and name.startswith(ENCODERS)}
    return KINDS[kind] | absent


def pipeline_kind(model: Model, folder: Path) -> str:
    """The name of the pipeline's class in diffusers. Raises ModelError for an unsupported class."""
    index = read_config(folder / "model_index.json")
    kind = str(index.get("_class_name") if isinstance(index, dict) else None)
    if kind not in KINDS:
        raise ModelError(
            f"model.id: '{model.id}' is a {kind}, and this program knows {', '.join(KINDS)}.",
            "Use a Stable Diffusion 1.x, 2.x, XL, 3.x or FLUX.1-dev model for text to image.",
        )
    return kind
