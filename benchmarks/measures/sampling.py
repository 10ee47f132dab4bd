"""P5 and P6: sampling with maps captured on the way, against sampling without, and against diffusers' pipeline."""

from __future__ import annotations

import torch

from ..bench import ITEMS, Bench
from ..observing import observe, ratios, times
from ..result import Check, Result, at_most
from ..rivals import pipeline
from ..rivals.fusion import fuse_in_three
from .fusing import EXACT, off

SEED = 7
MAP_EXACT = 1e-5  # of attention probabilities


def sampling(bench: Bench) -> list[Result]:
    """P5 and P6."""
    policy, n = bench.plain, bench.sizes.images
    x_T, noise = pipeline.noises(SEED, n, policy.latent_shape, bench.sizes.steps)
    text, empty = bench.texts(policy, n)
    theirs = pipeline.build(policy, bench.model.scheduler)
    seen = observe({
        "maps captured": lambda: bench.sample(policy, x_T, noise),
        "no maps": lambda: bench.sample(policy, x_T, noise, capture=False),
        "diffusers' pipeline": lambda: pipeline.sample(theirs, policy, x_T, SEED, text, empty),
    }, [policy.unet], bench.sizes.repeats, bench.device)
    ours, plain, other = seen.values()
    captured = (Check("latents with and without maps", off(ours.output.x, plain.output.x), at_most(0)),
                Check("maps against an explicit softmax", maps_off(bench), at_most(MAP_EXACT)))
    return [
        Result("P5", "sampling with maps captured, FLOPs over those without", (ours.flops / plain.flops,),
               at_most(1.001), captured),
        Result("P5", "sampling with maps captured, time over that without", ratios(ours, plain),
               at_most(1.02 if bench.device.type == "cuda" else 1.10), captured, f"{n} images", times(seen)),
        Result("P6", "sampling with maps captured, times as fast as diffusers' pipeline", ratios(other, ours),
               bench.at_least(0.95, 1.0), (Check("final latents", off(ours.output.x[:, -1], other.output),
                                                 at_most(EXACT)),), f"{n} images", times(seen))]


def maps_off(bench: Bench) -> float:
    """How far the captured maps of the references are from an explicit softmax at the same x_t, at most."""
    scene = bench.scene
    text, empty = bench.texts(bench.plain, scene.count)
    theirs = fuse_in_three(bench.plain, scene.x_T, scene.noise, text, empty, ITEMS, bench.layers,
                           bench.sizes.first_step, explicit=False)
    found = torch.stack([theirs.maps[..., list(tokens)].mean(-1) for tokens in ITEMS], dim=2)
    captured = scene.sampled.cross_map
    assert captured is not None
    return float((found - captured[:scene.count]).abs().max())
