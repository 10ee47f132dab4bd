"""The authors' code, reproduced: masks bit for bit, guided noise to 1e-4, log-probs, on their own tiny U-Net.

What tests/data/golden holds was written by the official implementation (see the README there). Each step
starts from the stored latent, so errors do not add up, and a wrong layer, half, mask or token shows at once.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from dfusion_core.attention.control import capturing, fusing, recording_kv
from dfusion_core.attention.layers import present_layers
from dfusion_core.attention.masks import item_maps, item_mask, merge
from dfusion_core.diffusion import ddim

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
META: dict[str, Any] = json.loads((GOLDEN / "meta.json").read_text())
STEPS: list[int] = META["steps"]
TIE = 2e-7  # a map this near its threshold may fall on either side


@cache
def unet() -> UNet2DConditionModel:
    model = UNet2DConditionModel(**META["unet"]).eval().requires_grad_(False)
    model.load_state_dict(load_file(GOLDEN / "unet.safetensors"))
    return model


@cache
def stored() -> dict[str, Tensor]:
    return load_file(GOLDEN / "trajectory.safetensors")


@cache
def sampler() -> ddim.Schedule:
    return ddim.schedule(META["scheduler"], META["num_steps"], META["eta"])


def state(letter: str, t: int) -> Tensor:
    """The stored latent x_t (1, 4, 64, 64) of the reference ("r") or the target ("a")."""
    return stored()[f"x_{letter}"][META["states"].index(t)][None]


def halves(x_t: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """U-Net inputs: the rows without the prompt, then those with it."""
    n, words = len(x_t), stored()
    text = torch.cat([words["empty"].expand(n, -1, -1), words["text"].expand(n, -1, -1)])
    return torch.cat([x_t, x_t]), sampler().timesteps[META["num_steps"] - t], text


def guided(prediction: Tensor) -> Tensor:
    without, with_text = prediction.chunk(2)
    return without + META["guidance_scale"] * (with_text - without)


def layers() -> tuple[str, ...]:
    return present_layers(unet(), ("mid", "up_1", "up_2", "up_3"))


@cache
def reference_step(t: int) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Guided noise, item maps (1, item, 16, 16), keys and values of the reference at step t."""
    with capturing(unet(), "same_resolution") as tap, recording_kv(unet(), layers()) as kv:
        eps = guided(unet()(*halves(state("r", t), t)).sample)
    maps = item_maps(tap.maps(slice(1, None)), [(o,) for o in META["item_tokens"]])
    return eps, maps, kv.kv


def fusion_mask(maps: Tensor) -> Tensor:
    """Both halves of the guidance batch take the mask of the conditional half."""
    M = merge(item_mask(maps, META["thresholds"]), "or")
    return torch.cat([M, M])


def kept(eps: Tensor) -> Tensor:
    return eps[0, :, ::2, ::2]


@pytest.mark.parametrize("t", STEPS)
def test_item_masks_bit_for_bit(t: int) -> None:
    _, maps, _ = reference_step(t)
    thr = torch.tensor(META["thresholds"]).view(1, -1, 1, 1)
    clear = (maps - thr).abs()[0] > TIE
    assert clear.float().mean() > 0.999
    wrong = item_mask(maps, META["thresholds"])[0] != stored()["item_mask"][STEPS.index(t)]
    assert not (wrong & clear).any()


@pytest.mark.parametrize("t", STEPS)
def test_noise_of_the_reference(t: int) -> None:
    eps, _, _ = reference_step(t)
    torch.testing.assert_close(kept(eps), stored()["eps_r"][STEPS.index(t)], rtol=0, atol=1e-4)


@cache
def target_step(t: int) -> Tensor:
    """Guided noise of the target with the reference's stored keys and values; from t = 18 it is fused."""
    inputs = halves(state("a", t), t)
    if t > 18:
        return guided(unet()(*inputs).sample)
    _, maps, kv = reference_step(t)
    with fusing(unet(), layers(), fusion_mask(maps), stored=kv):
        return guided(unet()(*inputs).sample)


@pytest.mark.few(2)
@pytest.mark.parametrize("t", STEPS)
def test_noise_of_the_fused_target(t: int) -> None:
    golden = stored()["eps_a"][STEPS.index(t)]
    torch.testing.assert_close(kept(target_step(t)), golden, rtol=0, atol=1e-4)
    if t <= 18:  # and fusion is what made it so
        plain = guided(unet()(*halves(state("a", t), t)).sample)
        assert (kept(plain) - golden).abs().max() > 1e-3


def test_lock_step_gives_the_same() -> None:
    """Rows (r, a) without the prompt, then (r, a) with it: each half of a reads the same half of r."""
    x_t = torch.cat([state("r", 10), state("a", 10)])
    M = fusion_mask(reference_step(10)[1])
    with fusing(unet(), layers(), M, reference_rows=torch.tensor([0, 2]), target_rows=torch.tensor([1, 3])):
        eps_r, eps_a = guided(unet()(*halves(x_t, 10)).sample)
    torch.testing.assert_close(eps_r, reference_step(10)[0][0], rtol=0, atol=2e-5)
    torch.testing.assert_close(eps_a, target_step(10)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("t", STEPS)
@pytest.mark.parametrize("letter", ["r", "a"])
def test_transitions_and_log_probs(letter: str, t: int) -> None:
    """x_{t-1} = mean + std z: the z recovered is standard normal, its log-prob the one the authors saw."""
    eps = reference_step(t)[0] if letter == "r" else target_step(t)
    i = META["num_steps"] - t
    mean = ddim.mean(sampler(), i, state(letter, t), eps)
    z = (state(letter, t - 1) - mean) / sampler().std[i]
    assert abs(float(z.mean())) < 0.04 and abs(float(z.std()) - 1) < 0.03  # 16384 numbers: 5 standard errors
    torch.testing.assert_close(
        ddim.step(sampler(), i, state(letter, t), eps, z), state(letter, t - 1), rtol=0, atol=1e-5
    )
    name = "log_prob_r" if letter == "r" else "log_prob_a_fused"
    log_prob = ddim.log_prob(state(letter, t - 1), mean, sampler().std[i])
    torch.testing.assert_close(log_prob, stored()[name][STEPS.index(t)][None], rtol=0, atol=1e-4)


def test_timesteps() -> None:
    assert torch.equal(sampler().timesteps, stored()["timesteps"])
