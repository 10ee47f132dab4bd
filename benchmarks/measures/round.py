"""P16: everything a round does with its networks but scoring, which both sides do alike."""

from __future__ import annotations

from typing import Any

from ..bench import Bench
from ..observing import observe, ratios, times
from ..result import Check, Result, at_most
from ..rivals import pipeline
from .fusing import EXACT, SAME, against, authors, off
from .sampling import SEED
from .training import ROUNDING, apart, with_dpo


def whole_round(bench: Bench) -> list[Result]:
    """P16. Sampling, fusion and training each begin from the same given arrays on both sides, so that all three can be
    compared; their times add up."""
    n = bench.sizes.pairs
    bench = bench.with_sizes(targets=n, images=2 * n)
    bench.reset()
    policy, scene = bench.plain, bench.scene
    x_T, noise = pipeline.noises(SEED, 2 * n, policy.latent_shape, bench.sizes.steps)
    text = bench.text(policy, 2 * n)
    diffusers = pipeline.build(policy, bench.model.scheduler)
    train_ours, train_theirs = with_dpo(bench).values()

    def mine() -> tuple[Any, ...]:
        sampled = bench.sample(policy, x_T, noise)
        policy.decode(sampled.x[:, -1])
        fused = bench.fuse(policy, scene)
        policy.decode(fused[:, -1])
        return sampled.x[:, -1], fused, train_ours()

    def theirs() -> tuple[Any, ...]:
        sampled = pipeline.sample(diffusers, policy, x_T, SEED, text)
        policy.decode(sampled)
        fused = authors(bench, scene, explicit=True)
        for image in (fused.reference, fused.base, fused.target):
            policy.decode(image[:, -1])
        return sampled, fused, train_theirs()

    seen = observe({"ours": mine, "official-like": theirs}, [policy.unet], bench.sizes.repeats, bench.device)
    a, b = seen["ours"], seen["official-like"]
    checks = (
        Check("sampled latents", off(a.output[0], b.output[0]), at_most(EXACT)),
        *against(scene, b.output[1], a.output[1], SAME),
        Check("gradients (fp32), relative", apart(a.output[2], b.output[2]), at_most(ROUNDING)),
    )
    note = f"{2 * n} images, {n} pairs; FLOPs {b.flops / a.flops:.2f} to 1"
    return [
        Result(
            "P16",
            "a round, times as fast as three forwards, explicit attention and a D3PO loop",
            ratios(b, a),
            bench.at_least(1.5, 3.0),
            checks,
            note,
            times(seen),
        )
    ]
