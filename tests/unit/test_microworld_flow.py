"""The built-in flow transformer: what it shares with the U-Net, what it draws, and training that can be interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfusion_core.microworld.pretrain.flow import rate
from dfusion_core.microworld.pretrain.resumable import Progress
from dfusion_core.models.builtin import FLOW_WEIGHTS, MICROWORLD_FLOW, WEIGHTS
from dfusion_core.models.policy import Policy, load_policy
from dfusion_core.params import Model, Reward, Sample
from dfusion_core.rewards.scoring import load_reward

PROMPTS = [
    "a green and plain square",
    "the star above the moon",
    "a diamond climbing a ladder",
    "a heart holding a balloon",
]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(Model(id=MICROWORLD_FLOW), Sample(num_steps=6, guidance_scale=3.0), None)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer"])
def test_it_shares_these_parts_with_the_u_net(part: str) -> None:
    files = [path for path in (WEIGHTS / part).iterdir() if path.is_file()]
    assert files and all((FLOW_WEIGHTS / part / path.name).read_bytes() == path.read_bytes() for path in files)


def test_pictures_fit_their_own_prompts_best(policy: Policy) -> None:
    made = policy.sample(range(8), policy.embed(PROMPTS * 2))
    reward = load_reward(Reward(model="micro-clip"), policy.device)
    pictures = made.picture.numpy()
    own = reward(pictures, PROMPTS * 2).reward.mean()
    others = reward(pictures, (PROMPTS[1:] + PROMPTS[:1]) * 2).reward.mean()
    assert made.trajectories.log_prob.isfinite().all() and own > others + 0.1


def test_its_items_are_tokens_of_its_one_encoder(policy: Policy) -> None:
    assert policy.encode.positions("a heart holding a balloon", "balloon") == (5,)
    assert policy.embed(PROMPTS).states.shape == (4, 16, 96)


def trained(file: Path, stop: int, steps: int) -> torch.nn.Linear:
    """A linear layer after ``stop`` of ``steps`` steps, from the checkpoint on if there is one."""
    torch.manual_seed(0)
    model, average = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    with Progress(file, model, average, optimizer) as progress:
        for step in progress.remaining(steps):
            if step == stop:
                break
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.say(step, steps, loss.item())
    return model


def test_training_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """At the last checkpoint: 250 steps with an interruption after 130 are 250 steps."""
    trained(tmp_path / "a.safetensors", 130, 250)
    again, straight = trained(tmp_path / "a.safetensors", 250, 250), trained(tmp_path / "b.safetensors", 250, 250)
    assert torch.equal(again.weight, straight.weight)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert rate(0, 1000) == pytest.approx(0.01) and rate(500, 1000) == 1.0 and rate(999, 1000) == pytest.approx(0.005)
