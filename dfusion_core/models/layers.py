"""Early check of the layers that params.yaml names, in stages that do not use them."""

from __future__ import annotations

from typing import Any

from ..attention.layers import cross_attention_modules, fused_layers
from ..params import load_everything
from ..training.optimizer import check_installed


def check_layers(unet: Any) -> None:
    """Raise LayerError if ``fuse.layers`` or ``sample.maps`` names a layer that this network does not have.

    No result depends on this check. Raises ParamsError if
    the package of ``train.optimizer`` is not installed.
    """
    everything = load_everything()
    check_installed(everything.train)
    cross_attention_modules(unet, everything.sample.maps)
    fused_layers(unet, everything.fuse.layers)
