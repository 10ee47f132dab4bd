"""Checkpoints of one .safetensors file, as UIs keep them: weights without configurations and without a tokenizer.

The configurations of SD 1.x, SD 2.x and SDXL are known, and the tokenizer is CLIP's; nothing is asked of the Hub.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, did_you_mean
from .architectures import KNOWN, family_of_file
from .clip_vocabulary import END, clip_tokenizer
from .kinds import KINDS, pipeline_kind

if TYPE_CHECKING:
    import torch

    from ..params import Model

# model.config -> the architecture, and what the U-Net predicts
CONFIGS = {"sd15": ("sd15", "epsilon"), "sd21": ("sd21", "epsilon"), "sd21-v": ("sd21", "v_prediction"),
           "sdxl": ("sdxl", "epsilon")}
SCALING = {"sd15": 0.18215, "sd21": 0.18215, "sdxl": 0.13025}  # of latents
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
             "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
             "timestep_spacing": "leading"}


def load_single_file(file: Path, model: Model, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint file. Raises ModelError where its kind is not known or not certain."""
    import diffusers

    with tempfile.TemporaryDirectory() as temporary:
        configs = _configs(file, model, Path(temporary))
        kind = pipeline_kind(model, configs)
        return getattr(diffusers, kind).from_single_file(
            str(file), config=str(configs), dtype=dtype, local_files_only=True, **KINDS[kind])


def _configs(file: Path, model: Model, folder: Path) -> Path:
    """A folder with the configurations: the user's, or ``folder`` with those that are known."""
    if model.config is not None and Path(model.config).is_dir():
        return Path(model.config)
    name = model.config or _recognised(file, model)
    if name not in CONFIGS:
        raise ModelError(f"model.config: '{name}' is neither a folder nor one of {', '.join(CONFIGS)}.",
                         did_you_mean(name, CONFIGS))
    write_configs(folder, *CONFIGS[name])
    return folder


def _recognised(file: Path, model: Model) -> str:
    """The kind of checkpoint, from the shapes of its tensors."""
    family = family_of_file(file)
    if family == "sd21":  # two models of one shape: at 512 pixels they predict noise, at 768 a velocity
        raise ModelError(
            f"model.config: '{model.id}' is a Stable Diffusion 2.x model; its weights do not tell what it predicts.",
            "Set model.config to sd21 (512 pixels, 'base') or sd21-v (768 pixels, v-prediction).")
    return family


def write_configs(folder: Path, family: str, prediction_type: str) -> None:
    """Write what a repository in diffusers format holds beside the weights."""
    known, is_xl = KNOWN[family], family == "sdxl"
    side = {"sample_size": 96} if prediction_type == "v_prediction" else {}
    _write(folder / "unet/config.json", {"_class_name": "UNet2DConditionModel"} | known.unet | side)
    _write(folder / "vae/config.json",
           {"_class_name": "AutoencoderKL", "scaling_factor": SCALING[family], "force_upcast": is_xl} | known.vae)
    _write(folder / "scheduler/scheduler_config.json", SCHEDULER | {"prediction_type": prediction_type})
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"]} | ({"force_zeros_for_empty_prompt": True} if is_xl else {})
    for number, config in enumerate(known.text):
        index |= _write_text(folder, "_2" if number else "", config, family)
    _write(folder / "model_index.json", index)


def _write_text(folder: Path, suffix: str, config: dict[str, Any], family: str) -> dict[str, Any]:
    """A text encoder's configuration and its tokenizer; returns their entries of the index."""
    kind = config.get("architectures", ["CLIPTextModel"])[0]
    first = family != "sd21" and not suffix  # OpenAI's CLIP; the others are OpenCLIP's
    _write(folder / f"text_encoder{suffix}/config.json", {
        "model_type": "clip_text_model", "architectures": [kind], "hidden_act": "quick_gelu" if first else "gelu",
        "vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
        "projection_dim": 768} | config)
    clip_tokenizer(folder / f"tokenizer{suffix}", END if first else "!")
    return {f"text_encoder{suffix}": ["transformers", kind], f"tokenizer{suffix}": ["transformers", "CLIPTokenizer"]}


def _write(file: Path, config: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2) + "\n")
