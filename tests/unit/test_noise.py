"""Noise belongs to an image: the same whoever makes it, in whatever company, and another for every other."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from dfusion_core.diffusion.noise import image_seed, trajectory_noise, trajectory_noises

SHAPE = (4, 8, 8)
SEED_0 = 2_554_445_001_369_418_227


def test_seed_is_a_fixed_function() -> None:
    """Stored rounds can be repeated only as long as this number does not change."""
    assert image_seed(0, "r00", 0, 0) == SEED_0
    assert image_seed(np.int64(0), "r00", np.int64(0), np.int64(0)) == SEED_0


def test_no_seed_twice_in_1e5_images() -> None:
    """Run seeds 42, 43 side by side too: `seed + index` would give almost every number twice."""
    images = itertools.product((42, 43), ("r00", "r01"), range(50), range(500))
    seeds = {image_seed(*image) for image in images}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**63 for seed in seeds)  # tables keep them as int64


def test_arguments_are_not_run_together() -> None:
    assert len({image_seed(1, "r00", 11, 1), image_seed(11, "r00", 1, 1), image_seed(1, "r00", 1, 11)}) == 3


def test_noise_is_repeated_exactly() -> None:
    torch.manual_seed(0)
    x_T, z = trajectory_noise(5, SHAPE, 20)
    torch.manual_seed(1)
    torch.randn(3)
    again = trajectory_noise(5, SHAPE, 20)
    assert torch.equal(x_T, again[0]) and torch.equal(z, again[1])
    assert x_T.shape == SHAPE and z.shape == (20, *SHAPE)
    assert x_T.dtype == z.dtype == torch.float32 and x_T.device.type == "cpu"


def test_a_step_does_not_depend_on_how_many_follow() -> None:
    assert torch.equal(trajectory_noise(5, SHAPE, 3)[1], trajectory_noise(5, SHAPE, 20)[1][:3])


def test_all_bits_of_the_seed_count() -> None:
    """torch's CPU generator gives one noise for s and s + 2**32."""
    first = trajectory_noise(5, SHAPE, 1)[0]
    assert not any(torch.equal(first, trajectory_noise(5 + 2**bit, SHAPE, 1)[0]) for bit in (3, 31, 32, 48, 62))


def test_standard_normal_and_uncorrelated() -> None:
    x_T, z = trajectory_noises([image_seed(0, "r00", p, 0) for p in range(8)], (4, 16, 16), 4)
    assert x_T.shape == (8, 4, 16, 16) and z.shape == (8, 4, 4, 16, 16)
    rows = torch.cat([x_T[:, None], z], 1).view(40, -1)  # 40 noises of 1024 numbers
    assert abs(float(rows.mean())) < 5 / (40 * 1024) ** 0.5 and abs(float(rows.std()) - 1) < 0.02
    correlation = torch.corrcoef(rows) - torch.eye(40)
    assert float(correlation.abs().max()) < 0.16  # 5 standard errors
    assert torch.equal(x_T[3], trajectory_noise(image_seed(0, "r00", 3, 0), (4, 16, 16), 4)[0])
