"""The random numbers of one image, as a function of which image it is and of nothing else.

Not of the batch, the device, the number of workers, or a global seed; and never `seed + index`, with which
two runs of neighbouring seeds would share almost all of their noise.
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
    """Seed of the step noises of an image's twin: the same x_T, other noises on the way (D3PO's pairs)."""
    return _hashed(str(image_seed), b"dfusion-twin")


def _hashed(key: str, person: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=person).digest(), "big") >> 1


def trajectory_noise(image_seed: int, shape: Sequence[int], num_steps: int) -> tuple[Tensor, Tensor]:
    """x_T (c, h, w) and the step noises z (T, c, h, w) of one image; float32 on the CPU, standard normal.

    shape: (c, h, w). z[i] goes into the step x_{T-i} -> x_{T-i-1}, and does not depend on how many follow.
    """
    import numpy as np
    import torch

    # Not torch.Generator: on the CPU it reads only 32 bits of its seed, and 1e5 images would share noises.
    stream = np.random.Generator(np.random.Philox(key=image_seed))
    draws = torch.from_numpy(stream.standard_normal((num_steps + 1, *shape), dtype=np.float32))
    return draws[0], draws[1:]


def trajectory_noises(image_seeds: Sequence[int], shape: Sequence[int], num_steps: int) -> tuple[Tensor, Tensor]:
    """`trajectory_noise` of n images: x_T (n, c, h, w) and z (n, T, c, h, w)."""
    import torch

    first, rest = zip(*(trajectory_noise(int(seed), shape, num_steps) for seed in image_seeds), strict=True)
    return torch.stack(first), torch.stack(rest)
