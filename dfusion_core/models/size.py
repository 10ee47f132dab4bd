"""Height and width of pictures (params.yaml) and of their latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, ParamsError

if TYPE_CHECKING:
    from ..params import Sample

LARGEST_SIDE = 1024  # of a latent: pictures of 8192 pixels
FLUX_PATCH = 2  # side of the squares of a latent that are one token of FLUX; not in its config


def picture_scale(vae: Mapping[str, Any]) -> int:
    """Pixels per latent position: the autoencoder halves between its levels."""
    return 1 << (len(vae["block_out_channels"]) - 1)


def latent_size(sample: Sample, network: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a latent: from ``sample.height`` and ``sample.width``, or the model's if they are null.

    network, vae: the configurations, of a U-Net or a transformer. Raises ParamsError for an unsupported
    side: a U-Net halves it between its levels, a transformer splits it into patches, of which it has a largest number.
    """
    own, step, most = own_side(network, vae), *_grid(network)
    scale = picture_scale(vae)
    sides = [("sample.height", sample.height), ("sample.width", sample.width)]
    for name, side in sides:
        if side is not None and side % (scale * step):
            raise ParamsError(
                f"{name}: must be a multiple of {scale * step} with this model, {scale} of its autoencoder times "
                f"{step} of its network (got {side}).",
                f"Set {name} to {_nearest(side, scale * step)}, or to null for the model's own {own * scale}.",
            )
        if side is not None and most and side > most * scale:
            raise ParamsError(
                f"{name}: this model has positions for {most * scale} pixels (got {side}).",
                f"Set {name} to {most * scale} or less, or to null for the model's own {own * scale}.",
            )
    height, width = (own if side is None else side // scale for _, side in sides)
    return height, width


def own_side(network: Mapping[str, Any], vae: Mapping[str, Any]) -> int:
    """Height and width of the model's own latents. FLUX's are those of its autoencoder. Raises ModelError."""
    is_flux = "guidance_embeds" in network
    given = vae.get("sample_size") if is_flux else network.get("sample_size")
    side = given // picture_scale(vae) if is_flux and isinstance(given, int) else given
    if not isinstance(side, int) or isinstance(given, bool) or not 1 <= side <= LARGEST_SIDE:
        part = "vae" if is_flux else "transformer" if "patch_size" in network else "unet"
        raise ModelError(
            f"model.id: the configuration of its {part} has sample_size {given!r}; square latents of one side, a whole "
            f"number up to {LARGEST_SIDE}, are needed.",
            f"Set sample_size in a copy of {part}/config.json to the side of "
            f"{'a picture (1024 in FLUX.1)' if is_flux else 'a latent (64 in SD 1.5, 128 in SD 3.5)'}.",
        )
    return side


def _grid(network: Mapping[str, Any]) -> tuple[int, int | None]:
    """The number of which a side of the latents is a multiple, and the largest side if there is one."""
    if "block_out_channels" in network:
        return 1 << (len(network["block_out_channels"]) - 1), None
    if "guidance_embeds" in network:
        return FLUX_PATCH, None
    patch = int(network["patch_size"])
    return patch, int(network["pos_embed_max_size"]) * patch


def _nearest(side: int, step: int) -> str:
    below, above = side // step * step, -(-side // step) * step
    return f"{below} or {above}" if below else str(above)
