"""The transfer objective: self-attention learns to carry what a place looks like.

In Stable Diffusion, an image that is denoised with the self-attention keys and values of another takes over how that
one looks (the paper's Appendix B, Figure 8); D-Fusion lives on it. A small U-Net trained on noise prediction alone
lacks this: its convolutions see the whole latent, and its attention hardly matters. It is taught here, with training
images only. A row of the batch is a noised picture ("base") with the keys and values of another picture of the same
caption ("reference"), noised as much, inside a random mask M. What it shall predict is the noise that leads to the
reference inside M and to the base outside:

    x_t = sqrt(abar) x_base + sqrt(1 - abar) eps      x_want = M x_reference + (1 - M) x_base
    eps_want = (x_t - sqrt(abar) x_want) / sqrt(1 - abar)

Which of two pictures is better is not in this; nothing here knows items or scores. Where M is empty it is noise
prediction as usual.

The transformer (`flow.py`) is taught the same of its velocity, with the image's keys and values in joint attention.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

from ...attention.fusion import fuse_kv, resize
from ...attention.layers import layer_paths, present_layers, self_attention_modules
from ...attention.processor import HookedAttention, with_kv

EARLIEST = 150  # training timestep; below it a base shows too clearly what it is
MASK = 8  # cells a side
FULL = 0.34  # share of masks that cover everything


class Transfer:
    """Self-attention of a batch of references and bases: the second half takes K and V of the first inside M.

    M is set per thread, since shards of a batch run side by side; None leaves attention as it is.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.local = threading.local()
        layers = present_layers(unet, tuple(layer_paths(unet)))
        processors = {
            f"{path}.processor": HookedAttention(with_kv(self.hook))
            for path in self_attention_modules(unet, layers).values()
        }
        unet.set_attn_processor({**unet.attn_processors, **processors})

    def hook(
        self, _Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, _bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        M = getattr(self.local, "M", None)
        return (K, V) if M is None else onto_bases(K, V, M)


def onto_bases(K: torch.Tensor, V: torch.Tensor, M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V (2 n, head, y*x, channel) of references and bases; inside M (n, y, x) bases get their references'."""
    n, side = len(M), round(K.shape[2] ** 0.5)
    K_new, V_new = fuse_kv(K[:n], V[:n], K[n:], V[n:], resize(M, (side, side)))
    return torch.cat([K[:n], K_new]), torch.cat([V[:n], V_new])


def wanted_images(x_0: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """Of references and bases (2 n, c, y, x): the references, then bases with their references inside M."""
    reference, base = x_0.chunk(2)
    inside = resize(M, (x_0.shape[-2], x_0.shape[-1]))[:, None]
    return torch.cat([reference, torch.where(inside, reference, base)])


def masks(n: int, generator: torch.Generator) -> torch.Tensor:
    """Random rectangles, bool (n, MASK, MASK); some cover everything."""
    first = torch.randint(0, MASK - 2, (n, 2), generator=generator)
    size = torch.randint(2, MASK + 1, (n, 2), generator=generator)
    cells = torch.arange(MASK)
    y, x = ((cells >= first[:, k, None]) & (cells < (first + size)[:, k, None]) for k in (0, 1))
    full = torch.rand(n, generator=generator) < FULL
    return (y[:, :, None] & x[:, None, :]) | full[:, None, None]


def wanted_noise(x_t: torch.Tensor, x_want: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noise prediction whose denoised image is x_want; abar (n,)."""
    abar = abar.view(-1, 1, 1, 1)
    return (x_t - abar.sqrt() * x_want) / (1 - abar).sqrt()


def partners(caption: torch.Tensor) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """A function that gives each row one of those of the same caption; caption (n,) of numbers."""
    order, count = torch.argsort(caption, stable=True), torch.bincount(caption)
    start = count.cumsum(0) - count

    def draw(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        own = caption[rows]
        turn = (torch.rand(len(rows), generator=generator) * count[own]).long()
        return order[start[own] + turn]

    return draw
