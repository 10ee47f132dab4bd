"""The adapter: zero at first, the same effect merged, separate, and through diffusers' own loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from dfusion_core.lora import add_lora, load_lora, save_lora, trainable
from dfusion_core.microworld.locate import WEIGHTS
from dfusion_core.params import Lora

X, TIMESTEP = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([401, 1])
TEXT = torch.randn(2, 16, 96, generator=torch.Generator().manual_seed(1))


def fresh() -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "unet")
    return unet.eval().requires_grad_(False)


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    with torch.no_grad():
        return unet(X, TIMESTEP, TEXT).sample


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """An adapter with an effect, and the prediction with it."""
    unet = fresh()
    add_lora(unet, Lora(), seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in trainable(unet).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    save_lora(unet, tmp_path)
    return tmp_path, predict(unet)


def test_a_new_adapter_changes_nothing_and_depends_on_its_seed() -> None:
    unet, other = fresh(), fresh()
    before = predict(unet)
    add_lora(unet, Lora(), seed=3)
    add_lora(other, Lora(), seed=3)
    assert torch.equal(predict(unet), before)
    assert all(torch.equal(a, b) for a, b in zip(trainable(unet).values(), trainable(other).values(), strict=True))


def test_only_the_adapter_trains() -> None:
    unet = fresh()
    add_lora(unet, Lora(rank=2), seed=0)
    assert trainable(unet) and all("lora_" in name for name in trainable(unet))


def test_separate_adapter_is_exact_and_merged_within_rounding(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    separate, merged = fresh(), fresh()
    load_lora(separate, folder, train=True)
    load_lora(merged, folder, train=False)
    assert trainable(separate) and not trainable(merged)
    assert (expected - predict(fresh())).abs().max() > 1e-2  # the adapter does something
    torch.testing.assert_close(predict(separate), expected, rtol=0, atol=0)
    torch.testing.assert_close(predict(merged), expected, rtol=1e-4, atol=1e-4)


def test_diffusers_loads_the_file_with_the_same_effect(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    pipeline = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(predict(pipeline.unet), expected, rtol=1e-5, atol=1e-5)
