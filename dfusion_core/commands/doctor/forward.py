"""A forward pass of the network and a picture: whether the model works, and how fast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from .facts import Facts
from .findings import Finding, failed, ok

LONGEST = 0.6  # seconds of one guided forward pass of one image; if it takes longer, smaller latents are used
SMALLEST = 8  # smallest side of a latent: it can be halved three times


def forward(facts: Facts) -> Finding:
    """Time a guided forward pass; its keys and values are used by `topology`."""
    full = facts.policy.latent_shape[1:]
    sizes = sorted({_reduced(full, part) for part in (4, 2, 1)}, key=math.prod)
    size, seconds = sizes[0], _seconds(partial(record, facts, sizes[0]))
    for larger in sizes[1:]:
        if seconds * math.prod(larger) / math.prod(size) > LONGEST:
            break
        size, seconds = larger, _seconds(partial(record, facts, larger))
    facts.size = size
    return ok(f"{seconds:.2g} s for an image of {size[0]}x{size[1]} latents")


def _reduced(full: tuple[int, int], part: int) -> tuple[int, int]:
    """A reduced size of latents, with sides of at least `SMALLEST`."""
    height, width = (min(side, max(SMALLEST, side // part)) for side in full)
    return height, width


def record(facts: Facts, size: tuple[int, int]) -> None:
    """One guided forward pass of one image; stores every self-attention's keys and values."""
    import torch

    from ...attention.control import recording_kv
    from ...attention.layers import layer_paths, present_layers

    policy = facts.policy
    layers = present_layers(policy.unet, list(layer_paths(policy.unet)))
    with torch.no_grad(), recording_kv(policy.unet, layers) as tap:
        policy.predict_noise(facts.latent(size), 0, facts.embedded(1)).cpu()
    facts.kv = tap.kv


def picture(facts: Facts) -> Finding:
    """Predictions at the first and the last timestep are finite, and the autoencoder decodes a picture."""
    import torch

    from ...diffusion.finite import check_finite

    policy, x = facts.policy, facts.latent(facts.size)
    for i in (0, policy.schedule.num_steps - 1):
        with torch.no_grad():
            eps = policy.predict_noise(x, i, facts.embedded(1))
        check_finite(eps, "the predicted noise", policy.schedule.num_steps - i)
    decoded = policy.decode(x)
    if decoded.min() == decoded.max():
        return failed("the autoencoder makes a picture of one colour", "If model.dtype is fp16, try fp32.")
    return ok(f"predictions at the first and the last timestep are finite; a picture of {len(decoded.unique())} levels")


def _seconds(call: Callable[[], None]) -> float:
    """Seconds of the second of two calls; the first one warms up."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
