"""Whether the parts of a model are of one model: the network takes what its text encoders and its autoencoder make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .mmdit import is_flux, latent_channels, network_of, part_name

if TYPE_CHECKING:
    from ..params import Model

SIZES = 6  # numbers that SDXL is told beside its pooled prompt
AXES = 3  # of FLUX's positions


def check_widths(model: Model, pipeline: Any) -> None:
    """Raise ModelError where a part is of another model: widths of text, pooled rows, channels, positions."""
    network = network_of(pipeline)
    config = network.config
    transformer = part_name(network) == "transformer"
    wanted = _of_transformer(pipeline, network) if transformer else _of_unet(pipeline, config)
    channels = latent_channels(network) if transformer else int(config.in_channels)
    wanted["latents, of so many channels"] = (channels, pipeline.vae.config.latent_channels)
    for what, (takes, given) in wanted.items():
        if takes != given:
            raise ModelError(
                f"model.id: the parts of '{model.id}' are not of one model: its {part_name(network)} takes {what} "
                f"{takes}, and gets {given}.",
                "Set model.id to a whole copy of one model.",
            )
    if transformer and is_flux(network):
        _check_axes(model, config)


def _of_unet(pipeline: Any, config: Any) -> dict[str, tuple[Any, Any]]:
    """What a U-Net takes and what it is given, by name."""
    encoders = _encoders(pipeline)
    width = config.encoder_hid_dim or config.cross_attention_dim
    found: dict[str, tuple[Any, Any]] = {"text of width": (width, sum(_width(one) for one in encoders))}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
        found["a pooled prompt of width"] = (pooled, getattr(encoders[-1].config, "projection_dim", None))
    return found


def _of_transformer(pipeline: Any, network: Any) -> dict[str, tuple[Any, Any]]:
    """What a transformer takes and what it is given, by name; SD 3's CLIPs are padded to T5's width."""
    encoders = _encoders(pipeline)
    t5 = [one for one in encoders if one.config.model_type == "t5"]
    clips = [one for one in encoders if one.config.model_type != "t5"]
    alone = len(clips) == 1  # FLUX, and the built-in model
    pooled = sum(_width(one) if alone else one.config.projection_dim for one in clips)
    text = sum(_width(one) for one in clips)
    joint, most = int(network.config.joint_attention_dim), _width(t5[0]) if t5 else text
    return {
        "text of width": (joint, most if t5 or alone else joint),
        "text of two CLIPs of at most": (joint, joint if is_flux(network) or text <= joint else text),
        "a pooled prompt of width": (network.config.pooled_projection_dim, pooled),
    }


def _encoders(pipeline: Any) -> list[Any]:
    found = (getattr(pipeline, f"text_encoder{name}", None) for name in ("", "_2", "_3"))
    return [one for one in found if one is not None]


def _width(encoder: Any) -> int:
    """Of a token: T5 calls it d_model, and transformers knows it by the other name as well."""
    return int(encoder.config.hidden_size)


def _check_axes(model: Model, config: Any) -> None:
    """FLUX rotates each head's channels by three coordinates, in pairs."""
    axes = config.axes_dims_rope
    whole = isinstance(axes, list | tuple) and all(type(one) is int and one > 0 and one % 2 == 0 for one in axes)
    if not whole or len(axes) != AXES or sum(axes) != config.attention_head_dim:
        raise ModelError(
            f"model.id: the transformer of '{model.id}' has axes_dims_rope {axes!r}, and not {AXES} even numbers whose "
            f"sum is attention_head_dim, {config.attention_head_dim}.",
            "Get transformer/config.json once more from where the model came.",
        )
