"""Other ways to control attention, which Appendix B (Figure 8) compares with Eq. (5). For studies only.

The paper says what its panels inject but gives no formulas, and for panels (d) to (f) only that they inject
"additional components". `VARIANTS` has the formulas used here. r is the reference, a the target that starts as the
base; A = softmax(Q K^T / sqrt(d)); M is the mask, by query position on the left of a product, by key position in
brackets. References are in the same batch (lock-step), and their own rows are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from ...attention.fusion import flatten, fuse_kv, resize
from ...attention.grid import Grid
from ...attention.layers import Network, cross_attention_modules, self_attention_modules
from ...attention.processor import Product
from ...attention.replacing import replaced
from ...errors import ParamsError, did_you_mean


@dataclass(frozen=True)
class Pair:
    """Q, K, V (target, head, token, channel) of reference and target rows, and M_hat, bool (target, y, x)."""

    Q_r: Tensor
    K_r: Tensor
    V_r: Tensor
    Q_a: Tensor
    K_a: Tensor
    V_a: Tensor
    M_hat: Tensor

    @property
    def inside(self) -> Tensor:
        """M_hat by query position, (target, 1, token, 1)."""
        return flatten(self.M_hat)

    @property
    def inside_keys(self) -> Tensor:
        """M_hat by key position, (target, 1, 1, token)."""
        return self.M_hat.flatten(1)[:, None, None]


Output = Callable[[Pair], Tensor]  # -> the target rows' attention output (target, head, token, channel)


def reference_maps(p: Pair) -> Tensor:
    """A^r V^a."""
    return attend(p.Q_r, p.K_r, p.V_a)


def reference_kv(p: Pair) -> Tensor:
    """softmax(Q^a K^r) V^r: Eq. (5) with a mask of ones."""
    return attend(p.Q_a, p.K_r, p.V_r)


def reference_output(p: Pair) -> Tensor:
    """A^r V^r."""
    return attend(p.Q_r, p.K_r, p.V_r)


def masked_maps(p: Pair) -> Tensor:
    """(M A^r + (1 - M) A^a) V^a."""
    return torch.where(p.inside, attend(p.Q_r, p.K_r, p.V_a), attend(p.Q_a, p.K_a, p.V_a))


def masked_features(p: Pair) -> Tensor:
    """M softmax(Q^a K^r) V^r + (1 - M) A^a V^a."""
    return torch.where(p.inside, attend(p.Q_a, p.K_r, p.V_r), attend(p.Q_a, p.K_a, p.V_a))


def masactrl(p: Pair) -> Tensor:
    """M softmax(Q^a K^r[M]) V^r + (1 - M) softmax(Q^a K^a[1 - M]) V^a: foreground and background apart."""
    some, rest = _never_empty(p.inside_keys), _never_empty(~p.inside_keys)
    return torch.where(
        p.inside, attend(p.Q_a, p.K_r, p.V_r, attn_mask=some), attend(p.Q_a, p.K_a, p.V_a, attn_mask=rest)
    )


def fused(p: Pair) -> Tensor:
    """Eq. (5)."""
    return attend(p.Q_a, *fuse_kv(p.K_r, p.V_r, p.K_a, p.V_a, p.M_hat))


def _never_empty(keys: Tensor) -> Tensor:
    """Rows without a key would be NaN in the softmax; they attend to all keys, and `where` discards them."""
    return keys | ~keys.any(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Variant:
    """The products of self-attention and cross-attention (None: unchanged), with the panel of Figure 8."""

    panel: str
    self_attention: Output | None = None
    cross_attention: Output | None = None


VARIANTS = {
    "self_maps": Variant("top (a)", reference_maps),
    "self_kv": Variant("top (b)", reference_kv),
    "cross_maps": Variant("top (c)", None, reference_maps),
    "self_maps_cross_maps": Variant("top (d), our choice", reference_maps, reference_maps),
    "self_kv_cross_maps": Variant("top (e), our choice", reference_kv, reference_maps),
    "self_output": Variant("top (f), our choice", reference_output),
    "masactrl": Variant("bottom (a)", masactrl),
    "masked_maps": Variant("bottom (b)", masked_maps),
    "masked_features": Variant("bottom (c)", masked_features),
    "dfusion": Variant("bottom (d)", fused),
}


def variant(name: str) -> Variant:
    """The variant of that name. Raises ParamsError naming the nearest one."""
    if name not in VARIANTS:
        raise ParamsError(
            f"attention control: there is no variant '{name}', only {', '.join(VARIANTS)}.",
            did_you_mean(name, VARIANTS),
        )
    return VARIANTS[name]


@contextmanager
def controlling(
    network: Network, layers: Sequence[str], M: Tensor, name: str, *, reference_rows: Tensor, target_rows: Tensor
) -> Iterator[None]:
    """Like `attention.fusing` in lock-step, with the variant ``name`` instead of Eq. (5). Raises ParamsError."""
    wanted, grid = variant(name), Grid()

    def product(output: Output) -> Product:
        def control(Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
            if bias is not None:
                raise NotImplementedError("attention control without attention masks only")
            M_hat = resize(M.to(Q.device), grid.size(Q.shape[2]))
            r, a = reference_rows.to(Q.device), target_rows.to(Q.device)
            changed = output(Pair(Q[r], K[r], V[r], Q[a], K[a], V[a], M_hat))
            return attend(Q, K, V).index_copy(0, a, changed)

        return control

    products: dict[str, Product] = {}
    if wanted.self_attention:
        products |= dict.fromkeys(self_attention_modules(network, layers).values(), product(wanted.self_attention))
    if wanted.cross_attention:
        for layer in layers:
            products |= dict.fromkeys(cross_attention_modules(network, layer), product(wanted.cross_attention))
    with replaced(network, products, grid):
        yield
