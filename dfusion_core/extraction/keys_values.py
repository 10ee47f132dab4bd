"""Keys and values of references: replayed from stored trajectories, or read from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..attention.control import recording_kv
from ..attention.layers import present_layers
from ..diffusion.finite import check_finite
from ..models.policy import Policy
from ..models.text import Text

if TYPE_CHECKING:
    from ..params.sections import Fuse
    from ..store.reading import StageData


HALVES = 2  # of the classifier-free-guidance batch: unconditional, conditional


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
        K, V = (cache.tensor(f"{name}/{part}", references) for part in "KV")
        for k in range(K.shape[1]):
            found.setdefault(T - fuse.first_step + k, {})[name] = (
                K[:, k].transpose(0, 1).flatten(0, 1), V[:, k].transpose(0, 1).flatten(0, 1))
    return found
