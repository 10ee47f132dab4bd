"""Where Eq. (4) and Eq. (5) meet the U-Net: processors swapped in and out of an unmodified diffusers model.

Layers have names, from the topology: down_0.., mid, up_0.. (SD 2.1's layers 0-6 of the paper are down_0,
down_1, down_2, mid, up_1, up_2, up_3); a self-attention module is "up_1.0", "up_1.1", ... in the order of the
layer. Each context manager restores in `finally` what it found; they nest, as long as no module is asked for
twice. U-Net rows are the rows of the batch it is called with (with guidance: two rows an image).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..runtime.errors import DFusionError, did_you_mean
from .fusion import fuse_kv, resize

UNet: TypeAlias = Any  # diffusers' UNet2DConditionModel, whose attributes type checkers do not see
# (Q, K, V, additive mask or None) -> output; all (row, head, token, channel)
Product = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
# the same -> (K, V), for a product that is the usual one on other keys and values
Hook = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
KV = tuple[Tensor, Tensor]

SAME_RESOLUTION = "same_resolution"


class LayerError(DFusionError, ValueError):
    """A layer name that this U-Net does not have, or a layer without attention."""


# --- names ----------------------------------------------------------------------------------------


def layer_paths(unet: UNet) -> dict[str, str]:
    """Layer name -> path of its block: {"down_0": "down_blocks.0", ..., "mid": "mid_block", "up_0": ...}."""
    paths = {f"down_{k}": f"down_blocks.{k}" for k in range(len(unet.down_blocks))}
    if unet.mid_block is not None:
        paths["mid"] = "mid_block"
    return paths | {f"up_{k}": f"up_blocks.{k}" for k in range(len(unet.up_blocks))}


def present_layers(unet: UNet, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted layers that exist here and have attention, in the order wanted.

    For the paper's list (mid, up_1, up_2, up_3) on U-Nets of fewer levels. Raises LayerError for a name that
    no U-Net has ("up1") and if nothing is left.
    """
    for name in wanted:
        if not re.fullmatch(r"mid|(down|up)_\d+", name):
            raise _unknown_layer(unet, name)
    present = tuple(name for name in wanted if name in layer_paths(unet) and _modules(unet, name, "attn1"))
    if not present:
        raise LayerError(f"none of the layers {', '.join(wanted)} has attention here.", _choices(unet))
    return present


def self_attention_modules(unet: UNet, layers: Sequence[str]) -> dict[str, str]:
    """{"up_1.0": "up_blocks.1.attentions.0.transformer_blocks.0.attn1", ...}. Raises LayerError."""
    return {
        f"{name}.{k}": path
        for name in layers
        for k, path in enumerate(_attention_of_layer(unet, name, "attn1"))
    }


def cross_attention_modules(unet: UNet, modules: str) -> tuple[str, ...]:
    """Paths of the attn2 modules whose maps are read.

    modules: a layer name ("up_1": the paper), or "same_resolution" (the authors' code): all of the resolution
    of the first cross-attention up block, in SD the two of down_2 and the three of up_1. Raises LayerError.
    """
    if modules != SAME_RESOLUTION:
        return _attention_of_layer(unet, modules, "attn2")
    level = _level(unet, first_cross_up_block(unet))
    same = [name for name in layer_paths(unet) if _level(unet, name) == level]
    return tuple(path for name in same for path in _modules(unet, name, "attn2"))


def first_cross_up_block(unet: UNet) -> str:
    """Name of the first up block with cross-attention: up_1 in SD. Raises LayerError."""
    for name in layer_paths(unet):
        if name.startswith("up_") and _modules(unet, name, "attn2"):
            return name
    raise LayerError("no up block of this U-Net has cross-attention.", _choices(unet))


def _level(unet: UNet, name: str) -> int:
    """How often the latent has been halved in a block: 0, 1, ... down, and back up again."""
    kind, _, k = name.partition("_")
    deepest = len(unet.down_blocks) - 1
    return {"down": int(k or 0), "mid": deepest, "up": deepest - int(k or 0)}[kind]


def _modules(unet: UNet, name: str, kind: str) -> tuple[str, ...]:
    prefix = layer_paths(unet)[name]
    paths = (path for path, _ in unet.named_modules() if path.startswith(f"{prefix}."))
    return tuple(path for path in paths if path.endswith(f".{kind}"))


def _attention_of_layer(unet: UNet, name: str, kind: str) -> tuple[str, ...]:
    if name not in layer_paths(unet):
        raise _unknown_layer(unet, name)
    if not (paths := _modules(unet, name, kind)):
        raise LayerError(f"layer {name!r} of this U-Net has no attention.", _choices(unet))
    return paths


def _choices(unet: UNet) -> str:
    return "Layers with attention: " + ", ".join(n for n in layer_paths(unet) if _modules(unet, n, "attn1"))


def _unknown_layer(unet: UNet, name: str) -> LayerError:
    hint = f"{did_you_mean(name, layer_paths(unet))} {_choices(unet)}".strip()
    return LayerError(f"this U-Net has no layer {name!r}.", hint)


# --- the processor --------------------------------------------------------------------------------


class HookedAttention:
    """Attention as diffusers' stock scaled-dot-product processor has it, but for the product of Q, K and V.

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

        Q, K, V = (_split_heads(y, attn.heads) for y in (attn.to_q(x), attn.to_k(source), attn.to_v(source)))
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
    """The usual product on the keys and values that the hook gives."""

    def product(Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
        K, V = hook(Q, K, V, bias)
        return scaled_dot_product_attention(Q, K, V, attn_mask=bias)

    return product


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(row, token, head*channel) -> (row, head, token, channel)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _additive_mask(attn: Any, mask: Tensor | None, source: Tensor) -> Tensor | None:
    """diffusers' (row*head, 1, token) mask as (row, head, 1, token); None stays None."""
    if mask is None:
        return None
    rows, tokens, _ = source.shape
    prepared: Tensor = attn.prepare_attention_mask(mask, tokens, rows)
    return prepared.view(rows, attn.heads, -1, prepared.shape[-1])


@contextmanager
def replaced(unet: UNet, products: Mapping[str, Product], grid: Grid) -> Iterator[None]:
    """Swap the processors of the modules (path -> product); the grid learns the latent size of each forward.

    Raises ValueError where a processor is not the stock one: another kind, or one that is swapped already.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    found = {f"{path}.processor": unet.attn_processors[f"{path}.processor"] for path in products}
    for key, processor in found.items():
        if type(processor) is not AttnProcessor2_0:
            raise ValueError(
                f"{key} is {type(processor).__name__}; attention control replaces AttnProcessor2_0 only. "
                "Call unet.set_attn_processor(AttnProcessor2_0()) first, and ask for a module once"
            )
    handle = unet.register_forward_pre_hook(grid.see, with_kwargs=True)
    try:
        swapped = {f"{path}.processor": HookedAttention(product) for path, product in products.items()}
        unet.set_attn_processor({**unet.attn_processors, **swapped})
        yield
    finally:
        handle.remove()
        unet.set_attn_processor({**unet.attn_processors, **found})


class Grid:
    """Height and width of each level of the U-Net, from the latent it is called with."""

    def __init__(self) -> None:
        self.latent = (0, 0)
        self.before_forward: list[Callable[[], None]] = []

    def see(self, _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.latent = (sample.shape[-2], sample.shape[-1])
        for call in self.before_forward:
            call()

    def size(self, tokens: int) -> tuple[int, int]:
        """(y, x) of the level that has this many tokens; each level halves, rounding up."""
        y, x = self.latent
        while y * x > tokens:
            y, x = (y + 1) // 2, (x + 1) // 2
        if y * x != tokens:
            raise ValueError(f"no level of a {self.latent[0]}x{self.latent[1]} latent has {tokens} positions")
        return y, x


# --- Eq. (4): reading cross-attention -------------------------------------------------------------


class AttentionTap:
    """The cross-attention maps of the latest forward, summed over heads and modules as they are computed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.clear()

    def clear(self) -> None:
        """Forget the maps; each forward starts with this."""
        self._sum: Tensor | None = None
        self._count = 0

    def maps(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Eq. (4): A_t^cross of these rows, float32 (row, y, x, token): the mean over heads and modules.

        With guidance pass the conditional rows. Raises RuntimeError before the first forward.
        """
        if self._sum is None:
            raise RuntimeError("no cross-attention was captured: call the U-Net inside `capturing`")
        A = self._sum[rows] / self._count
        return A.view(len(A), *self._grid.size(A.shape[1]), -1)

    @torch.no_grad()
    def _read(self, Q: Tensor, K: Tensor, V: Tensor, bias: Tensor | None) -> KV:
        # the explicit softmax is for the map only; the output still goes through the fused product
        logits = Q.float() @ K.float().transpose(-1, -2) * Q.shape[-1] ** -0.5
        A = (logits if bias is None else logits + bias.float()).softmax(-1).mean(1)
        self._sum = A if self._sum is None else self._sum + A
        self._count += 1
        return K, V


@contextmanager
def capturing(unet: UNet, modules: str = "up_1") -> Iterator[AttentionTap]:
    """Eq. (4): read the cross-attention of a layer, or of "same_resolution" (see `cross_attention_modules`).

    The U-Net's output is bit-identical to that without. Maps are detached, and dropped at the next forward.
    """
    grid = Grid()
    tap = AttentionTap(grid)
    grid.before_forward.append(tap.clear)
    with replaced(unet, dict.fromkeys(cross_attention_modules(unet, modules), with_kv(tap._read)), grid):
        yield tap


# --- Eq. (5): recording and fusing self-attention -------------------------------------------------


class KVTap:
    """Keys and values of the latest forward: kv["up_1.0"] = (K, V), each (row, head, token, channel)."""

    def __init__(self) -> None:
        self.kv: dict[str, KV] = {}

    def clear(self) -> None:
        """Forget them; each forward starts with this."""
        self.kv = {}

    def _hook(self, name: str) -> Hook:
        def read(_Q: Tensor, K: Tensor, V: Tensor, _bias: Tensor | None) -> KV:
            self.kv[name] = (K.detach(), V.detach())
            return K, V

        return read


@contextmanager
def recording_kv(unet: UNet, layers: Sequence[str]) -> Iterator[KVTap]:
    """Eq. (5): record K^r, V^r of every self-attention module of the layers; the output is bit-identical."""
    tap, grid = KVTap(), Grid()
    grid.before_forward.append(tap.clear)
    products = {path: with_kv(tap._hook(name)) for name, path in self_attention_modules(unet, layers).items()}
    with replaced(unet, products, grid):
        yield tap


@contextmanager
def fusing(
    unet: UNet,
    layers: Sequence[str],
    M: Tensor,
    *,
    stored: Mapping[str, KV] | None = None,
    reference_rows: Tensor | None = None,
    target_rows: Tensor | None = None,
) -> Iterator[None]:
    """Eq. (5): self-attention fusion in the layers.

    M: bool (target, y, x), the mask of each target row at any resolution; resized to each layer. M_t is a step's:
    for the next one overwrite M, and the entries of ``stored``, in place.
    target_rows: (target,) rows of the batch that are fused; all of them by default. Other rows are untouched.
    The reference's keys and values come in one of two ways, with equal results:
      stored: {"up_1.0": (K_r, V_r), ...} as `recording_kv` records them, each (target, head, token, channel);
      lock-step: reference_rows (target,), rows of the same batch (so at the same step) to take K and V from.
    With guidance each image has two target rows: repeat its mask, and pair each half with the same half of
    the reference. Raises ValueError for lengths that disagree or a row that is both, KeyError for a module
    that is not stored.
    """
    _check_rows(M, stored, reference_rows, target_rows)
    fusion = _Fusion(M, Grid(), stored, reference_rows, target_rows)
    products = {
        path: with_kv(fusion.hook(name)) for name, path in self_attention_modules(unet, layers).items()
    }
    with replaced(unet, products, fusion.grid):
        yield


@dataclass(frozen=True)
class _Fusion:
    """Where the rows of Eq. (5) are found in a batch; the arithmetic is `fuse_kv`."""

    M: Tensor
    grid: Grid
    stored: Mapping[str, KV] | None
    reference_rows: Tensor | None
    target_rows: Tensor | None

    def hook(self, name: str) -> Hook:
        """The hook of one module. Raises KeyError where keys and values are given, but not this module's."""
        if self.stored is not None:
            self.stored[name]

        def edit(_Q: Tensor, K: Tensor, V: Tensor, _bias: Tensor | None) -> KV:
            K_r, V_r = _rows(K, V, self.reference_rows) if self.stored is None else self.stored[name]
            K_a, V_a = _rows(K, V, self.target_rows)
            if not len(self.M) == len(K_a) == len(K_r):
                raise ValueError(f"{len(self.M)} masks, {len(K_a)} target rows, {len(K_r)} reference rows")
            M_hat = resize(self.M.to(K.device), self.grid.size(K.shape[2]))
            K_new, V_new = fuse_kv(K_r.to(K), V_r.to(V), K_a, V_a, M_hat)
            if self.target_rows is None:
                return K_new, V_new
            to = self.target_rows.to(K.device)
            return K.index_copy(0, to, K_new), V.index_copy(0, to, V_new)

        return edit


def _rows(K: Tensor, V: Tensor, rows: Tensor | None) -> KV:
    return (K, V) if rows is None else (K[rows.to(K.device)], V[rows.to(V.device)])


def _check_rows(
    M: Tensor, stored: Mapping[str, KV] | None, reference_rows: Tensor | None, target_rows: Tensor | None
) -> None:
    if M.dtype is not torch.bool or M.ndim != 3:
        raise ValueError(f"M must be bool (row, y, x), got {M.dtype} {tuple(M.shape)}")
    if (stored is None) == (reference_rows is None):
        raise ValueError("give either `stored` (K, V) or `reference_rows` (lock-step)")
    if reference_rows is not None and target_rows is None:
        raise ValueError("lock-step needs `target_rows` beside `reference_rows`")
    for name, rows in (("reference_rows", reference_rows), ("target_rows", target_rows)):
        if rows is not None and len(rows) != len(M):
            raise ValueError(f"{len(rows)} {name} for {len(M)} masks")
    if reference_rows is not None and target_rows is not None:
        both = set(reference_rows.tolist()) & set(target_rows.tolist())
        if both:
            raise ValueError(f"rows {sorted(both)} are both reference and target")
    if target_rows is not None and len(set(target_rows.tolist())) != len(target_rows):
        raise ValueError("a row is a target twice")
