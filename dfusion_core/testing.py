"""A small model, reward and project for tests: random weights in the real formats, read by the real code.

    from dfusion_core.testing import tiny_params

    def test_my_reward(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        tiny_params(tmp_path, sample={"num_steps": 3})
        stages.init.init()
        stages.sample.sample("r00")

Nothing is downloaded; a stage takes a fraction of a second after its imports.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .models.builtin import WEIGHTS
from .params.strict_yaml import dump_yaml
from .store.paths import LABELS, ROUND_STAGES
from .tiny_flow import tiny_flux as tiny_flux
from .tiny_flow import tiny_sd3 as tiny_sd3
from .tiny_parts import LATENT as LATENT
from .tiny_parts import PICTURE as PICTURE
from .tiny_parts import TOKENS as TOKENS
from .tiny_parts import WIDTH, sharpened, tiny_text_encoder, tiny_vae, words

CHANNELS = 16  # of every level of the U-Net

PROMPTS: dict[str, list[dict[str, Any]]] = {
    "train": [
        {"prompt": "a heart holding a balloon", "items": ["heart", "balloon"], "thresholds": [0.05, 0.05]},
        {"prompt": "a blue and dotted square", "items": ["square"], "thresholds": [0.05]},
    ],
    "test": [{"prompt": "the star above the moon", "items": ["star", "moon"]}],
}

PARAMS: dict[str, Any] = {
    "algo": "dpo",
    "pairs": "dfusion",
    "seed": 0,
    "rounds": {"r00": {"prev": "init"}, "r01": {"prev": "r00"}},
    "model": {"id": "model", "dtype": "fp32", "device": "cpu"},
    "lora": {"rank": 2},
    "prompts": {"file": "prompts.yaml"},
    "sample": {"num_steps": 4, "images_per_prompt": 4, "batch_size": 4},
    "reward": {"model": "local-dir:clip", "batch_size": 4},
    "extract": {"threshold": "relative", "relative_threshold": 1.0, "keep_kv": "all"},
    "fuse": {"layers": ["mid", "up_1", "up_2"], "first_t": 3, "batch_size": 4},
    "pairing": {"mode": "halves"},
    "adopt": {"threshold": 0.2},
    "train": {"learning_rate": 1.0e-3, "inner_epochs": 2, "pairs_per_update": 4, "micro_batch": 4},
    "evaluate": {"images_per_prompt": 2, "batch_size": 4},
    "tracking": {"to": "none"},
    "launcher": dict.fromkeys(("init", *ROUND_STAGES, "summary"), "python"),
}


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write an untrained model of a few thousand weights in Stable Diffusion's format; returns ``folder``.

    Its U-Net has SD's topology on three levels (a plain up block, then two with cross-attention), so all layer names
    have their meaning in SD. Latents are 4 x 8 x 8, pictures 16 x 16; its vocabulary is the micro-world's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet().save_pretrained(folder / "unet")
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text_encoder")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(WEIGHTS / part, folder / part, dirs_exist_ok=True)
    shutil.copy(WEIGHTS / "model_index.json", folder)
    return folder


def tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Write an untrained model with SDXL's topology and narrow layers; returns ``folder``.

    Attention at two resolutions with 1, 2 and 10 transformer blocks, two text encoders, pooled prompt and sizes as
    further conditions. Latents are 4 x 8 x 8, pictures 16 x 16; its vocabulary is the micro-world's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _xl_unet().save_pretrained(folder / "unet")
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text_encoder")
        tiny_text_encoder(pooled=True).save_pretrained(folder / "text_encoder_2")
    for part in ("tokenizer", "tokenizer_2"):
        shutil.copytree(WEIGHTS / "tokenizer", folder / part, dirs_exist_ok=True)
    shutil.copytree(WEIGHTS / "scheduler", folder / "scheduler", dirs_exist_ok=True)
    index = json.loads((WEIGHTS / "model_index.json").read_text())
    index = {name: value for name, value in index.items() if name not in ("safety_checker", "requires_safety_checker")}
    index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    index["tokenizer_2"] = index["tokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Write an untrained CLIP as open_clip's ``local-dir:`` reads it; returns ``folder``."""
    import open_clip
    from safetensors.torch import save_file

    shutil.copytree(WEIGHTS / "tokenizer", folder, dirs_exist_ok=True)
    vision = {"image_size": PICTURE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": TOKENS, "vocab_size": words(), "hf_tokenizer_name": "tiny", "tokenizer_kwargs": {}}
    text |= {"width": 16, "heads": 2, "layers": 1}
    grey = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    model_config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": model_config, "preprocess_cfg": grey}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**model_config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def tiny_params(folder: Path, **changes: Any) -> Path:
    """Make ``folder`` a project in which every stage runs: params.yaml, prompts.yaml, model/ and clip/.

    ``changes`` are top-level keys of params.yaml; those of a section are merged into it:
    ``tiny_params(tmp_path, seed=1, sample={"num_steps": 3})``. A second call changes params.yaml only. All paths
    in params.yaml are relative, so that a copy of the folder has the same fingerprints. Returns params.yaml.
    """
    if not (folder / "model").exists():
        tiny_model(folder / "model")
    if not (folder / "clip").exists():
        tiny_clip(folder / "clip")
    if not (folder / "prompts.yaml").exists():
        (folder / "prompts.yaml").write_text(dump_yaml(PROMPTS))
    (folder / LABELS).mkdir(exist_ok=True)
    (folder / LABELS / "README.md").write_text("People's answers.\n")  # DVC needs this folder, git tracks no empty one
    params = folder / "params.yaml"
    params.write_text(dump_yaml(_merged(PARAMS, changes)))
    return params


def _merged(params: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged; the list of rounds is replaced as a whole."""
    merged = dict(params)
    for key, value in changes.items():
        merged[key] = {**params.get(key, {}), **value} if isinstance(value, Mapping) and key != "rounds" else value
    return merged


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(CHANNELS,) * 3,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    return sharpened(unet)


def _xl_unet() -> Any:
    from diffusers import UNet2DConditionModel

    sizes = 6 * 8  # six numbers, eight sines and cosines each
    return sharpened(
        UNet2DConditionModel(
            sample_size=LATENT,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            block_out_channels=(CHANNELS,) * 3,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + sizes,
        )
    )
