"""From a reference's stored trajectory and maps to what fusion needs: masks (Eq. 4), keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..attention.masks import item_mask, merge
from ..errors import MaskError

if TYPE_CHECKING:
    from ..params.sections import Extract, Fuse
    from ..prompts.reading import Prompt

@dataclass(frozen=True)
class Masks:
    """``mask`` (n, T, y, x) is M_t, ``item_mask`` (n, T, item, y, x) its parts."""

    mask: torch.Tensor
    item_mask: torch.Tensor


def thresholds(prompt: Prompt, extract: Extract) -> tuple[float, ...]:
    """thr_o of each item. Raises MaskError where absolute ones are asked for and the file has none."""
    if extract.threshold == "relative":
        return (extract.relative_threshold,) * len(prompt.items)
    if prompt.thresholds is None:
        raise MaskError(
            f"prompts: '{prompt.text}' has no thresholds, and extract.threshold is absolute.",
            "'dfusion thresholds --write' proposes some from a few images; or set extract.threshold to relative.")
    return prompt.thresholds


def reference_masks(cross_map: NDArray[np.float32], prompts: Sequence[Prompt], extract: Extract) -> Masks:
    """Eq. (4) on n references' maps (n, T, item, y, x), each with its own prompt's items and thresholds."""
    maps = torch.from_numpy(np.asarray(cross_map))
    items = torch.zeros(maps.shape, dtype=torch.bool)
    merged = []
    for row, prompt in enumerate(prompts):
        found = item_mask(maps[row, :, :len(prompt.items)], thresholds(prompt, extract), extract.threshold)
        items[row, :, :len(prompt.items)] = found
        merged.append(merge(found, extract.merge))
    return Masks(torch.stack(merged), items)


def check_masks(mask: torch.Tensor, T: int, fuse: Fuse, describe: Sequence[str]) -> None:
    """Raise MaskError where a reference's mask is empty at every fused step: nothing would be fused."""
    window = mask[:, T - fuse.first_step:T - fuse.last_step + 1]
    empty = ~window.flatten(2).any(dim=2)  # (n, step)
    for row in empty.all(dim=1).nonzero().flatten().tolist():
        raise MaskError(
            f"extract: the mask of {describe[row]} is empty at all {window.shape[1]} fused steps.",
            "The thresholds are too high: lower them in the prompt file, or extract.relative_threshold.")
