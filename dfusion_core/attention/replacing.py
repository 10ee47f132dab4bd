"""Replaces attention processors of a diffusers network temporarily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .grid import Grid
from .joint import HookedFluxAttention, HookedJointAttention
from .layers import Network, is_transformer
from .processor import HookedAttention, Product


@contextmanager
def replaced(network: Network, products: Mapping[str, Product], grid: Grid) -> Iterator[None]:
    """Replace the processors of the modules (path -> product); the grid reads the latent size of each forward pass.

    Raises ValueError if a processor is not a stock one: of another kind, or replaced already.
    """
    found = {f"{path}.processor": network.attn_processors[f"{path}.processor"] for path in products}
    swapped = {
        f"{path}.processor": _hooked(network, f"{path}.processor")(product) for path, product in products.items()
    }
    handle = network.register_forward_pre_hook(grid.see, with_kwargs=True)
    try:
        network.set_attn_processor({**network.attn_processors, **swapped})
        yield
    finally:
        handle.remove()
        network.set_attn_processor({**network.attn_processors, **found})


def _hooked(network: Network, key: str) -> Callable[[Product], Any]:
    """The replacement for the stock processor at this key. Raises ValueError."""
    from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    stock: Any = AttnProcessor2_0
    ours: Callable[[Product], Any] = HookedAttention
    if is_transformer(network):
        flux = hasattr(network, "single_transformer_blocks")
        stock, ours = (
            (FluxAttnProcessor, HookedFluxAttention) if flux else (JointAttnProcessor2_0, HookedJointAttention)
        )
    kind = type(network.attn_processors[key])
    if kind is not stock:
        raise ValueError(
            f"{key} is {kind.__name__}; attention control replaces {stock.__name__} only. "
            f"Call set_attn_processor({stock.__name__}()) first, and ask for a module once"
        )
    return ours
