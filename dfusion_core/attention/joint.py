"""Attention processors for the blocks of flow transformers (MM-DiT), with a replaceable product of Q, K and V.

In joint attention the tokens of the image and those of the text are one sequence, each with its own projections.
SD 3 puts the image first, FLUX the text; the input of FLUX's single blocks is the joined sequence. The outputs are
bit-identical to those of diffusers' stock processors when the product is the usual one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from .processor import Product, split_heads

Heads: TypeAlias = tuple[Tensor, Tensor, Tensor]  # Q, K, V: (row, head, token, channel)


class HookedJointAttention:
    """diffusers' ``JointAttnProcessor2_0`` (SD 3) with a replaceable product of Q, K and V. Image first, then text.

    Without text (the second attention of SD 3.5's blocks) it is attention among image tokens.
    """

    def __init__(self, product: Product) -> None:
        self.product = product

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        parts = [_image_heads(attn, hidden_states)]
        if encoder_hidden_states is not None:
            parts.append(_text_heads(attn, encoder_hidden_states))
        Q, K, V = _joined(parts)
        out = self.product(Q, K, V, attention_mask).transpose(1, 2).flatten(2).to(Q.dtype)
        of_image, text = out[:, : hidden_states.shape[1]], out[:, hidden_states.shape[1] :]
        image: Tensor = attn.to_out[1](attn.to_out[0](of_image))  # projection, dropout
        if encoder_hidden_states is None:
            return image
        return image, text if attn.context_pre_only else attn.to_add_out(text)


class HookedFluxAttention:
    """diffusers' ``FluxAttnProcessor`` with a replaceable product. Text first, then the image; with rotary positions.

    The input of a single block is the joined sequence.
    """

    def __init__(self, product: Product) -> None:
        self.product = product

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        from diffusers.models.embeddings import apply_rotary_emb

        parts = [_image_heads(attn, hidden_states)]
        if encoder_hidden_states is not None:
            parts.insert(0, _text_heads(attn, encoder_hidden_states))
        Q, K, V = _joined(parts)
        if image_rotary_emb is not None:
            Q, K = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=2) for x in (Q, K))
        out = self.product(Q, K, V, attention_mask).transpose(1, 2).flatten(2).to(Q.dtype)
        if encoder_hidden_states is None:
            return out
        text, image = out.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image.contiguous())), attn.to_add_out(text.contiguous())


def _image_heads(attn: Any, x: Tensor) -> Heads:
    Q, K, V = (split_heads(project(x), attn.heads) for project in (attn.to_q, attn.to_k, attn.to_v))
    return _normed(attn.norm_q, Q), _normed(attn.norm_k, K), V


def _text_heads(attn: Any, x: Tensor) -> Heads:
    Q, K, V = (split_heads(project(x), attn.heads) for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
    return _normed(attn.norm_added_q, Q), _normed(attn.norm_added_k, K), V


def _joined(parts: list[Heads]) -> Heads:
    """Q, K and V of the whole sequence."""
    Q, K, V = (torch.cat(same, dim=2) if len(same) > 1 else same[0] for same in zip(*parts, strict=True))
    return Q, K, V


def _normed(norm: Any, x: Tensor) -> Tensor:
    normed: Tensor = x if norm is None else norm(x)
    return normed
