"""The line search along pairs' gradients: the direction against finite differences, its length, its table."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from steps import T, change, run

from dfusion_core.commands.study.directions import log_prob_gradient, minus, scaled, study_directions, windows
from dfusion_core.diffusion import ddim
from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.errors import MissingStage, ParamsError
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import load_policy
from dfusion_core.params import load_params
from dfusion_core.store import read_stage
from dfusion_core.store.paths import adapter


def test_the_gradient_is_that_of_the_summed_log_probs(project: Path) -> None:
    """A step along it changes the sum of all log-probs by its squared length times the step."""
    params = load_params("model", "sample")
    policy = load_policy(params.model, params.sample, adapter("r00"), train=True)
    x, prompts = read_stage("sample", "r00").tensor("x", [0, 5]), ["a heart holding a balloon"] * 2
    steps = range(1, 3)  # t = 3, 2 of 4
    found = log_prob_gradient(policy, x, prompts, steps, rows=3)
    for part, split in zip(found, log_prob_gradient(policy, x, prompts, steps, rows=99), strict=True):
        torch.testing.assert_close(part, split, rtol=1e-3, atol=1e-5)

    weights = list(trainable(policy.unet).values())
    direction = scaled(found, 2e-4)

    def summed(sign: float) -> float:
        total = 0.0
        with torch.no_grad():
            for weight, part in zip(weights, direction, strict=True):
                weight += sign * part  # type: ignore[misc]
            for i in steps:
                mean = ddim.mean(policy.schedule, i, x[:, i], policy.predict_noise(x[:, i], i, policy.embed(prompts)))
                total += float(ddim.log_prob(x[:, i + 1].double(), mean.double(), policy.schedule.std[i]).sum())
            for weight, part in zip(weights, direction, strict=True):
                weight -= sign * part  # type: ignore[misc]
        return total

    expected = sum(float((a * b).sum()) for a, b in zip(found, direction, strict=True))
    assert (summed(1.0) - summed(-1.0)) / 2 == pytest.approx(expected, rel=0.02)


def test_distillation_descends_the_divergence_from_the_fused_policy(project: Path) -> None:
    """The gradient of a target's noiseless steps is -grad KL(p_fused || p) / n, by autograd on the divergence itself;
    what the policy drew by itself has none."""
    params = load_params("model", "sample", "fuse")
    policy = load_policy(params.model, params.sample, adapter("init"), train=True)
    pairs = read_stage("extract", "r00").table("pairs").head(2)
    _, eps = trajectory_noises(pairs.base_seed.tolist(), policy.latent_shape, params.sample.num_steps)
    target = read_stage("fuse", "r00").tensor("x", pairs.pair)
    prompts, std = pairs.prompt.tolist(), policy.schedule.std
    found = log_prob_gradient(policy, target, prompts, range(T), 99, eps)

    divergence = torch.zeros(())
    for i in range(params.sample.num_steps):
        mean = ddim.mean(policy.schedule, i, target[:, i], policy.predict_noise(target[:, i], i, policy.embed(prompts)))
        fused_mean = target[:, i + 1] - std[i] * eps[:, i]
        divergence = divergence + ddim.gaussian_kl(fused_mean, mean, std[i].expand(2)).sum()
    expected = torch.autograd.grad(-divergence, list(trainable(policy.unet).values()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert max(float(part.abs().max()) for part in found) > 1e-4

    base = read_stage("sample", "r00").tensor("x", pairs.base_image)
    own = log_prob_gradient(policy, base, prompts, range(T), 99, eps)
    assert max(float(part.abs().max()) for part in own) < 1e-2 * max(float(part.abs().max()) for part in found)


def test_differences_and_lengths_by_hand() -> None:
    a, b = [torch.tensor([3.0, 5.0]), torch.tensor([[2.0]])], [torch.tensor([1.0, 1.0]), torch.tensor([[2.0]])]
    difference = minus(a, b)
    assert [part.tolist() for part in difference] == [[2.0, 4.0], [[0.0]]]
    long = scaled([torch.tensor([3.0, 4.0]), torch.zeros(2)], 1.0)  # rms 2.5
    assert long[0].tolist() == pytest.approx([1.2, 1.6])
    assert scaled([torch.zeros(2)], 1.0)[0].tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_the_table(project: Path) -> None:
    """Six directions; a length of zero changes nothing, another one does; the adapter on disk stays."""
    weights = Path("runs/init/train/adapter/pytorch_lora_weights.safetensors").read_bytes()
    table = study_directions("r00", 2, 2, [0.0, 0.05], project / "out")
    assert table.direction.tolist()[::2] == [
        "naive",
        "dfusion",
        "all targets",
        "distillation",
        "all targets without distillation",
        "random",
    ]
    assert (table[table["size"] == 0].reward == 0).all() and (table[table["size"] > 0].reward != 0).all()
    pd.testing.assert_frame_equal(pd.read_csv(project / "out/directions.csv"), table.round(6))
    assert Path("runs/init/train/adapter/pytorch_lora_weights.safetensors").read_bytes() == weights


def test_timesteps_by_name(project: Path) -> None:
    """T is 4 here, and all four are trained on."""
    params = load_params("sample", "train")
    assert windows([], params) == {"4-1": range(4)}
    assert windows(["4-3", "1-1"], params) == {"4-3": range(2), "1-1": range(3, 4)}
    for wrong in ("5-1", "3-4", "2-0", "3", "4..3", "-1-1"):
        with pytest.raises(ParamsError, match=rf"'{re.escape(wrong)}' is not a range of timesteps.*4 \.\. 1"):
            windows([wrong], params)


@pytest.mark.slow
def test_each_range_has_its_own_gradient(project: Path) -> None:
    """The same whether it stands alone or after another one."""
    both = study_directions("r00", 2, 2, [0.05], project / "out", ["4-3", "2-1"])
    alone = study_directions("r00", 2, 2, [0.05], project / "out", ["2-1"])
    assert both.t.tolist() == ["4-3"] * 6 + ["2-1"] * 6
    pd.testing.assert_frame_equal(both[6:].reset_index(drop=True), alone)
    naive = both[both.direction == "naive"].reward
    assert naive.nunique() == 2


def test_pairs_that_are_not_fused(project: Path) -> None:
    change(pairs="naive")
    run("fuse")
    with pytest.raises(MissingStage, match="r00 has no fused targets"):
        study_directions("r00", 2, 2, [0.1], project / "out")
