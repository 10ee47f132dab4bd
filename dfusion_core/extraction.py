"""From a reference's stored trajectory and maps to what fusion needs: masks (Eq. 4), keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .attention.control import recording_kv
from .attention.layers import present_layers
from .attention.masks import item_mask, merge
from .diffusion.policy import Policy, check_finite
from .diffusion.text import Text
from .runtime.errors import MaskError
from .trajectories import tensor

if TYPE_CHECKING:
    from .params.sections import Extract, Fuse
    from .prompts import Prompt
    from .store.reading import StageData

HALVES = 2  # of the classifier-free-guidance batch: unconditional, conditional


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


@torch.no_grad()
def replay(
    policy: Policy, x: torch.Tensor, text: Text, empty: Text, fuse: Fuse, describe: str = "the reference"
) -> dict[str, torch.Tensor]:
    """Keys and values of one reference (1, T + 1, c, h, w) at every fused step, by array name.

    ``"up_1.0/K"`` and so on, each (1, step, half, head, token, channel); step counts from ``fuse.first_step``
    down. The U-Net sees the stored latents, one step per forward as in sampling. Raises BadNumber with layer and step.
    """
    T = policy.schedule.num_steps
    layers = present_layers(policy.unet, fuse.layers)
    steps = range(T - fuse.first_step, T - fuse.last_step + 1)
    kept: dict[str, list[torch.Tensor]] = {}
    with recording_kv(policy.unet, layers) as tap:
        for i in steps:
            policy.predict_noise(x[:, i].to(policy.device), i, text, empty)
            for name, (K, V) in tap.kv.items():
                for letter, values in (("K", K), ("V", V)):
                    check_finite(values, f"{letter} of {name}", [describe] * HALVES, T - i)
                kept.setdefault(f"{name}/K", []).append(K.float().cpu())
                kept.setdefault(f"{name}/V", []).append(V.float().cpu())
    return {name: torch.stack(parts)[None] for name, parts in kept.items()}


def stored_kv(
    cache: StageData, references: Sequence[int], T: int, fuse: Fuse
) -> dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] | None:
    """Stored keys and values of these references per step index and layer, or None unless all are stored.

    Each is (half * reference, head, token, channel), halves first, as in the guidance batch.
    """
    if not cache.count or max(references) >= cache.count:
        return None
    found: dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    for name in sorted({key.rsplit("/", 1)[0] for key in cache.names}):
        K, V = (tensor(cache, f"{name}/{part}", references) for part in "KV")
        for k in range(K.shape[1]):
            found.setdefault(T - fuse.first_step + k, {})[name] = (
                K[:, k].transpose(0, 1).flatten(0, 1), V[:, k].transpose(0, 1).flatten(0, 1))
    return found
