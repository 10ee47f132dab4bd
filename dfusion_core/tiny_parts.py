"""Parts of all tiny models of `testing`: autoencoder, text encoder, attention that is not uniform."""

from __future__ import annotations

import json
from typing import Any

import torch

from .models.builtin import WEIGHTS

WIDTH = 16  # of a text token
TOKENS = 16  # of a prompt, as many as the tokenizer gives
LATENT, PICTURE = 8, 16  # height and width; the autoencoder halves
SHARPNESS = 3.0


def words() -> int:
    """Size of the tokenizer's vocabulary."""
    return len(json.loads((WEIGHTS / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])


def sharpened(unet: Any) -> Any:
    """Scale attention weights: untrained attention is nearly uniform; sharpened, maps have structure and fusion an
    effect.
    """
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")):
                weight *= SHARPNESS
    return unet


def tiny_vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=PICTURE,
        scaling_factor=0.5,
        mid_block_add_attention=False,
        force_upcast=False,
        **settings,
    )


def tiny_text_encoder(pooled: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    count = words()
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(
        CLIPTextConfig(
            vocab_size=count,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=count - 2,
            eos_token_id=count - 1,
            pad_token_id=count - 1,
        )
    )
