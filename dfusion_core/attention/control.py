"""Eq. (4) and Eq. (5) applied to a network: a U-Net, or a transformer with joint attention.

Each context manager replaces attention processors and restores the previous ones on exit. They can be nested if no
module is replaced twice. Rows are rows of the batch (with guidance: two rows per image). In joint attention
Eq. 4 is the softmax over the text tokens only, and Eq. 5 replaces keys and values of the image tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .fusion import fuse_kv, resize
from .grid import Grid, on_image, on_words
from .layers import Network, cross_attention_modules, self_attention_modules
from .processor import KV, Hook
from .replacing import replaced

# --- Eq. (4): reading cross-attention -------------------------------------------------------------


class AttentionTap:
    """The cross-attention maps of the latest forward pass, summed over heads and modules during the pass."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.clear()

    def clear(self) -> None:
        """Delete the maps; called at the start of each forward pass."""
        self._sum: Tensor | None = None
        self._count = 0

    def maps(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Eq. (4): A_t^cross of these rows, float32 (row, y, x, token): the mean over heads and modules.

        With guidance pass the conditional rows. Raises RuntimeError before the first forward pass.
        """
        if self._sum is None:
            raise RuntimeError("no cross-attention was captured: call the network inside `capturing`")
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
def capturing(network: Network, modules: str = "up_1") -> Iterator[AttentionTap]:
    """Eq. (4): read the cross-attention of a layer, or of "same_resolution" (see `cross_attention_modules`).

    The network's output is bit-identical to that without capturing. Maps are detached, and deleted at the next forward
    pass.
    """
    grid = Grid()
    tap = AttentionTap(grid)
    grid.before_forward.append(tap.clear)
    with replaced(network, dict.fromkeys(cross_attention_modules(network, modules), on_words(tap._read, grid)), grid):
        yield tap


# --- Eq. (5): recording and fusing self-attention -------------------------------------------------


class KVTap:
    """Keys and values of the latest forward pass: kv["up_1.0"] = (K, V), each (row, head, token, channel)."""

    def __init__(self) -> None:
        self.kv: dict[str, KV] = {}

    def clear(self) -> None:
        """Delete them; called at the start of each forward pass."""
        self.kv = {}

    def _hook(self, name: str) -> Hook:
        def read(_Q: Tensor, K: Tensor, V: Tensor, _bias: Tensor | None) -> KV:
            self.kv[name] = (K.detach(), V.detach())
            return K, V

        return read


@contextmanager
def recording_kv(network: Network, layers: Sequence[str]) -> Iterator[KVTap]:
    """Eq. (5): record K^r, V^r of every self-attention module of the layers; the output is bit-identical."""
    tap, grid = KVTap(), Grid()
    grid.before_forward.append(tap.clear)
    products = {path: on_image(tap._hook(name), grid) for name, path in self_attention_modules(network, layers).items()}
    with replaced(network, products, grid):
        yield tap


@contextmanager
def fusing(
    network: Network,
    layers: Sequence[str],
    M: Tensor,
    *,
    stored: Mapping[str, KV] | None = None,
    reference_rows: Tensor | None = None,
    target_rows: Tensor | None = None,
) -> Iterator[None]:
    """Eq. (5): self-attention fusion in the layers.

    M: bool (target, y, x), the mask of each target row at any resolution; resized to each layer. M_t belongs to one
    step: for the next step overwrite M, and the entries of ``stored``, in place. target_rows: (target,) rows of the
    batch that are fused; all of them by default. Other rows are untouched. The reference's keys and values come in one
    of two ways, with equal results:
      stored: {"up_1.0": (K_r, V_r), ...} as `recording_kv` records them, each (target, head, token, channel);
      lock-step: reference_rows (target,), rows of the same batch (so at the same step) to take K and V from.
    With guidance each image has two target rows: repeat its mask, and pair each half with the same half of
    the reference. Raises ValueError for lengths that disagree or a row that is both, KeyError for a module
    that is not stored.
    """
    _check_rows(M, stored, reference_rows, target_rows)
    fusion = _Fusion(M, Grid(), stored, reference_rows, target_rows)
    products = {
        path: on_image(fusion.hook(name), fusion.grid) for name, path in self_attention_modules(network, layers).items()
    }
    with replaced(network, products, fusion.grid):
        yield


@dataclass(frozen=True)
class _Fusion:
    """Selects the rows of Eq. (5) in a batch; `fuse_kv` has the arithmetic."""

    M: Tensor
    grid: Grid
    stored: Mapping[str, KV] | None
    reference_rows: Tensor | None
    target_rows: Tensor | None

    def hook(self, name: str) -> Hook:
        """The hook of one module. Raises KeyError if keys and values are given, but not those of this module."""
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
