"""The gradient study: its figures by hand, its gradients against finite differences."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from steps import change, run

from dfusion_core.commands.study.gradients import coherence, figures, gradients, study_gradients
from dfusion_core.diffusion import ddim
from dfusion_core.errors import MissingStage
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import load_policy
from dfusion_core.params import load_params
from dfusion_core.store import read_stage
from dfusion_core.store.paths import adapter


def test_coherence_by_hand() -> None:
    assert coherence(torch.tensor([[3.0, 4.0]] * 9)) == pytest.approx(3.0)  # all the same: sqrt(9)
    assert coherence(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0.0
    assert coherence(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(1.0)
    assert coherence(torch.zeros(3, 2)) == 0.0
    noise = torch.randn(400, 2_000, generator=torch.Generator().manual_seed(0))
    assert coherence(noise) == pytest.approx(1.0, abs=0.05)


def test_figures_of_equal_and_opposite_pairs() -> None:
    naive = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert figures(naive, naive)["cosine"] == pytest.approx(1.0)
    assert figures(naive, -2 * naive) == pytest.approx(
        {
            "naive_norm": (5**0.5 + 3) / 2,
            "fused_norm": 5**0.5 + 3,
            "cosine": -1.0,
            "naive_coherence": coherence(naive),
            "fused_coherence": coherence(naive),
        }
    )


def test_gradients_against_finite_differences(project: Path) -> None:
    params = load_params("model", "sample")
    policy = load_policy(params.model, params.sample, adapter("r00"), train=True)
    x = read_stage("sample", "r00").tensor("x", [0, 1])
    text, i = policy.embed(["a heart holding a balloon"] * 2), 2
    found = gradients(policy, x, i, text)
    name, weight = max(trainable(policy.unet).items(), key=lambda item: float(item[1].detach().abs().sum()))
    start = sum(
        p.numel() for other, p in list(trainable(policy.unet).items())[: list(trainable(policy.unet)).index(name)]
    )
    best = int(found[1, start : start + weight.numel()].abs().argmax())

    def log_prob(step: float) -> float:
        with torch.no_grad():
            weight.view(-1)[best] += step
            mean = ddim.mean(policy.schedule, i, x[1:, i], policy.predict_noise(x[1:, i], i, text[1:]))
            weight.view(-1)[best] -= step
        return float(ddim.log_prob(x[1:, i + 1].double(), mean.double(), policy.schedule.std[i]).sum())

    difference = (log_prob(0.3) - log_prob(-0.3)) / 0.6  # a wide step: fp32 leaves five digits of log_prob
    assert float(found[1, start + best]) == pytest.approx(difference, rel=0.05)


def test_the_table_has_every_trained_timestep_and_their_sum(project: Path) -> None:
    table = study_gradients("r00", 3, project / "out")
    assert table.t.tolist() == ["4", "3", "2", "1", "all"]
    saved = pd.read_csv(project / "out/gradients.csv", dtype={"t": str})
    pd.testing.assert_frame_equal(saved, table.round(6))
    assert table.cosine.between(-1.001, 1.001).all() and (table.naive_norm > 0).all()
    assert table.fused_norm[0] == 0  # above fuse.first_t a target is its base


def test_naive_pairs_have_no_targets(project: Path) -> None:
    change(pairs="naive")
    run("fuse")
    with pytest.raises(MissingStage, match="r00 has no fused targets"):
        study_gradients("r00", 2, project / "out")
