"""The variant of the built-in model in which fusion works: its rows are those of Eq. (5), its target what it says."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from dfusion_core.attention.control import fusing
from dfusion_core.attention.layers import layer_paths, present_layers
from dfusion_core.microworld.pretrain import transfer
from dfusion_core.microworld.pretrain.unet import TrainingSet, scheduler
from dfusion_core.testing import _unet

N = 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def forward(unet: UNet2DConditionModel) -> torch.Tensor:
    g = generator(1)
    x, text = torch.randn(2 * N, 4, 16, 16, generator=g), torch.randn(2 * N, 5, 16, generator=g)
    with torch.no_grad():
        out: torch.Tensor = unet(x, 500, text).sample
    return out


def test_the_rows_are_those_of_fusion() -> None:
    """References, then bases: with its processors as inside `fusing` in lock-step, and without M as without."""
    torch.manual_seed(0)
    unet, M = _unet().eval(), transfer.masks(N, generator())
    layers = present_layers(unet, tuple(layer_paths(unet)))
    plain = forward(unet)
    with fusing(unet, layers, M, reference_rows=torch.arange(N), target_rows=torch.arange(N, 2 * N)):
        expected = forward(unet)
    control = transfer.Transfer(unet)
    control.local.M = None
    assert torch.equal(forward(unet), plain)
    control.local.M = M
    torch.testing.assert_close(forward(unet), expected, rtol=1e-5, atol=1e-6)
    assert (expected[N:] - plain[N:]).abs().max() > 1e-3


def test_the_wanted_noise_leads_to_the_wanted_image() -> None:
    abar = scheduler().alphas_cumprod[torch.tensor([200, 900])]
    x_base, x_want, noise = torch.randn(3, 2, 4, 8, 8, generator=generator())
    a, s = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
    x_t = a * x_base + s * noise
    denoised = (x_t - s * transfer.wanted_noise(x_t, x_want, abar)) / a
    torch.testing.assert_close(denoised, x_want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transfer.wanted_noise(x_t, x_base, abar), noise, rtol=1e-4, atol=1e-4)


def test_masks_are_rectangles_of_at_least_two_cells_and_some_are_full() -> None:
    found = transfer.masks(2_000, generator())
    assert found.shape == (2_000, 8, 8) and found.dtype == torch.bool
    full = found.flatten(1).all(dim=1)
    assert float(full.float().mean()) == pytest.approx(transfer.FULL, abs=0.06)
    for mask in found[:200]:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert int(rows.sum()) >= 2 and int(columns.sum()) >= 2
        assert torch.equal(mask, rows[:, None] & columns[None])  # a rectangle is what its sides say


def test_partners_share_the_caption() -> None:
    caption = torch.arange(30) % 3
    data = TrainingSet(torch.zeros(30, 4, 1, 1), caption, torch.zeros(4, 1, 1))
    rows = torch.arange(30)
    found = transfer.partners(data)(rows, generator())
    assert torch.equal(caption[found], caption[rows]) and not torch.equal(found, rows)


def test_one_prompt_in_ten_is_empty() -> None:
    data = TrainingSet(torch.zeros(1), torch.zeros(1), torch.zeros(5, 1, 1))
    found = data.drop_some(torch.zeros(5_000, dtype=torch.long), generator())
    assert set(found.tolist()) == {0, 4}
    assert float((found == 4).float().mean()) == pytest.approx(0.1, abs=0.02)
