"""The networks of a run on the meta device, with calls of the shapes that the stages make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...models.lora import add_lora, keep_in_fp32
from .mmdit import text_tokens

if TYPE_CHECKING:
    from ...models.architectures import Architecture, Config
    from ...params import Lora

Size = tuple[int, int]  # (height, width) of a latent
Network = Any  # diffusers' and open_clip's classes, whose attributes type checkers do not see
META = torch.device("meta")
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel", "T5EncoderModel")
TOKENS = 77  # of a prompt, if it is not in the text encoder's configuration


def build_unet(architecture: Architecture, dtype: torch.dtype, lora: Lora | None = None) -> Network:
    """The network without data, frozen; with ``lora`` its adapter in fp32, as it is trained."""
    import diffusers

    unet = _built(getattr(diffusers, architecture.kind), architecture.unet, dtype)
    if lora is not None:
        add_adapter(unet, lora)
    return unet


def add_adapter(network: Network, lora: Lora, *, checkpointing: bool = False) -> None:
    """Make of the frozen network, in place, what ``train`` trains."""
    add_lora(network, lora, seed=0)
    keep_in_fp32(network)
    if checkpointing:
        network.enable_gradient_checkpointing()


def build_vae(architecture: Architecture, dtype: torch.dtype) -> Network:
    """The autoencoder without data; SDXL's is kept in fp32, because it overflows in 16 bits."""
    from diffusers import AutoencoderKL

    vae = _built(AutoencoderKL, architecture.vae, dtype)
    return vae.float() if len(architecture.text) > 1 and vae.config.force_upcast else vae


def _built(kind: Any, config: Config, dtype: torch.dtype) -> Network:
    with META:
        network = kind.from_config(config)
    return torch.nn.Module.to(network, dtype=dtype).eval().requires_grad_(False)  # diffusers' own `to` warns


def text_parameters(architecture: Architecture) -> int:
    """Weights of all text encoders."""
    import transformers

    total = 0
    for config in architecture.text:
        kind = (config.get("architectures") or ["CLIPTextModel"])[0]
        if kind not in ENCODERS:
            raise ValueError(f"a text encoder is a {kind}, and not one of {', '.join(ENCODERS)}")
        settings = transformers.T5Config if kind.startswith("T5") else transformers.CLIPTextConfig
        with META:
            encoder = getattr(transformers, kind)(settings(**config))
        total += parameters(encoder)
    return total


def parameters(network: Network) -> int:
    """Number of weights."""
    return sum(p.numel() for p in network.parameters())


def tokens_of(architecture: Architecture) -> int:
    """Tokens of a prompt."""
    own = int(architecture.text[0].get("max_position_embeddings", TOKENS)) if architecture.text else TOKENS
    return text_tokens(architecture.kind, len(architecture.text), own) if architecture.is_transformer else own


def unet_call(
    unet: Network, rows: int, tokens: int, device: torch.device = META, size: Size | None = None
) -> Callable[[], Tensor]:
    """A forward pass of ``rows`` latents of this size (None: the model's own), with SDXL's added conditions if the
    U-Net has them.
    """
    kind = {"device": device, "dtype": unet.dtype}
    x = torch.zeros(rows, unet.config.in_channels, *(size or _own(unet)), **kind)
    text = torch.zeros(rows, tokens, unet.config.cross_attention_dim, **kind)
    time = torch.full((rows,), 500, device=device)
    added: dict[str, Any] = {}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added["added_cond_kwargs"] = {
            "text_embeds": torch.zeros(rows, pooled, **kind),
            "time_ids": torch.zeros(rows, 6, **kind),
        }

    def forward() -> Tensor:
        out: Tensor = unet(x, time, text, **added).sample
        return out

    return forward


def block_call(
    unet: Network, rows: int, tokens: int, device: torch.device = META, size: Size | None = None
) -> Callable[[], Tensor]:
    """A forward pass of the U-Net's first block with attention only, for latents of this size."""
    level, block = first_block(unet)
    channels, kind = unet.config.block_out_channels, {"device": device, "dtype": unet.dtype}
    inner = [side >> level for side in size or _own(unet)]
    x = torch.zeros(rows, channels[max(0, level - 1)], *inner, **kind)
    time = torch.zeros(rows, unet.time_embedding.linear_2.out_features, **kind)
    text = torch.zeros(rows, tokens, unet.config.cross_attention_dim, **kind)

    def forward() -> Tensor:
        out: Tensor = block(x, time, encoder_hidden_states=text)[0]
        return out

    return forward


def _own(unet: Network) -> Size:
    return unet.config.sample_size, unet.config.sample_size


def first_block(unet: Network) -> tuple[int, Network]:
    """The first down block with attention, and which one it is."""
    return next((k, block) for k, block in enumerate(unet.down_blocks) if hasattr(block, "attentions"))


def materialise(network: Network, device: torch.device) -> None:
    """Give a network without data small random weights on the device, in place, laid out as ``load_policy`` does.

    On the meta device there is nothing to give.
    """
    if device == META:
        return
    network.to_empty(device=device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)


def decode_call(vae: Network, size: Size, device: torch.device = META) -> Callable[[], Tensor]:
    """Decoding of one latent of this size."""
    latent = torch.zeros(1, vae.config.latent_channels, *size, device=device, dtype=vae.dtype)

    def decode() -> Tensor:
        out: Tensor = vae.decode(latent).sample
        return out

    return decode
