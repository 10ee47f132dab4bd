"""Augmented pictures: drawn or decoded, slightly blurred and noisy.

Samples of the diffusion model are not crisp; a reward or an oracle that is trained on crisp drawings only would
interpret the autoencoder's blur as content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .data import decoded_file, load
from .loop import Batch
from .settings import settings


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
        composition = settings().composition
        drawn, captions, labels = load(composition)
        return cls(drawn, torch.from_numpy(np.load(decoded_file())), captions, labels)

    def __len__(self) -> int:
        return len(self.drawn)

    def to(self, device: torch.device) -> Pictures:
        """The same with pictures and labels on the device."""
        return Pictures(
            self.drawn.to(device),
            self.decoded.to(device),
            self.captions,
            {head: values.to(device) for head, values in self.labels.items()},
        )

    def draw(self, rows: torch.Tensor, seed: int) -> Batch:
        """Random choices of `show` for these rows: which are decoded (half of those that can be), and the
        augmentations.
        """
        n, g = len(rows), torch.Generator().manual_seed(seed)
        return {
            "rows": rows,
            "decoded": (torch.rand(n, generator=g) < 0.5) & (rows < len(self.decoded)),
            "blur": torch.rand(n, 1, 1, 1, generator=g) ** 2,
            "strength": 0.06 * torch.rand(n, 1, 1, 1, generator=g),
            "shift": 0.05 * torch.randn(n, 3, 1, 1, generator=g),
            "noise": torch.randn(n, 3, 64, 64, generator=g),
        }

    def show(self, drawn: Batch) -> torch.Tensor:
        """Augmented pictures (n, 3, 64, 64) in about [-0.5, 0.5]: blurred, noisy, brighter or darker."""
        rows = drawn["rows"]
        twin = self.decoded[rows.clamp(max=len(self.decoded) - 1)]
        x = torch.where(drawn["decoded"].view(-1, 1, 1, 1), twin, self.drawn[rows]).float() / 255 - 0.5
        blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return torch.lerp(x, blurred, drawn["blur"]) + drawn["strength"] * drawn["noise"] + drawn["shift"]
