"""The method written out once more, slowly, on an unmodified U-Net: forward hooks, explicit softmax, one row at a time.

Nothing of ``dfusion_core.attention`` or of ``dfusion_core.diffusion.denoise`` is used here, and no fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dfusion_core.models.policy import Policy
from dfusion_core.models.text import Text

KV = tuple[Tensor, Tensor]


def modules(unet: Any, kind: str, blocks: Sequence[str]) -> dict[str, Any]:
    """The attention modules (attn1 or attn2) of these blocks, by path."""
    return {
        path: module
        for path, module in unet.named_modules()
        if path.endswith(f".{kind}") and path.startswith(tuple(f"{block}." for block in blocks))
    }


def one_row(policy: Policy, x: Tensor, step: int, text: Text) -> Tensor:
    """The U-Net's output for one latent (1, c, h, w) and one prompt."""
    added = None
    if text.pooled is not None:
        side = policy.picture_size[0]
        added = {"text_embeds": text.pooled, "time_ids": torch.tensor([[side, side, 0, 0, side, side]]).to(text.pooled)}
    timestep = policy.schedule.timesteps[step].reshape(1)
    return policy.unet(x.to(policy.unet.dtype), timestep, text.states, added_cond_kwargs=added).sample.float()


def guided(policy: Policy, without: Tensor, with_text: Tensor) -> Tensor:
    """Classifier-free guidance: away from the empty prompt."""
    return (1 - policy.guidance_scale) * without + policy.guidance_scale * with_text


def heads(flat: Tensor, attention: Any) -> Tensor:
    """(1, token, head * channel) -> (head, token, channel)."""
    return flat[0].unflatten(-1, (attention.heads, -1)).transpose(0, 1)


def probabilities(Q: Tensor, K: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt d), (head, query, key)."""
    return (Q @ K.transpose(-1, -2) / Q.shape[-1] ** 0.5).softmax(-1)


@contextmanager
def watched(attentions: dict[str, Any], parts: Sequence[str]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """What the projections give in the forward of one row: path -> {"to_q": (head, token, channel), ...}."""
    seen: dict[str, dict[str, Tensor]] = {path: {} for path in attentions}

    def keep(path: str, part: str) -> Callable[[Any, Any, Tensor], None]:
        def hook(_module: Any, _inputs: Any, out: Tensor) -> None:
            seen[path][part] = heads(out, attentions[path])

        return hook

    handles = [
        getattr(module, part).register_forward_hook(keep(path, part))
        for path, module in attentions.items()
        for part in parts
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention_map(seen: dict[str, dict[str, Tensor]]) -> Tensor:
    """Eq. (4): A^cross (y, x, token), the mean over modules and heads."""
    each = [probabilities(one["to_q"], one["to_k"]).mean(0) for one in seen.values()]
    mean = sum(each[1:], each[0]) / len(each)
    side = round(len(mean) ** 0.5)
    return mean.unflatten(0, (side, side))


def nearest(mask: Tensor, side: int) -> Tensor:
    """Eq. (5): the mask (y, x) at ``side`` x ``side``, flattened to (token,)."""
    index = torch.arange(side) * len(mask) // side
    return mask[index][:, index].flatten()


@contextmanager
def fused(attentions: dict[str, Any], reference: dict[str, dict[str, Tensor]], mask: Tensor) -> Iterator[None]:
    """Eq. (5): self-attention of the target on K and V that are the reference's inside the mask."""

    def attend(path: str, attention: Any) -> Callable[..., Tensor]:
        def forward(hidden: Tensor, **_unused: Any) -> Tensor:
            Q, K_a, V_a = (heads(getattr(attention, part)(hidden), attention) for part in ("to_q", "to_k", "to_v"))
            inside = nearest(mask, round(hidden.shape[1] ** 0.5))[None, :, None]
            K = torch.where(inside, reference[path]["to_k"], K_a)
            V = torch.where(inside, reference[path]["to_v"], V_a)
            out = (probabilities(Q, K) @ V).transpose(0, 1).flatten(1)
            return attention.to_out[0](out)[None]

        return forward

    for path, attention in attentions.items():
        attention.forward = attend(path, attention)
    try:
        yield
    finally:
        for attention in attentions.values():
            del attention.forward
