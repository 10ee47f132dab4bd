"""Keys and values of references: recomputed from their stored trajectories, or read from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..attention.control import recording_kv
from ..attention.layers import fused_layers
from ..diffusion.finite import check_finite
from ..errors import NotFinite

if TYPE_CHECKING:
    from ..fusion.targets import StoredKV
    from ..models.policy import Policy
    from ..models.text import Text
    from ..store.reading import StageData


@torch.no_grad()
def replay(policy: Policy, x: torch.Tensor, text: Text, layers: Sequence[str], steps: range) -> dict[str, torch.Tensor]:
    """Keys and values of one reference x (1, T + 1, c, h, w) at the step indices ``steps``, by array name.

    ``"up_1.0/K"`` and so on, each (1, len(steps), half, head, token, channel). The stored latents are the network's
    input, one step per forward pass as in sampling. Raises NotFinite.
    """
    T = policy.schedule.num_steps
    parts: dict[str, list[torch.Tensor]] = {}
    with recording_kv(policy.unet, fused_layers(policy.unet, layers)) as tap:
        for i in steps:
            policy.predict_noise(x[:, i].to(policy.device), i, text)
            for name, pair in tap.kv.items():
                for letter, values in zip("KV", pair, strict=True):
                    _check(values, f"{letter} of {name}", T - i)
                    parts.setdefault(f"{name}/{letter}", []).append(values.float().cpu())
    return {name: torch.stack(values)[None] for name, values in parts.items()}


def _check(values: torch.Tensor, what: str, t: int) -> None:
    try:
        check_finite(values, what, t)
    except NotFinite as error:  # its row is a half of the guidance batch
        raise NotFinite(what, 0, t) from error


def stored_kv(cache: StageData, references: Sequence[int], steps: range) -> StoredKV | None:
    """Stored keys and values of these references per step index and module, or None unless all are stored.

    Each is (half * reference, head, token, channel), halves first, as in the guidance batch.
    """
    if not cache.count or max(references) >= cache.count:
        return None
    kv: StoredKV = {}
    for name in sorted({key.rsplit("/", 1)[0] for key in cache.names}):
        K, V = (cache.tensor(f"{name}/{letter}", references) for letter in "KV")
        for place, i in enumerate(steps):
            kv.setdefault(i, {})[name] = (
                K[:, place].transpose(0, 1).flatten(0, 1),
                V[:, place].transpose(0, 1).flatten(0, 1),
            )
    return kv
