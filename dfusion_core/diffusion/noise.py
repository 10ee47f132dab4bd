"""The random numbers of an image, as a function of its seed.

They do not depend on the batch, the device, the number of processes, or a global seed. Seeds are hashes: with
`seed + index`, two runs of neighbouring seeds would share almost all of their noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # seeds are planned before torch is imported
    from torch import Tensor


def image_seed(seed: int, round: int | str, prompt_index: int, sample_index: int) -> int:
    """Seed of one image: blake2b of (run seed, round, prompt index, sample index); 63 bits fit an int64."""
    return _hashed(f"{seed},{prompt_index},{sample_index},{round}", b"dfusion-image")


def twin_seed(image_seed: int) -> int:
    """Seed of the step noises of an image's twin: the same x_T, other step noises (D3PO's pairs)."""
    return _hashed(str(image_seed), b"dfusion-twin")


def _hashed(key: str, person: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=person).digest(), "big") >> 1


def trajectory_noise(image_seed: int, shape: Sequence[int], num_steps: int) -> tuple[Tensor, Tensor]:
    """x_T (c, h, w) and the step noises z (T, c, h, w) of one image; float32 on the CPU, standard normal.

    shape: (c, h, w). z[i] is the noise of the step x_{T-i} -> x_{T-i-1}, independent of num_steps.
    """
    import numpy as np
    import torch

    # Not torch.Generator: on the CPU it uses only 32 bits of its seed, so that some of 1e5 images would share noise.
    stream = np.random.Generator(np.random.Philox(key=image_seed))
    draws = torch.from_numpy(stream.standard_normal((num_steps + 1, *shape), dtype=np.float32))
    return draws[0], draws[1:]


def trajectory_noises(image_seeds: Sequence[int], shape: Sequence[int], num_steps: int) -> tuple[Tensor, Tensor]:
    """`trajectory_noise` of n images: x_T (n, c, h, w) and z (n, T, c, h, w)."""
    import torch

    first, rest = zip(*(trajectory_noise(int(seed), shape, num_steps) for seed in image_seeds), strict=True)
    return torch.stack(first), torch.stack(rest)
