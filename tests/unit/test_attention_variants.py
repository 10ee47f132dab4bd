"""The rivals of Eq. (5): each formula against loops over single numbers, and their place in a U-Net."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from dfusion_core.attention.control import fusing
from dfusion_core.commands.study import variants as variants
from dfusion_core.commands.study.variants import VARIANTS, Pair, controlling
from dfusion_core.errors import ParamsError

HEADS, TOKENS, CHANNELS = 2, 6, 3
R, A = torch.tensor([0, 1]), torch.tensor([2, 3])  # rows of a batch: two references, then two targets


def pair(seed: int = 0) -> Pair:
    g = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[[True, False, True], [False, False, True]], [[False, True, True], [True, False, False]]])
    Q_r, K_r, V_r, Q_a, K_a, V_a = torch.randn(6, 2, HEADS, TOKENS, CHANNELS, generator=g)
    return Pair(Q_r, K_r, V_r, Q_a, K_a, V_a, mask)


def softmax_rows(Q: Tensor, K: Tensor, allowed: list[bool]) -> Tensor:
    """(token, token) attention of one head, one query at a time, over the allowed keys."""
    A = torch.zeros(len(Q), len(K))
    for q in range(len(Q)):
        weight = [torch.exp(Q[q] @ K[k] / CHANNELS**0.5) if allowed[k] else torch.tensor(0.0) for k in range(len(K))]
        A[q] = torch.stack(weight) / sum(weight)
    return A


def by_hand(name: str, p: Pair) -> Tensor:
    """The variant for every target, head and query, from the formulas in its docstring."""
    out = torch.zeros_like(p.V_a)
    for row in range(2):
        inside = p.M_hat[row].flatten().tolist()
        for h in range(HEADS):
            Q_r, K_r, V_r, Q_a, K_a, V_a = (x[row, h] for x in (p.Q_r, p.K_r, p.V_r, p.Q_a, p.K_a, p.V_a))
            everywhere = [True] * TOKENS
            A_r, A_a = softmax_rows(Q_r, K_r, everywhere), softmax_rows(Q_a, K_a, everywhere)
            A_ar = softmax_rows(Q_a, K_r, everywhere)
            foreground = softmax_rows(Q_a, K_r, inside)
            background = softmax_rows(Q_a, K_a, [not one for one in inside])
            K_new = torch.stack([K_r[k] if inside[k] else K_a[k] for k in range(TOKENS)])
            V_new = torch.stack([V_r[k] if inside[k] else V_a[k] for k in range(TOKENS)])
            for q in range(TOKENS):
                out[row, h, q] = {
                    "reference_maps": A_r[q] @ V_a,
                    "reference_kv": A_ar[q] @ V_r,
                    "reference_output": A_r[q] @ V_r,
                    "masked_maps": (A_r if inside[q] else A_a)[q] @ V_a,
                    "masked_features": A_ar[q] @ V_r if inside[q] else A_a[q] @ V_a,
                    "masactrl": foreground[q] @ V_r if inside[q] else background[q] @ V_a,
                    "fused": softmax_rows(Q_a, K_new, everywhere)[q] @ V_new,
                }[name]
    return out


FORMULAS = ("reference_maps", "reference_kv", "reference_output", "masked_maps", "masked_features", "masactrl", "fused")


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_by_hand(name: str) -> None:
    formula: Callable[[Pair], Tensor] = getattr(variants, name)
    torch.testing.assert_close(formula(pair()), by_hand(name, pair()), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("full", [True, False])
def test_masactrl_with_nothing_on_one_side_has_no_nan(full: bool) -> None:
    p = pair()
    p = Pair(p.Q_r, p.K_r, p.V_r, p.Q_a, p.K_a, p.V_a, torch.full_like(p.M_hat, full))
    expected = variants.reference_kv(p) if full else attend(p.Q_a, p.K_a, p.V_a)
    torch.testing.assert_close(variants.masactrl(p), expected)


@cache
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


LAYERS = ("down_0", "mid", "up_1")


def inputs(twice: bool) -> tuple[Tensor, int, Tensor]:
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(4, 4, 8, 8, generator=g), torch.randn(4, 5, 8, generator=g)
    return (x[:2].repeat(2, 1, 1, 1) if twice else x), 500, (text[:2].repeat(2, 1, 1) if twice else text)


def mask() -> Tensor:
    return torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5


@torch.no_grad()
def run(name: str, twice: bool) -> Tensor:
    with controlling(unet(), LAYERS, mask(), name, reference_rows=R, target_rows=A):
        out: Tensor = unet()(*inputs(twice)).sample
    return out


@pytest.mark.parametrize("name", sorted(VARIANTS))
@torch.no_grad()
def test_references_are_untouched_and_targets_change(name: str) -> None:
    plain = unet()(*inputs(False)).sample
    found = run(name, twice=False)
    torch.testing.assert_close(found[R], plain[R], atol=1e-6, rtol=1e-5)
    assert (found[A] - plain[A]).abs().max() > 1e-4


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"masactrl"}))  # which splits keys even so
def test_a_reference_that_is_the_target_changes_nothing(name: str) -> None:
    with torch.no_grad():
        plain = unet()(*inputs(True)).sample
    torch.testing.assert_close(run(name, twice=True), plain, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_dfusion_is_fusing() -> None:
    with fusing(unet(), LAYERS, mask(), reference_rows=R, target_rows=A):
        expected = unet()(*inputs(False)).sample
    torch.testing.assert_close(run("dfusion", twice=False), expected, atol=1e-6, rtol=1e-5)


def test_unknown_variant() -> None:
    with pytest.raises(ParamsError, match="masactl.*Did you mean 'masactrl'"):
        run("masactl", twice=False)


def test_fits_denoise_fused() -> None:
    """`partial` gives it the signature of `fusing`."""
    control = partial(controlling, name="self_kv")
    with control(unet(), LAYERS, mask(), reference_rows=R, target_rows=A), torch.no_grad():
        assert unet()(*inputs(False)).sample.isfinite().all()
