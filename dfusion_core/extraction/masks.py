"""Eq. (4) on the stored cross-attention maps of references."""

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
    from ..params.sections import Extract
    from ..prompts.reading import Prompt


@dataclass(frozen=True)
class Masks:
    """Masks of n references: ``mask`` (n, T, y, x) is M_t, ``item_mask`` (n, T, item, y, x) the items' masks."""

    mask: torch.Tensor
    item_mask: torch.Tensor


def thresholds(prompt: Prompt, extract: Extract) -> tuple[float, ...]:
    """thr_o of each item. Raises MaskError if ``extract.threshold`` is absolute and the prompt has none."""
    if extract.threshold == "relative":
        return (extract.relative_threshold,) * len(prompt.items)
    if prompt.thresholds is None:
        raise MaskError(
            f"prompts: '{prompt.text}' has no thresholds, and extract.threshold is absolute.",
            "'dfusion thresholds --write' proposes some from a few images; or set extract.threshold to relative.",
        )
    return prompt.thresholds


def reference_masks(cross_map: NDArray[np.float32], prompts: Sequence[Prompt], extract: Extract) -> Masks:
    """Eq. (4) on n references' maps (n, T, item, y, x), each with its own prompt's items and thresholds."""
    maps = torch.from_numpy(np.asarray(cross_map))
    items = torch.zeros(maps.shape, dtype=torch.bool)
    merged = []
    for row, prompt in enumerate(prompts):
        masks = item_mask(maps[row, :, : len(prompt.items)], thresholds(prompt, extract), extract.threshold)
        items[row, :, : len(prompt.items)] = masks
        merged.append(merge(masks, extract.merge))
    return Masks(torch.stack(merged), items)


def empty_masks(masks: Masks, steps: range) -> torch.Tensor:
    """Bool (n,): references whose mask is empty at every fused step index; their targets equal the bases."""
    return ~masks.mask[:, steps.start : steps.stop].flatten(1).any(dim=1)


def empty_because(masks: Masks, steps: range, extract: Extract) -> str:
    """Why masks (n references) are empty, and what to change, for a message."""
    if masks.item_mask[:, steps.start : steps.stop].any():
        return "items that overlap cancel out under XOR; set extract.merge to or, or raise the thresholds"
    where = "extract.relative_threshold" if extract.threshold == "relative" else "the thresholds in the prompt file"
    return f"no item reaches its threshold; lower {where}"
