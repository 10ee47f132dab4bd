"""The networks of Stable Diffusion 1.x to 3.5 and of FLUX by their published configurations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """Configurations of the parts; ``assumed`` if they are not the model's own. ``name`` is for messages; ``kind`` is
    the class in diffusers of the network whose configuration is ``unet``."""

    name: str
    unet: Config
    vae: Config
    text: tuple[Config, ...]  # of each text encoder
    assumed: bool = False
    kind: str = "UNet2DConditionModel"

    @property
    def is_transformer(self) -> bool:
        """Whether the network is a transformer."""
        return self.kind != "UNet2DConditionModel"

    @property
    def halves(self) -> int:
        """Rows per image: two with classifier-free guidance, one if the scale is an input of the network."""
        return 1 if self.unet.get("guidance_embeds") else 2


_TEXT_L: Config = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_TEXT_H: Config = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
_TEXT_G: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "architectures": ["CLIPTextModelWithProjection"],
}

_SD_UNET: Config = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_SD_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

_T5: Config = {
    "architectures": ["T5EncoderModel"],
    "vocab_size": 32128,
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
_FLOW_VAE: Config = _SD_VAE | {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 1024,
}
_TEXT_L_PROJECTED: Config = _TEXT_L | {"projection_dim": 768, "architectures": ["CLIPTextModelWithProjection"]}

KNOWN = {
    "sd15": Architecture(
        "Stable Diffusion 1.x",
        _SD_UNET | {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        _SD_VAE,
        (_TEXT_L,),
    ),
    "sd21": Architecture(
        "Stable Diffusion 2.x at 512 pixels",
        _SD_UNET
        | {
            "sample_size": 64,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        _SD_VAE,
        (_TEXT_H,),
    ),
    "sd21-v": Architecture(
        "Stable Diffusion 2.x at 768 pixels",
        _SD_UNET
        | {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        _SD_VAE,
        (_TEXT_H,),
    ),
    "sdxl": Architecture(
        "Stable Diffusion XL",
        {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        _SD_VAE,
        (_TEXT_L, _TEXT_G),
    ),
    "sd35-medium": Architecture(
        "Stable Diffusion 3.5 medium",
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "caption_projection_dim": 1536,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        _FLOW_VAE,
        (_TEXT_L_PROJECTED, _TEXT_G, _T5),
        kind="SD3Transformer2DModel",
    ),
    "flux": Architecture(
        "FLUX.1-dev",
        {
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        _FLOW_VAE,
        (_TEXT_L, _T5),
        kind="FluxTransformer2DModel",
    ),
}


# Keys of a checkpoint that are markers and no weights, as user interfaces know them; EDM is another process.
EDM = {"edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"}
MARKS = {"v_pred", "ztsnr"} | EDM


def family_of_file(file: Path) -> str:
    """The family of a checkpoint, by shapes: SDXL has a second text encoder; SD 1 and 2 differ in its width. Raises
    ModelError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
            if "model.diffusion_model.label_emb.0.0.weight" in names:
                return "sdxl"
            key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
            width = opened.get_slice(key).get_shape()[1] if key in names else 0
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model.id: {file} cannot be read: {error}.", "Set model.id to another file.") from error
    if width not in (768, 1024):
        raise ModelError(
            f"model.id: {file} is no checkpoint of Stable Diffusion 1, 2 or XL.",
            "Set model.id to a folder in diffusers format.",
        )
    return "sd15" if width == 768 else "sd21"


def marks(file: Path) -> tuple[set[str], dict[str, str]]:
    """The keys of a checkpoint that are metadata instead of weights, and its header."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return {name for name in opened.keys() if name in MARKS}, dict(opened.metadata() or {})  # noqa: SIM118
