"""`pairs: same_noise` and `pairs: inversion`, from fuse to train, and every algorithm on every kind of pair."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from steps import T, array, change, content, forget, policy_of, run, scheduler

from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.store import read_stage

ALGORITHMS = ("dpo", "ddpo", "dpok")
PAIRS = ("dfusion", "naive", "same_noise", "inversion")


def twins() -> pd.DataFrame:
    return read_stage("fuse", "r00").table("twins")


def test_a_twin_has_its_images_x_T_and_other_steps(project: Path) -> None:
    """Step by step with diffusers' own sampler, from the stored seeds."""
    change(pairs="same_noise")
    run("fuse")
    policy, their, plan = policy_of("init"), scheduler(), twins()
    x, image = array("fuse", "x"), array("sample", "x")[plan.image]
    assert torch.equal(x[:, 0], image[:, 0]) and not torch.isclose(x[:, 1], image[:, 1]).any(dim=1).all()
    shape = policy.latent_shape
    _, noise = trajectory_noises(plan.twin_seed.tolist(), shape, T)
    for row in range(len(plan)):
        for i, t in enumerate(their.timesteps):
            text = policy.embed([plan.prompt[row]])
            eps = policy.predict_noise(x[row, i][None], i, text)
            expected = their.step(eps, t, x[row, i][None], eta=1.0, variance_noise=noise[row, i][None]).prev_sample
            scale = float(expected.square().mean().sqrt())
            np.testing.assert_allclose(x[row, i + 1], expected[0], rtol=0, atol=1e-4 * max(1, scale))


def test_twins_are_made_without_looking_at_scores(project: Path) -> None:
    """Two of four images of each prompt, the first two; as many new images as there would be targets."""
    change(pairs="same_noise")
    run("fuse")
    images = read_stage("sample", "r00").table("images")
    assert twins().image.tolist() == images.image[images["sample"] < 2].tolist()
    assert len(twins()) == len(read_stage("extract", "r00").table("pairs"))
    assert not set(twins().twin_seed) & set(images.seed)


def test_the_better_twin_wins(project: Path) -> None:
    change(pairs="same_noise")
    for stage in ("fuse", "adopt"):
        run(stage)
    table = read_stage("adopt", "r00").table("training")
    scores = read_stage("score", "r00").table("scores").set_index("image").reward
    for row, image in zip(table.itertuples(), twins().image, strict=True):
        sides = {(row.winner_stage, row.winner_row), (row.loser_stage, row.loser_row)}
        assert sides == {("fuse", row.pair), ("sample", image)}
        assert row.winner_reward > row.loser_reward
        image_reward = row.winner_reward if row.winner_stage == "sample" else row.loser_reward
        assert image_reward == pytest.approx(scores[image])
    figures = json.loads(Path("results/pairs/r00.json").read_text())
    assert figures["pairs"] == 4
    assert figures["reward_gap"] == pytest.approx((table.winner_reward - table.loser_reward).mean())
    assert figures["pair_distance"] > 0


def test_inversion_keeps_the_picture_and_guesses_the_trajectory(project: Path) -> None:
    """x_0 is the fused one; every earlier state follows from the one behind it by the textbook formula."""
    fused, picture = array("fuse", "x"), array("fuse", "picture")
    change(pairs="inversion")
    run("fuse")
    x, pairs, policy = array("fuse", "x"), read_stage("extract", "r00").table("pairs"), policy_of("init")
    assert torch.equal(x[:, -1], fused[:, -1]) and torch.equal(array("fuse", "picture"), picture)
    abar = scheduler().alphas_cumprod.double()
    times = [int(t) for t in scheduler().timesteps]
    for row in range(len(pairs)):
        text = policy.embed([pairs.prompt[row]])
        for i in reversed(range(T)):
            now, prev = abar[times[i]], abar[max(times[i] - 1000 // T, 0)]
            eps = policy.predict_noise(x[row, i + 1][None], i, text)[0]
            x_0 = (x[row, i + 1] - (1 - prev).sqrt() * eps) / prev.sqrt()
            np.testing.assert_allclose(x[row, i], now.sqrt() * x_0 + (1 - now).sqrt() * eps, rtol=1e-3, atol=1e-3)
    assert (x[:, 0] - fused[:, 0]).abs().amax() > 0.1  # it does not find the base's x_T again


@pytest.mark.slow
def test_every_algorithm_on_every_kind_of_pair(project: Path) -> None:
    """Twelve different adapters; each first update starts at ratio 1."""
    seen = set()
    for pairs in PAIRS:
        change(pairs=pairs)
        for stage in ("fuse", "adopt"):
            forget(stage)
            run(stage)
        for algo in ALGORITHMS:
            change(pairs=pairs, algo=algo)
            forget("train")
            run("train")
            seen.add(content(Path("runs/r00/train/adapter"))["pytorch_lora_weights.safetensors"])
            table = read_stage("train", "r00").table("updates")
            assert table.largest_log_ratio[0] == 0 and table.largest_log_ratio[1] > 0
            assert algo != "dpo" or table.loss[0] == pytest.approx(math.log(2), abs=1e-6)
            assert np.isfinite(table.to_numpy()).all()
    assert len(seen) == len(PAIRS) * len(ALGORITHMS)
