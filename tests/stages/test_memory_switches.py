"""model.gradient_checkpointing, vae_slicing and vae_tiling: the same results to rounding, in less memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from steps import change, forget, policy_of, run

from dfusion_core.attention.control import capturing
from dfusion_core.commands.plan.costs import count_costs
from dfusion_core.commands.plan.memory import stage_memory
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import Policy
from dfusion_core.params import load_everything

ADAPTER = Path("runs/r00/train/adapter/pytorch_lora_weights.safetensors")


@pytest.mark.slow
def test_a_round_trains_to_the_same_adapter(project: Path) -> None:
    trained = load_file(ADAPTER)
    change(model={"gradient_checkpointing": True})
    forget("train")
    run("train")
    for name, value in load_file(ADAPTER).items():
        assert torch.allclose(value, trained[name], atol=1e-6), name


def gradients(policy: Policy) -> list[torch.Tensor]:
    """Of a log-prob-like sum through the U-Net, with attention maps captured on the way."""
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with capturing(policy.unet, "up_1") as tap:
        policy.predict_noise(x, 1, policy.embed(["a heart", "a star"])).square().sum().backward()
        assert torch.isfinite(tap.maps()).all()
    return [p.grad for p in trainable(policy.unet).values() if p.grad is not None]


@pytest.mark.slow
def test_checkpoints_and_attention_control(project: Path) -> None:
    plain = gradients(policy_of("r00", train=True))
    change(model={"gradient_checkpointing": True})
    policy = policy_of("r00", train=True)
    assert policy.unet.is_gradient_checkpointing and not policy_of("r00").unet.is_gradient_checkpointing
    again = gradients(policy)
    assert len(plain) == len(again) > 0 and any(one.abs().max() > 0 for one in plain)
    for one, other in zip(plain, again, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_plan_counts_them(project: Path) -> None:
    change(model={"gradient_checkpointing": False})
    plain = count_costs(load_everything(), torch.float32)
    change(model={"gradient_checkpointing": True})
    saving = count_costs(load_everything(), torch.float32)
    assert saving.trained_row_saved < plain.trained_row_saved
    kept = [stage_memory(load_everything(), plain)["sample"]]
    change(model={"vae_slicing": True})
    kept.append(stage_memory(load_everything(), plain)["sample"])
    assert kept[1].fixed - kept[0].fixed == plain.decode_working and kept[1].each == 2 * plain.row_working
    assert plain.trained_row_flops < saving.trained_row_flops < 1.6 * plain.trained_row_flops


@pytest.mark.few(1)
@pytest.mark.parametrize("switch", ["vae_slicing", "vae_tiling"])
def test_decoded_pictures_are_the_same(switch: str, project: Path) -> None:
    latents = torch.randn(3, *policy_of("init").latent_shape, generator=torch.Generator().manual_seed(0))
    plain = policy_of("init").decode(latents).int()
    change(model={switch: True})
    policy = policy_of("init")
    assert policy.vae.use_slicing or policy.vae.use_tiling
    assert (policy.decode(latents).int() - plain).abs().max() <= 1  # of 255
