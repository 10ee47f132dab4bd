"""Untrained models of a few thousand weights with the topologies of SD 3.5 and FLUX, in their own formats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .models.builtin import WEIGHTS
from .tiny_parts import LATENT, TOKENS, WIDTH, sharpened, tiny_text_encoder, tiny_vae

T5_WIDTH = 40  # width of T5's tokens: wider than two concatenated CLIPs, as in SD 3
CLASSES = {
    "transformer": "diffusers",
    "scheduler": "diffusers",
    "vae": "diffusers",
    "text_encoder": "transformers",
    "text_encoder_2": "transformers",
    "text_encoder_3": "transformers",
    "tokenizer": "transformers",
    "tokenizer_2": "transformers",
    "tokenizer_3": "transformers",
}


def tiny_sd3(folder: Path, seed: int = 0) -> Path:
    """Write a model with the topology of SD 3.5 medium; returns ``folder``.

    Three blocks, the first with a second attention among image tokens; two CLIPs and a T5. Latents are 4 x 8 x 8 or 16
    image tokens, pictures 16 x 16; its vocabulary is the micro-world's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "transformer": _sd3(),
            "scheduler": _scheduler(shift=3.0),
            "vae": tiny_vae(shift_factor=0.1),
            "text_encoder": tiny_text_encoder(pooled=True),
            "text_encoder_2": tiny_text_encoder(pooled=True),
            "text_encoder_3": _t5(),
        }
    return _write(folder, "StableDiffusion3Pipeline", parts, {"tokenizer": "", "tokenizer_2": "", "tokenizer_3": "t5"})


def tiny_flux(folder: Path, seed: int = 0, *, guidance_embeds: bool = True) -> Path:
    """Write a model with the topology of FLUX.1-dev: two double and two single blocks, a CLIP and a T5; returns
    ``folder``. Sizes are those of `tiny_sd3`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "transformer": _flux(guidance_embeds),
            "scheduler": _scheduler(shift=3.0, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
            "vae": tiny_vae(shift_factor=0.1),
            "text_encoder": tiny_text_encoder(),
            "text_encoder_2": _t5(),
        }
    return _write(folder, "FluxPipeline", parts, {"tokenizer": "", "tokenizer_2": "t5"})


def _write(folder: Path, pipeline: str, parts: Mapping[str, Any], tokenizers: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.42.0"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [CLASSES[name], type(part).__name__]
    for name, kind in tokenizers.items():
        if kind == "t5":
            _t5_tokenizer().save_pretrained(folder / name)
        else:
            shutil.copytree(WEIGHTS / "tokenizer", folder / name, dirs_exist_ok=True)
        index[name] = [CLASSES[name], "T5TokenizerFast" if kind == "t5" else "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return folder


def _sd3() -> Any:
    from diffusers import SD3Transformer2DModel

    return sharpened(
        SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            caption_projection_dim=16,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
    )


def _flux(guidance_embeds: bool) -> Any:
    from diffusers import FluxTransformer2DModel

    return sharpened(
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            num_attention_heads=2,
            attention_head_dim=16,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
    )


def _scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    build: Any = FlowMatchEulerDiscreteScheduler
    return build(**settings)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(_t5_tokenizer()),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()


def _t5_tokenizer() -> Any:
    """A tokenizer like T5's over the words of the micro-world; long words are split into letters."""
    from transformers import T5TokenizerFast

    words = json.loads((WEIGHTS / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    whole = sorted(word.removesuffix("</w>") for word in words if word.endswith("</w>") and 1 < len(word) - 4 < 7)
    letters = sorted({letter for word in words for letter in word.replace("</w>", "") if letter.isalpha()})
    pieces = [(piece, -2.0) for piece in (f"▁{word}" for word in whole)]
    pieces += [(piece, -4.0) for piece in ("▁", *letters)]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(vocab=[*specials, *pieces], extra_ids=0, model_max_length=TOKENS + 8)
