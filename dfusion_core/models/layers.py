"""Whether a model has the layers that params.yaml names, for stages that come long before those that need them."""

from __future__ import annotations

from typing import Any

from ..attention.layers import cross_attention_modules, fused_layers
from ..params import load_everything
from ..training.optimizer import check_installed


def check_layers(unet: Any) -> None:
    """Raise LayerError where ``fuse.layers`` or ``sample.maps`` names a layer that this U-Net does not have.

    No result depends on this: the stages that use the layers name them as their parameters. Raises ParamsError where
    the package of ``train.optimizer`` is not installed.
    """
    everything = load_everything()
    check_installed(everything.train)
    cross_attention_modules(unet, everything.sample.maps)
    fused_layers(unet, everything.fuse.layers)
