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

    unet, vae: the configurations. Raises ParamsError for a side that the U-Net cannot halve as often as it has levels.
    """
    own = int(unet["sample_size"])
    scale, halvings = picture_scale(vae), 1 << (len(unet["block_out_channels"]) - 1)
    sides = [("sample.height", sample.height), ("sample.width", sample.width)]
    for name, side in sides:
        if side is not None and side % (scale * halvings):
            raise ParamsError(
                f"{name}: must be a multiple of {scale * halvings} with this model, {scale} of its autoencoder times "
                f"{halvings} of its U-Net (got {side}).",
                f"Set {name} to {_nearest(side, scale * halvings)}, or to null for the model's own {own * scale}.",
            )
    height, width = (own if side is None else side // scale for _, side in sides)
    return height, width


def _nearest(side: int, step: int) -> str:
    below, above = side // step * step, -(-side // step) * step
    return f"{below} or {above}" if below else str(above)
