"""The transfer objective and the U-Net's batches: rows are those of Eq. (5), the target is what it says."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from dfusion_core.attention.control import fusing
from dfusion_core.attention.layers import layer_paths, present_layers
from dfusion_core.microworld.grammar import near_misses
from dfusion_core.microworld.pretrain import transfer
from dfusion_core.microworld.pretrain.captions import EMPTY, Captions
from dfusion_core.microworld.pretrain.network import HALF, Objective, Shards, min_snr_weight, scheduler
from dfusion_core.microworld.pretrain.text import prompts
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
    rows = torch.arange(30).repeat(20)
    found = transfer.partners(caption)(rows, generator())
    assert torch.equal(caption[found], caption[rows]) and not torch.equal(found, rows)
    assert set(found.tolist()) == set(range(30))


def captions(wrong: float) -> tuple[list[str], Captions]:
    texts = prompts()
    return texts, Captions.of(texts, dict.fromkeys(("behaviour", "attribute", "relation"), wrong))


def test_captions_are_wrong_by_near_misses_as_often_as_is_said() -> None:
    texts, some = captions(0.4)
    for prompt in ("a heart holding a balloon", "a blue and dotted square", "the star above the circle"):
        told = some.told(torch.full((20_000,), texts.index(prompt)), generator()).tolist()
        share = {text: told.count(i) / len(told) for i, text in enumerate([*texts, ""])}
        assert share[""] == pytest.approx(EMPTY, abs=0.01)
        assert share[prompt] == pytest.approx((1 - EMPTY) * 0.6, abs=0.015)
        misses = near_misses(prompt)
        assert {text for text in share if share[text]} == {"", prompt, *misses}
        assert all(share[miss] == pytest.approx((1 - EMPTY) * 0.4 / len(misses), abs=0.01) for miss in misses)


def test_a_shard_is_a_function_of_its_number() -> None:
    _, some = captions(0.5)
    caption = torch.arange(544).repeat(4)
    shards = Shards(caption, some, 0.5, seed=7)
    for number in range(12):
        one, again = shards(number), shards(number)
        assert all(torch.equal(one[key], again[key]) for key in one)
        transferred = bool(one["M"].any())
        assert one["rows"].shape == (HALF, 2)
        same = [torch.equal(one[k][:, 0], one[k][:, 1]) for k in ("timestep", "text")]
        assert same == [transferred] * 2
        if transferred:
            assert torch.equal(caption[one["rows"][:, 0]], caption[one["rows"][:, 1]])
            assert int(one["timestep"].min()) >= transfer.EARLIEST
    assert not torch.equal(shards(0)["noise"], shards(1)["noise"])


@pytest.mark.slow
def test_without_a_mask_the_loss_is_noise_prediction() -> None:
    _, some = captions(0.0)
    torch.manual_seed(0)
    unet, latents, texts = _unet().eval(), torch.randn(544, 4, 16, 16), torch.randn(545, 5, 16)
    batch = Shards(torch.arange(544), some, 0.0, seed=0)(3)
    with torch.no_grad():
        found = Objective(unet, latents, texts)(batch)
        rows, t, noise, text = (batch[k].transpose(0, 1).flatten(0, 1) for k in ("rows", "timestep", "noise", "text"))
        x_t = scheduler().add_noise(latents[rows], noise, t)
        error = (unet(x_t, t, texts[text]).sample - noise).square().mean(dim=(1, 2, 3))
    expected = (error * min_snr_weight(scheduler().alphas_cumprod[t])).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
