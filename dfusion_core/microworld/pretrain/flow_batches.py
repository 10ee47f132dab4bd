"""The batches of the transformer's training: latents, their captions and noise levels, and a mask for the transfer."""

from __future__ import annotations

import torch

from . import transfer
from .captions import Captions
from .loop import Batch

HALF = 16  # references of a batch, and as many bases
LEAST = 0.2  # noise level; below it a base shows too clearly what it is


class FlowBatches:
    """The first ``true_steps`` have true captions; the others captions that are sometimes wrong, and among them a share
    ``transfer_share`` of batches in which references and bases have caption and noise level in common and M is drawn.

    Elsewhere M is empty and the two halves have nothing to do with one another. ``caption`` (latent,) is the number of
    each latent's caption.
    """

    def __init__(
        self, caption: torch.Tensor, true: Captions, wrong: Captions, true_steps: int, transfer_share: float, seed: int
    ) -> None:
        self.caption, self.true, self.wrong = caption, true, wrong
        self.true_steps, self.share, self.seed = true_steps, transfer_share, seed
        self.partner = transfer.partners(caption)

    def __call__(self, step: int) -> Batch:
        """The batch of this step, a function of its number: ``s``, ``rows``, ``text`` (2 HALF,), ``noise``, ``M``."""
        g = torch.Generator().manual_seed(self.seed + step)
        early = step < self.true_steps
        captions = self.true if early else self.wrong
        if not early and bool(torch.rand(1, generator=g) < self.share):
            first = torch.randint(len(self.caption), (HALF,), generator=g)
            rows = torch.cat([first, self.partner(first, g)])
            text = captions.told(self.caption[first], g).repeat(2)
            s = levels(HALF, g).clamp(min=LEAST).repeat(2)
            M = transfer.masks(HALF, g)
        else:
            rows = torch.randint(len(self.caption), (2 * HALF,), generator=g)
            text = captions.told(self.caption[rows], g)
            s = levels(2 * HALF, g)
            M = torch.zeros(HALF, transfer.MASK, transfer.MASK, dtype=torch.bool)
        noise = torch.randn(2 * HALF, 4, 16, 16, generator=g)
        return {"rows": rows, "text": text, "s": s, "noise": noise, "M": M}


def levels(n: int, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal noise levels s (n,) in (0, 1), as SD 3 was trained with (Esser et al. 2024)."""
    return torch.randn(n, generator=generator).sigmoid()
