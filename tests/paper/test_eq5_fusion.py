"""Eq. (5): K_new = K^r * Flatten(M_hat) + K^a * (1 - Flatten(M_hat)), and the same for V."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfusion_core.attention.fusion import flatten, fuse_kv, resize

ROW, HEAD, Y, X, CHANNEL = 2, 3, 4, 2, 5


def kv(seed: int) -> Tensor:
    return torch.randn(ROW, HEAD, Y * X, CHANNEL, generator=torch.Generator().manual_seed(seed))


def random_mask() -> Tensor:
    return torch.rand(ROW, Y, X, generator=torch.Generator().manual_seed(9)) > 0.5


def test_equals_the_printed_sum() -> None:
    K_r, V_r, K_a, V_a, M = kv(0), kv(1), kv(2), kv(3), random_mask()
    m = flatten(M).float()
    K, V = fuse_kv(K_r, V_r, K_a, V_a, M)
    assert torch.equal(K, K_r * m + K_a * (1 - m))
    assert torch.equal(V, V_r * m + V_a * (1 - m))


def test_all_and_nothing() -> None:
    K_r, V_r, K_a, V_a = kv(0), kv(1), kv(2), kv(3)
    ones = torch.ones(ROW, Y, X, dtype=torch.bool)
    assert all(map(torch.equal, fuse_kv(K_r, V_r, K_a, V_a, ones), (K_r, V_r)))
    assert all(map(torch.equal, fuse_kv(K_r, V_r, K_a, V_a, ~ones), (K_a, V_a)))


def test_an_unused_nan_stays_out() -> None:
    M = random_mask()
    K_r = kv(0).masked_fill(~flatten(M), torch.nan)
    K, V = fuse_kv(K_r, K_r, kv(1), kv(2), M)
    assert torch.isfinite(K).all() and torch.isfinite(V).all()


def test_gradients_follow_the_selection() -> None:
    K_r, K_a, M = kv(0).requires_grad_(), kv(1).requires_grad_(), random_mask()
    K, _ = fuse_kv(K_r, kv(2), K_a, kv(3), M)
    K.sum().backward()
    chosen = flatten(M).expand_as(K_r).float()
    assert K_r.grad is not None and torch.equal(K_r.grad, chosen)
    assert K_a.grad is not None and torch.equal(K_a.grad, 1 - chosen)


def test_flatten_is_row_major() -> None:
    M = torch.zeros(1, 2, 3, dtype=torch.bool)
    M[0, 1, 0] = True
    assert flatten(M).shape == (1, 1, 6, 1)
    assert flatten(M).flatten().tolist() == [False, False, False, True, False, False]


def test_resize_halves_by_taking_every_second_pixel() -> None:
    M = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(resize(M, (8, 8)), M[:, ::2, ::2])


def test_resize_doubles_by_repeating() -> None:
    M = torch.tensor([[[True, False], [False, True]]])
    assert torch.equal(resize(M, (4, 4)), M.repeat_interleave(2, 1).repeat_interleave(2, 2))


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_resize_to_the_same_size_changes_nothing(size: tuple[int, int]) -> None:
    M = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(resize(M, size), M) and resize(M, size).dtype == torch.bool
