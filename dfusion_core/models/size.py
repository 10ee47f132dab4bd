"""Height and width: of pictures as params.yaml asks for them, and of the latents that stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ParamsError

if TYPE_CHECKING:
    from ..params import Sample


def picture_scale(vae: Mapping[str, Any]) -> int:
    """Pixels of a latent's side: the autoencoder halves between its levels."""
    return 1 << (len(vae["block_out_channels"]) - 1)


def latent_size(sample: Sample, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a latent: that of ``sample.height`` and ``sample.width``, or where they are null the model's.

    unet, vae: the configurations. Raises ParamsError for a side that the U-Net cannot halve as often as it has levels,
    or that a transformer cannot cut into its patches.
    """
    own, halvings = _own_side(unet, vae)
    scale = picture_scale(vae)
    sides = [("sample.height", sample.height), ("sample.width", sample.width)]
    for name, side in sides:
        if side is not None and side % (scale * halvings):
            raise ParamsError(
                f"{name}: must be a multiple of {scale * halvings} with this model, {scale} of its autoencoder times "
                f"{halvings} of its network (got {side}).",
                f"Set {name} to {_nearest(side, scale * halvings)}, or to null for the model's own {own * scale}.",
            )
    height, width = (own if side is None else side // scale for _, side in sides)
    return height, width


def _own_side(network: Mapping[str, Any], vae: Mapping[str, Any]) -> tuple[int, int]:
    """The model's own side of a latent, and what a side must be a multiple of."""
    if "block_out_channels" in network:
        return int(network["sample_size"]), 1 << (len(network["block_out_channels"]) - 1)
    if "num_single_layers" in network:  # FLUX says no size of its own, and packs squares of two by two
        return int(vae["sample_size"]) // picture_scale(vae), 2
    return int(network["sample_size"]), int(network["patch_size"])


def _nearest(side: int, step: int) -> str:
    below, above = side // step * step, -(-side // step) * step
    return f"{below} or {above}" if below else str(above)
