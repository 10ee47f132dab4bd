"""Captions of training pictures: true, replaced by a near miss, or empty.

A model that is trained on wrong captions knows every word and still shows the wrong thing. A caption is replaced by one
of its near misses, which differ in one factor and are equally likely, with the probability `wrong_captions` of
params.yaml; then one caption in ten is empty, for classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..grammar import near_misses, parse

EMPTY = 0.1


@dataclass(frozen=True)
class Captions:
    """Numbers of captions; the empty one is the last. ``misses`` (caption, miss) are near misses, ``wrong`` (caption,)
    their probability."""

    misses: torch.Tensor
    wrong: torch.Tensor

    @classmethod
    def of(cls, texts: list[str], wrong: Mapping[str, float]) -> Captions:
        """For these captions; ``wrong`` by template."""
        number = {text: i for i, text in enumerate(texts)}
        return cls(
            torch.tensor([[number[miss] for miss in near_misses(text)] for text in texts]),
            torch.tensor([wrong[parse(text).template] for text in texts]),
        )

    def told(self, caption: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Numbers (n,) of the captions for pictures with these true captions."""
        n, width = len(caption), self.misses.shape[1]
        miss = self.misses[caption, torch.randint(width, (n,), generator=generator)]
        said = torch.where(torch.rand(n, generator=generator) < self.wrong[caption], miss, caption)
        return torch.where(torch.rand(n, generator=generator) < EMPTY, len(self.misses), said)
