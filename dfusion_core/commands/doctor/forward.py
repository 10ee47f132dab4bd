"""A forward of the U-Net and a picture: does the model compute here, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from .facts import Facts
from .findings import Finding, failed, ok

LONGEST = 0.6  # seconds of one guided forward of one image; larger latents are not tried where it takes longer
SMALLEST = 8  # side of a latent: three halvings are left


def forward(facts: Facts) -> Finding:
    """Time a guided forward; from its keys and values the topology is read."""
    full = facts.policy.latent_shape[1]
    sides = sorted({min(full, max(SMALLEST, full // part)) for part in (4, 2, 1)})
    side, seconds = sides[0], _seconds(partial(record, facts, sides[0]))
    for larger in sides[1:]:
        if seconds * (larger / side) ** 2 > LONGEST:
            break
        side, seconds = larger, _seconds(partial(record, facts, larger))
    facts.side = side
    return ok(f"{seconds:.2g} s for an image of {side}x{side} latents")


def record(facts: Facts, side: int) -> None:
    """One guided forward of one image; keeps every self-attention's keys and values."""
    import torch

    from ...attention.control import recording_kv
    from ...attention.layers import layer_paths, present_layers

    policy = facts.policy
    layers = present_layers(policy.unet, list(layer_paths(policy.unet)))
    with torch.no_grad(), recording_kv(policy.unet, layers) as tap:
        policy.predict_noise(facts.latent(side), 0, facts.embedded(1)).cpu()
    facts.kv = tap.kv


def picture(facts: Facts) -> Finding:
    """Predictions at the first and the last timestep are finite, and the autoencoder makes a picture."""
    import torch

    from ...diffusion.finite import check_finite

    policy, x = facts.policy, facts.latent(facts.side)
    for i in (0, policy.schedule.num_steps - 1):
        with torch.no_grad():
            eps = policy.predict_noise(x, i, facts.embedded(1))
        check_finite(eps, "the predicted noise", policy.schedule.num_steps - i)
    decoded = policy.decode(x)
    if decoded.min() == decoded.max():
        return failed("the autoencoder makes a picture of one colour", "If model.dtype is fp16, try fp32.")
    return ok(f"predictions at the first and the last timestep are finite; a picture of {len(decoded.unique())} levels")


def _seconds(call: Callable[[], None]) -> float:
    """Of the second of two calls: the first one warms up."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
