"""train with algo: ddpo and dpok: gradients of Eq. (8) and (9) by a loop over single images and steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from steps import T, array, change, content, forget, mean_and_std, policy_of, run

from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import Policy
from dfusion_core.params import load_params
from dfusion_core.store import read_stage
from dfusion_core.training.trainer import Trainer

Image = tuple[str, torch.Tensor, float]  # prompt, trajectory, normalised reward
SECTIONS: dict[str, Any] = {"ratio_clip": 1e-3, "clip_norm": 1e6}


def normalised(prompt: str, reward: float, rounds: list[str], clip: float) -> float:
    """(R - mean) / std over the scores of this prompt's sampled images in these rounds."""
    seen = []
    for round in rounds:
        scores = pd.read_csv(f"runs/{round}/score/scores.csv").set_index("image").reward
        images = pd.read_csv(f"runs/{round}/sample/images.csv")
        seen += [scores[row.image] for row in images.itertuples() if row.prompt == prompt]
    mean = sum(seen) / len(seen)
    std = math.sqrt(sum((value - mean) ** 2 for value in seen) / len(seen))
    return max(-clip, min(clip, (reward - mean) / std))


def images(rounds: list[str], clip: float = 5.0) -> list[Image]:
    """Both images of every pair of the last of these rounds, with what weighs them."""
    round = rounds[-1]
    x, fused = array("sample", "x", round), array("fuse", "x", round)
    found: list[Image] = []
    for row in read_stage("adopt", round).table("training").itertuples():
        winner = fused[row.winner_row] if row.winner_stage == "fuse" else x[row.winner_row]
        found += [
            (row.prompt, winner, normalised(row.prompt, row.winner_reward, rounds, clip)),
            (row.prompt, x[row.loser_row], normalised(row.prompt, row.loser_reward, rounds, clip)),
        ]
    return found


def gaussian(policy: Policy, image: Image, i: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(log-prob, mean, std) of one step of one image."""
    prompt, x, _ = image
    eps = policy.predict_noise(x[i][None], i, policy.embed([prompt]))
    mean, std = mean_and_std(policy, x[i][None], eps, i)
    log_prob = (-((x[i + 1] - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))).mean()
    return log_prob, mean, std


def naive_gradient(policy: Policy, old: Policy, every: list[Image], algo: str) -> torch.Tensor:
    """Of the mean over pairs and steps; no step is left out, shared ones neither. Ratios are clipped at 1e-3."""
    rows = len(every) // 2 * T
    for image in every:
        for i in range(T):
            log_prob, mean, std = gaussian(policy, image, i)
            with torch.no_grad():
                log_prob_old, mean_old, _ = gaussian(old, image, i)
            A, ratio = image[2], (log_prob - log_prob_old).exp()
            clipped = min(max(ratio.item(), 1 - 1e-3), 1 + 1e-3)
            is_clipped = ratio.item() != clipped and -A * clipped > -A * ratio.item()
            loss = torch.tensor(0.0) if is_clipped else -A * ratio
            if algo == "dpok":
                loss = 0.99 * loss + 0.01 * ((mean - mean_old) ** 2 / (2 * std**2)).mean()
            if loss.requires_grad:
                (loss / rows).backward()
    return flat({n: p.grad for n, p in trainable(policy.unet).items() if p.grad is not None})


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def caught_updates(monkeypatch: pytest.MonkeyPatch, round: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Run the stage; (adapter, gradient) just before each AdamW step."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = torch.optim.AdamW.step

    def caught(self: torch.optim.AdamW, *given: Any) -> Any:
        parameters = self.param_groups[0]["params"]
        found.append(
            (
                torch.cat([p.detach().flatten().clone() for p in parameters]),
                torch.cat([p.grad.flatten().clone() for p in parameters]),
            )
        )
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", caught)
        forget("train", round)
        run("train", round)
    return found


def set_adapter(policy: Policy, values: torch.Tensor) -> None:
    with torch.no_grad():
        for parameter in trainable(policy.unet).values():
            part, values = values[: parameter.numel()], values[parameter.numel() :]
            parameter.copy_(part.view_as(parameter))
            parameter.grad = None


@pytest.mark.few(1)
@pytest.mark.parametrize("algo", ["ddpo", "dpok"])
def test_the_gradient_is_that_of_a_naive_loop(project: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    """At both updates of the first round: at ratio 1, and a large step away, where ratios are clipped and KL counts."""
    change(algo=algo, train={**SECTIONS, "learning_rate": 3e-3})
    updates = caught_updates(monkeypatch, "r00")
    every = images(["r00"])
    naive, old = policy_of("init", train=True), policy_of("init", train=True)
    for parameters, gradient in updates:
        set_adapter(naive, parameters)
        expected = naive_gradient(naive, old, every, algo)
        assert float((gradient - expected).norm() / expected.norm()) < 1e-3
    table = read_stage("train", "r00").table("updates")
    assert len(updates) == 2 and table.clip_fraction[0] == 0 and 0 < table.clip_fraction[1] < 1


@pytest.mark.slow
def test_rewards_are_normalised_over_earlier_rounds_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(algo="ddpo", train={**SECTIONS, "advantage_clip": 0.75})
    both, alone = images(["r00", "r01"], 0.75), images(["r01"], 0.75)
    given = []
    post = Trainer.__post_init__

    def caught(self: Trainer) -> None:
        given.append(self.pairs.advantage)
        post(self)

    run("train", "r00")  # what the message of a round with another algo asks for
    for stage in ("sample", "score", "extract", "fuse", "adopt"):
        run(stage, "r01")
    both, alone = images(["r00", "r01"], 0.75), images(["r01"], 0.75)
    monkeypatch.setattr(Trainer, "__post_init__", caught)
    forget("train", "r01")
    run("train", "r01")
    found = given[0].T.flatten().numpy()
    np.testing.assert_allclose(found, [image[2] for image in both], rtol=1e-4)
    assert not np.allclose(found, [image[2] for image in alone], rtol=1e-2)
    assert np.abs(found).max() == pytest.approx(0.75)
    history = pd.read_csv("runs/r01/train/reward_history.csv")
    count = len(pd.read_csv("runs/r00/sample/images.csv"))
    assert history.groupby("round").size().to_dict() == {"r00": count, "r01": count}


@pytest.mark.slow
def test_dpo_skips_the_shared_steps_and_the_others_do_not(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared step's two gradients cancel in Eq. 6; in Eq. 8 they have different weights and stay."""
    firsts = []
    post = Trainer.__post_init__

    def caught(self: Trainer) -> None:
        firsts.append(self.pairs.first_index.tolist())
        post(self)

    monkeypatch.setattr(Trainer, "__post_init__", caught)
    for algo in ("dpo", "ddpo"):
        change(algo=algo)
        forget("train")
        run("train")
    adopted = read_stage("adopt", "r00").table("training").winner_stage == "fuse"
    assert firsts == [[int(one) for one in adopted], [0] * len(adopted)] and adopted.any()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ddpo", "dpok"])
def test_stopped_and_continued_gives_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    change(algo=algo)
    forget("train")
    run("train")
    whole = content(Path("runs/r00/train"))
    forget("train")
    update = Trainer.update

    def stopping(trainer: Trainer) -> None:
        if trainer.done == 1:
            raise KeyboardInterrupt
        update(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", stopping)
        run("train")
    run("train")
    assert content(Path("runs/r00/train")) == whole
    assert load_params("algo").algo == algo
