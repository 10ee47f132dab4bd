"""Pictures as a model trained on drawings should meet them: drawn, decoded, a little blurred, a little noisy.

Samples of the diffusion model are not crisp; a reward or an oracle that only knows crisp drawings would read the
autoencoder's softness as content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .data import BUILD, load


@dataclass
class Pictures:
    """Drawings (n, 3, 64, 64) uint8, the decoded twins of the first m of them, captions and labels."""

    drawn: torch.Tensor
    decoded: torch.Tensor
    captions: list[str]
    labels: dict[str, torch.Tensor]

    @classmethod
    def load(cls) -> Pictures:
        """The training split."""
        drawn, captions, labels = load()
        return cls(drawn, torch.from_numpy(np.load(BUILD / "decoded.npy")), captions, labels)

    def __len__(self) -> int:
        return len(self.drawn)

    def batch(self, rows: torch.Tensor, seed: int) -> torch.Tensor:
        """Augmented pictures (len(rows), 3, 64, 64) in about [-0.5, 0.5]; half of those that can be are decoded."""
        generator = torch.Generator().manual_seed(seed)
        use_decoded = (torch.rand(len(rows), generator=generator) < 0.5) & (rows < len(self.decoded))
        x = self.drawn[rows].float()
        x[use_decoded] = self.decoded[rows[use_decoded]].float()
        x = x / 255 - 0.5
        return soften(x, generator)


def soften(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur a random part of each picture's detail away, add noise, shift brightness."""
    n = len(x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, torch.rand(n, 1, 1, 1, generator=generator) ** 2)
    strength = 0.06 * torch.rand(n, 1, 1, 1, generator=generator)
    shift = 0.05 * torch.randn(n, 3, 1, 1, generator=generator)
    return x + strength * torch.randn(x.shape, generator=generator) + shift
