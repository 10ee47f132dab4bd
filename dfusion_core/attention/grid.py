"""Position of the image tokens in a network's attention: height and width, and their slice of a joint sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .processor import Hook, Product


class Grid:
    """Size and slice of the image tokens, read from the inputs of each forward pass, for attention modules.

    latent: (y, x) of the finest attention, in a U-Net the size of the latent. image: the slice of the image tokens in
    the joint sequence of a transformer; None in a U-Net.
    """

    def __init__(self) -> None:
        self.latent = (0, 0)
        self.image: slice | None = None
        self.before_forward: list[Callable[[], None]] = []

    def see(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the network."""
        sample: Any = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        if "img_ids" in kwargs:  # FLUX: (token, 3) of positions, the text's tokens first
            y, x = _extent(kwargs["img_ids"])
            text = kwargs["encoder_hidden_states"].shape[1]
            self.latent, self.image = (y, x), slice(text, text + y * x)
        elif hasattr(module, "transformer_blocks"):  # SD 3: patches of the latent, the text's tokens last
            y, x = (side // module.config.patch_size for side in sample.shape[-2:])
            self.latent, self.image = (y, x), slice(0, y * x)
        else:
            self.latent = (sample.shape[-2], sample.shape[-1])
        for call in self.before_forward:
            call()

    def size(self, tokens: int) -> tuple[int, int]:
        """(y, x) of the level that has this many tokens; each level of a U-Net halves, rounding up."""
        y, x = self.latent
        while y * x > tokens:
            y, x = (y + 1) // 2, (x + 1) // 2
        if y * x != tokens:
            raise ValueError(f"no level of a {self.latent[0]}x{self.latent[1]} latent has {tokens} positions")
        return y, x


def on_image(hook: Hook, grid: Grid) -> Product:
    """The usual product, after the hook has replaced the keys and values of the image tokens.

    In a transformer keys and values of the text do not change; all queries see the result, also those of the text.
    """

    def product(Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
        if grid.image is None:
            K, V = hook(Q, K, V, bias)
        else:
            at = grid.image
            K_new, V_new = hook(Q[:, :, at], K[:, :, at], V[:, :, at], None)
            K, V = _put(K, at, K_new), _put(V, at, V_new)
        return scaled_dot_product_attention(Q, K, V, attn_mask=bias)

    return product


def on_words(hook: Hook, grid: Grid) -> Product:
    """The usual product; the hook gets the image's queries with the keys and values of the text only."""

    def product(Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
        if grid.image is None:
            K, V = hook(Q, K, V, bias)
        else:
            at = grid.image
            hook(Q[:, :, at], _without(K, at), _without(V, at), None)
        return scaled_dot_product_attention(Q, K, V, attn_mask=bias)

    return product


def _extent(positions: Tensor) -> tuple[int, int]:
    """Rows and columns of FLUX's positions: what `models.mmdit` wrote on them, else read from them."""
    known: tuple[int, int] | None = getattr(positions, "extent", None)
    if known is not None:
        return known
    y, x = positions[:, 1:].amax(0).tolist()
    return int(y) + 1, int(x) + 1


def _put(X: Tensor, at: slice, new: Tensor) -> Tensor:
    return torch.cat([X[:, :, : at.start], new, X[:, :, at.stop :]], dim=2)


def _without(X: Tensor, at: slice) -> Tensor:
    return torch.cat([X[:, :, : at.start], X[:, :, at.stop :]], dim=2)
