"""Figures of pairs and prompts, on numbers small enough to work by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from dfusion_core.adoption.figures import distance, enlarge, fresh_gain, never_masked, similarity
from dfusion_core.evaluation.diversity import diversity
from dfusion_core.training.optimizer import epsilon_share


def unit(*degrees: float) -> np.ndarray:
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], np.float32)


def test_diversity_is_the_mean_cosine_distance_to_the_others_of_the_prompt() -> None:
    found = diversity(unit(0, 90, 60, 0, 45), ["a", "b", "a", "a", "c"])
    assert found[[0, 2, 3]] == pytest.approx([(0.5 + 0) / 2, 0.5, (0 + 0.5) / 2], abs=1e-6)
    assert np.isnan(found[[1, 4]]).all()  # alone


def test_a_collapsed_policy_has_no_diversity() -> None:
    assert diversity(unit(30, 30, 30), ["a"] * 3) == pytest.approx([0, 0, 0], abs=1e-6)


def test_similarity_is_the_mean_cosine() -> None:
    assert similarity(unit(0, 0), unit(60, 90)) == pytest.approx(0.25, abs=1e-6)


def test_fresh_gain_is_the_mean_of_the_prompts_images_over_the_bases() -> None:
    images = pd.DataFrame({"image": range(6), "prompt_id": [0, 0, 0, 0, 1, 1]})
    scores = pd.DataFrame({"image": range(6), "reward": [0.1, 0.2, 0.5, 0.8, 0.3, 0.7]})
    pairs = pd.DataFrame({"prompt_id": [0, 0, 1], "base_reward": [0.1, 0.2, 0.3]})
    assert fresh_gain(pairs, images, scores) == pytest.approx(((0.4 - 0.1) + (0.4 - 0.2) + (0.5 - 0.3)) / 3)


def test_distance_where_asked() -> None:
    black, mixed = np.zeros((1, 1, 2, 3), np.uint8), np.array([[[[255, 255, 255], [0, 51, 0]]]], np.uint8)
    assert distance(black, mixed) == pytest.approx((1 + 51 / 3 / 255) / 2)
    assert distance(black, mixed, np.array([[[False, True]]])) == pytest.approx(51 / 3 / 255)


def test_never_masked_is_what_no_step_touches() -> None:
    mask = np.zeros((1, 2, 2, 2), bool)
    mask[0, 0, 0, 1] = mask[0, 1, 1, 0] = True
    expected = enlarge(np.array([[[True, False], [False, True]]]), (4, 4))
    assert (never_masked(mask, (4, 4)) == expected).all()


def test_epsilon_share_by_hand() -> None:
    """After one step v_hat is the squared gradient: the share is eps / (|g| + eps), averaged over the weights."""
    weights = {
        "layer.lora_A.weight": torch.nn.Parameter(torch.zeros(2)),
        "layer.lora_B.weight": torch.nn.Parameter(torch.zeros(2)),
    }
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-3, eps=1e-3)
    assert epsilon_share(optimizer, weights) == {"A": 0.0, "B": 0.0}
    for weight, gradient in zip(weights.values(), ([1e-3, 3e-3], [0.0, 1e-3]), strict=True):
        weight.grad = torch.tensor(gradient)
    optimizer.step()
    shares = epsilon_share(optimizer, weights)
    assert shares["A"] == pytest.approx((0.5 + 0.25) / 2, rel=1e-4)
    assert shares["B"] == pytest.approx((1.0 + 0.5) / 2, rel=1e-4)
