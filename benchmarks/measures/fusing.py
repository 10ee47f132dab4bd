"""P1 to P4: making fused targets, against the authors' scheme with explicit attention and with the fused kernel."""

from __future__ import annotations

from dataclasses import replace

import torch

from dfusion_core.diffusion.window import step_indices
from dfusion_core.extraction.keys_values import replay
from dfusion_core.params.sections import Fuse

from ..bench import ITEMS, Bench, Scene
from ..observing import observe, ratios, times
from ..result import Check, Result, at_least, at_most
from ..rivals.fusion import Fused, fuse_in_three

EXACT, VISIBLE = 1e-4, 1e-2  # of latents
SAME = 1e-3  # where batches have another size or a softmax is explicit: that rounding grows from step to step


def fusing(bench: Bench) -> list[Result]:
    """P1 to P4."""
    scene, policy, n = bench.scene, bench.plain, bench.sizes.targets
    kept = replace(scene.references, kv=stored(bench, scene))
    seen = observe(
        {
            "lock-step": lambda: bench.fuse(policy, scene),
            "three forwards, explicit": lambda: authors(bench, scene, explicit=True),
            "three forwards, SDPA": lambda: authors(bench, scene, explicit=False),
            "K and V given": lambda: bench.fuse(policy, scene, kept),
        },
        [policy.unet],
        bench.sizes.repeats,
        bench.device,
    )
    ours, explicit, sdpa, given = seen.values()
    same_kernel = against(scene, sdpa.output, ours.output)
    checks = (*same_kernel, Check("fused latents, explicit", off(explicit.output.target, ours.output), at_most(SAME)))
    same = Check("latents, K and V given or not", off(given.output, ours.output), at_most(EXACT))
    rows = f"{ours.rows / n:g} U-Net rows a target instead of {explicit.rows / n:g}"
    return [
        Result(
            "P1",
            "fuse, FLOPs over those of the authors' scheme",
            (ours.flops / explicit.flops,),
            at_most(0.61),
            checks,
            rows,
        ),
        Result(
            "P2",
            "fuse, times as fast as three forwards with explicit attention",
            ratios(explicit, ours),
            bench.at_least(3.0, 2.8),
            checks,
            rows,
            times(seen),
        ),
        Result(
            "P3",
            "fuse, times as fast as three forwards with SDPA",
            ratios(sdpa, ours),
            bench.at_least(1.5, 1.6),
            same_kernel,
            rows,
            times(seen),
        ),
        Result(
            "P4",
            "fuse with K and V in memory, times as fast as three forwards with SDPA",
            ratios(sdpa, given),
            bench.at_least(2.7, 3.0),
            (*same_kernel, same),
            f"{given.rows / n:g} rows a target",
            times(seen),
        ),
    ]


def authors(bench: Bench, scene: Scene, explicit: bool) -> Fused:
    """The authors' scheme on the scene's own noises."""
    text = bench.text(bench.plain, scene.count)
    return fuse_in_three(
        bench.plain, scene.x_T, scene.noise, text, ITEMS, bench.layers, bench.sizes.first_t, explicit=explicit
    )


def stored(bench: Bench, scene: Scene) -> dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Keys and values of all references on the device: step index -> layer -> (half * reference, ...)."""
    fuse = Fuse(layers=bench.layers, first_t=bench.sizes.first_t)
    steps = step_indices(fuse, bench.sizes.steps)
    text = bench.text(bench.plain, scene.count)
    found = replay(bench.plain, scene.references.x, text, fuse.layers, steps)  # (1, step, half * reference, ...)
    layers = {name.rsplit("/", 1)[0] for name in found}
    return {
        i: {
            name: (found[f"{name}/K"][0, k].to(bench.device), found[f"{name}/V"][0, k].to(bench.device))
            for name in layers
        }
        for k, i in enumerate(steps)
    }


def against(scene: Scene, theirs: Fused, ours: torch.Tensor, bar: float = EXACT) -> tuple[Check, ...]:
    """The authors' scheme makes the same three images from the same masks, and fusion does something."""
    n = scene.count
    sampled = torch.cat([theirs.reference, theirs.base])
    return (
        Check("fused latents", off(theirs.target, ours), at_most(bar)),
        Check("sampled latents", off(sampled, scene.sampled.x), at_most(SAME)),
        Check("mask elements that differ", float((theirs.mask != scene.mask).sum()), at_most(0)),
        Check("what fusion changes in the latents", off(ours, scene.sampled.x[n:]), at_least(VISIBLE)),
    )


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two arrays of latents, in units of their size where that is above 1.

    An untrained U-Net does not bring latents back to unit size, and rounding grows with them.
    """
    return float((a - b).abs().max()) / max(1.0, float(b.square().mean().sqrt()))
