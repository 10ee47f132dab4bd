"""Fusion as the authors describe it: in every step a forward for the reference, one for the base, one for the target.

The reference's forward stores keys, values and cross-attention maps, the target's uses them; the base is denoised once
more beside them. Attention is an explicit softmax, or ``scaled_dot_product_attention``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, scaled_dot_product_attention

from dfusion_core.attention.layers import cross_attention_modules, self_attention_modules
from dfusion_core.diffusion import ddim
from dfusion_core.models.policy import Policy
from dfusion_core.models.text import Text


@dataclass
class Store:
    """What the forwards of one step hand on. ``role`` is "reference", "base" or "target"."""

    explicit: bool
    role: str = "base"
    kv: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    maps: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None  # (2 n, y, x), for both halves of the guidance batch


class StoringAttention:
    """The processor of one attention module. ``kind`` is "fused", "mapped", or "" for one that only attends."""

    def __init__(self, store: Store, path: str, kind: str) -> None:
        self.store, self.path, self.kind = store, path, kind

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_unused: Any) -> Tensor:
        source = x if encoder_hidden_states is None else encoder_hidden_states
        Q, K, V = (
            part(of).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part, of in ((attn.to_q, x), (attn.to_k, source), (attn.to_v, source))
        )
        if self.kind == "fused":
            K, V = self.shared(K, V)
        out = self.attend(Q, K, V).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)

    def shared(self, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. (5) as it is printed: K^r M + K^a (1 - M)."""
        if self.store.role == "reference":
            self.store.kv[self.path] = K, V
        if self.store.role != "target" or self.store.mask is None:
            return K, V
        side = round(K.shape[2] ** 0.5)
        M = interpolate(self.store.mask[:, None].to(K.dtype), size=(side, side)).flatten(2)[..., None]
        K_r, V_r = self.store.kv[self.path]
        return K_r * M + K * (1 - M), V_r * M + V * (1 - M)

    def attend(self, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        wanted = self.kind == "mapped" and self.store.role == "reference"
        if self.store.explicit or wanted:
            A = (Q @ K.transpose(-1, -2) * Q.shape[-1] ** -0.5).softmax(-1)
            if wanted:
                self.store.maps.append(A.mean(1))
            if self.store.explicit:
                return A @ V
        return scaled_dot_product_attention(Q, K, V)


@contextmanager
def storing(unet: Any, layers: Sequence[str], explicit: bool) -> Iterator[Store]:
    """All attention of the U-Net through a store; what was there before comes back."""
    before, store = unet.attn_processors, Store(explicit)
    kinds = dict.fromkeys(self_attention_modules(unet, layers).values(), "fused")
    kinds |= dict.fromkeys(cross_attention_modules(unet, "up_1"), "mapped")
    paths = [name.removesuffix(".processor") for name in before]
    unet.set_attn_processor({f"{path}.processor": StoringAttention(store, path, kinds.get(path, "")) for path in paths})
    try:
        yield store
    finally:
        unet.set_attn_processor(before)


def find_mask(maps: Sequence[Tensor], items: Sequence[Sequence[int]]) -> Tensor:
    """Eq. (4): where exactly one item (of two) is above its map's mean; (n, y, x) from maps (2 n, query, token)."""
    A = (sum(maps[1:], maps[0]) / len(maps)).chunk(2)[1]
    side = round(A.shape[1] ** 0.5)
    each = [A[..., list(tokens)].mean(-1) for tokens in items]
    inside = [one >= one.mean(1, keepdim=True) for one in each]
    merged = inside[0]
    for one in inside[1:]:
        merged = merged ^ one
    return merged.unflatten(1, (side, side))


@dataclass(frozen=True)
class Fused:
    """Trajectories (n, T + 1, c, h, w) of the three, the maps (n, T, y, x, token) and the masks (n, T, y, x)."""

    reference: Tensor
    base: Tensor
    target: Tensor
    maps: Tensor
    mask: Tensor


@torch.no_grad()
def fuse_in_three(
    policy: Policy,
    x_T: Tensor,
    noise: Tensor,
    text: Text,
    items: Sequence[Sequence[int]],
    layers: Sequence[str],
    first_t: int,
    *,
    explicit: bool,
) -> Fused:
    """Denoise n references, n bases and n targets side by side; ``x_T`` (2 n, ...) has the references first."""
    T, n = policy.schedule.num_steps, len(x_T) // 2
    x = {"reference": x_T[:n].to(policy.device), "base": x_T[n:].to(policy.device), "target": x_T[n:].to(policy.device)}
    z = {"reference": noise[:n], "base": noise[n:], "target": noise[n:]}
    states = {role: [start] for role, start in x.items()}
    maps, masks = [], []
    with storing(policy.unet, layers, explicit) as store:
        for i in range(T):
            for role in ("reference", "base", "target"):
                store.role = role
                eps = policy.predict_noise(states[role][-1], i, text)
                states[role].append(ddim.step(policy.schedule, i, states[role][-1], eps, z[role][:, i]))
                if role == "reference":
                    found = find_mask(store.maps, items)
                    maps.append(torch.stack(store.maps).mean(0)[n:].unflatten(1, found.shape[1:]))
                    masks.append(found)
                    store.mask = torch.cat([found, found]) if T - i <= first_t else None
                    store.maps.clear()
    x = {role: torch.stack(states[role], dim=1).cpu() for role in states}
    return Fused(
        x["reference"], x["base"], x["target"], torch.stack(maps, dim=1).cpu(), torch.stack(masks, dim=1).cpu()
    )
