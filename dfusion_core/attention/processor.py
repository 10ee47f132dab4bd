"""An attention processor for U-Nets with a replaceable product of Q, K and V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# (Q, K, V, additive mask or None) -> output; all (row, head, token, channel)
Product: TypeAlias = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
KV: TypeAlias = tuple[Tensor, Tensor]
# the same -> (K, V): replaces keys and values of the usual product
Hook: TypeAlias = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], KV]


class HookedAttention:
    """diffusers' stock scaled-dot-product attention with a replaceable product of Q, K and V.

    With `scaled_dot_product_attention` as the product, the output is bit-identical to the stock processor's.
    """

    def __init__(self, product: Product) -> None:
        self.product = product

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if hidden_states.ndim != 3 or attn.spatial_norm is not None:
            raise NotImplementedError("attention on (row, token, channel) without spatial norm only")
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        bias = _additive_mask(attn, attention_mask, source)
        x = hidden_states
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            source = x
        elif attn.norm_cross:
            source = attn.norm_encoder_hidden_states(source)

        Q, K, V = (split_heads(y, attn.heads) for y in (attn.to_q(x), attn.to_k(source), attn.to_v(source)))
        Q = Q if attn.norm_q is None else attn.norm_q(Q)
        K = K if attn.norm_k is None else attn.norm_k(K)
        out = self.product(Q, K, V, bias)

        out = out.transpose(1, 2).flatten(2).to(Q.dtype)
        out = attn.to_out[1](attn.to_out[0](out))  # projection, dropout
        if attn.residual_connection:
            out = out + hidden_states
        result: Tensor = out / attn.rescale_output_factor
        return result


def with_kv(hook: Hook) -> Product:
    """The usual product on the keys and values that the hook returns."""

    def product(Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
        K, V = hook(Q, K, V, bias)
        return scaled_dot_product_attention(Q, K, V, attn_mask=bias)

    return product


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(row, token, head*channel) -> (row, head, token, channel)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _additive_mask(attn: Any, mask: Tensor | None, source: Tensor) -> Tensor | None:
    """diffusers' (row*head, 1, token) mask as (row, head, 1, token); None stays None."""
    if mask is None:
        return None
    rows, tokens, _ = source.shape
    prepared: Tensor = attn.prepare_attention_mask(mask, tokens, rows)
    return prepared.view(rows, attn.heads, -1, prepared.shape[-1])
