"""P5 and P6: sampling with maps captured on the way, against sampling without, and against diffusers' pipeline."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from dfusion_core.models.compiling import compile_unet

from ..bench import ITEMS, Bench
from ..observing import Seen, Side, observe, ratios, times
from ..result import Check, Result, at_least, at_most
from ..rivals import pipeline
from ..rivals.fusion import fuse_in_three
from .fusing import EXACT, SAME, off

SEED = 7
MAP_EXACT = 1e-5  # of attention probabilities
COMPILED = "maps captured, compiled"


def sampling(bench: Bench) -> list[Result]:
    """P5 and P6."""
    policy, n = bench.plain, bench.sizes.images
    x_T, noise = pipeline.noises(SEED, n, policy.latent_shape, bench.sizes.steps)
    text = bench.text(policy, n)
    theirs = pipeline.build(policy, bench.model.scheduler)
    sides = {
        "maps captured": lambda: bench.sample(policy, x_T, noise),
        "no maps": lambda: bench.sample(policy, x_T, noise, capture=False),
        "diffusers' pipeline": lambda: pipeline.sample(theirs, policy, x_T, SEED, text),
    }
    if bench.device.type == "cuda":
        sides[COMPILED] = compiled(bench, x_T, noise)
    seen = observe(sides, [policy.unet], bench.sizes.repeats, bench.device, COMPILED)
    ours, plain, other = (seen[name] for name in list(sides)[:3])
    captured = (
        Check("latents with and without maps", off(ours.output.x, plain.output.x), at_most(0)),
        Check("maps against an explicit softmax", maps_off(bench), at_most(MAP_EXACT)),
    )
    return [
        Result(
            "P5",
            "sampling with maps captured, FLOPs over those without",
            (ours.flops / plain.flops,),
            at_most(1.001),
            captured,
        ),
        Result(
            "P5",
            "sampling with maps captured, time over that without",
            ratios(ours, plain),
            at_most(1.02 if bench.device.type == "cuda" else 1.10),
            captured,
            f"{n} images",
            times(seen),
        ),
        Result(
            "P6",
            "sampling with maps captured, times as fast as diffusers' pipeline",
            ratios(other, ours),
            bench.at_least(0.95, 1.0),
            (Check("final latents", off(ours.output.x[:, -1], other.output), at_most(EXACT)),),
            f"{n} images",
            times(seen),
        ),
        with_compiled(seen, other),
    ]


def compiled(bench: Bench, x_T: torch.Tensor, noise: torch.Tensor) -> Side:
    """Sampling with a compiled U-Net, which is compiled here and now."""
    policy = replace(bench.plain, unet=deepcopy(bench.plain.unet).to(memory_format=torch.channels_last))
    compile_unet(policy.unet)
    bench.sample(policy, x_T, noise)
    return lambda: bench.sample(policy, x_T, noise)


def with_compiled(seen: dict[str, Seen], other: Seen) -> Result:
    """P6 where the U-Net was compiled too."""
    what = "sampling, compiled, times as fast as diffusers' pipeline, which is not"
    if COMPILED not in seen:
        return Result("P6", what, note="measured on a GPU only")
    check = Check("final latents", off(seen[COMPILED].output.x[:, -1], other.output), at_most(SAME))
    return Result("P6", what, ratios(other, seen[COMPILED]), at_least(1.15), (check,), seconds=times(seen))


def maps_off(bench: Bench) -> float:
    """How far the captured maps of the references are from an explicit softmax at the same x_t, at most."""
    scene = bench.scene
    text = bench.text(bench.plain, scene.count)
    theirs = fuse_in_three(
        bench.plain, scene.x_T, scene.noise, text, ITEMS, bench.layers, bench.sizes.first_t, explicit=False
    )
    found = torch.stack([theirs.maps[..., list(tokens)].mean(-1) for tokens in ITEMS], dim=2)
    captured = scene.sampled.cross_map
    assert captured is not None
    return float((found - captured[: scene.count]).abs().max())
