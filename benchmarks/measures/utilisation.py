"""P10 and P15: what share of a device's arithmetic is used, and of its time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import chdir
from statistics import median
from typing import Any

import torch
from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]

from dfusion_core.store import open_stage
from dfusion_core.training.trajectories import Pairs

from ..bench import Bench
from ..observing import Seen, observe, seconds, synchronize
from ..result import Check, Result, at_least, at_most
from ..rivals.pipeline import noises
from .sampling import SEED
from .training import apart, from_start, ours

TERA = 1e12
BARS = {"sampling": 250.0, "training": 220.0}  # TFLOP/s of a GPU
NEAR = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.5}  # relative, of a gradient to that in fp32
IDLE = 0.05


def utilisation(bench: Bench) -> list[Result]:
    """P10: counted FLOPs over seconds, in the dtype of the run."""
    seen = observe(work(bench), [bench.plain.unet, bench.trained.unet], bench.sizes.repeats, bench.device)
    check = Check("first gradient against fp32, relative", off_fp32(bench), at_most(NEAR[bench.model.dtype]))
    return [
        Result(
            "P10",
            f"TFLOP/s in {name}, {bench.model.dtype}",
            rates(one),
            bar,
            (check,),
            f"{one.flops / TERA:.3g} TFLOP; {rows(bench)[name]} rows a forward",
            {name: tuple(one.seconds)},
        )
        for name, one in seen.items()
        for bar in [at_least(BARS[name]) if bench.device.type == "cuda" else None]
    ]


def work(bench: Bench) -> dict[str, Callable[[], Any]]:
    """A batch of sampling, and a round of training on adopted targets."""
    policy = bench.plain
    x_T, noise = noises(SEED, bench.sizes.images, policy.latent_shape, bench.sizes.steps)
    bench.reset()
    return {
        "sampling": lambda: bench.sample(policy, x_T, noise),
        "training": from_start(bench, lambda: ours(bench, bench.targets, "dpo")),
    }


def rows(bench: Bench) -> dict[str, int]:
    """U-Net rows of one forward: two halves of an image, of a winner and of a loser."""
    return {"sampling": 2 * bench.sizes.images, "training": 4 * bench.sizes.micro_batch}


def rates(seen: Seen) -> tuple[float, ...]:
    """TFLOP/s of each repeat."""
    return tuple(seen.flops / one / TERA for one in seen.seconds)


def off_fp32(bench: Bench) -> float:
    """|g - g_fp32| / |g_fp32| of the first optimizer step, on the same trajectories."""
    pairs = bench.targets
    mine, exact = (first_gradient(one, pairs) for one in (bench, bench.exact))
    return apart(mine, exact)


def first_gradient(bench: Bench, pairs: Pairs) -> list[torch.Tensor]:
    """Of an inner epoch from the beginning."""
    bench.reset()
    return from_start(bench, lambda: ours(bench, pairs, "dpo", inner_epochs=1))()[:1]


def idle(bench: Bench) -> list[Result]:
    """P15: one minus the time in which the GPU does something over wall time, once the stage's loop runs."""
    sides = {"sampling, decoding and writing": lambda: sampled_and_written(bench), "training": work(bench)["training"]}
    if bench.device.type != "cuda" or not bench.sizes.repeats:
        return [
            Result(
                "P15",
                f"share of time in which the GPU idles: {name}",
                note="a CPU computes what it has queued itself; there is nothing to idle",
            )
            for name in sides
        ]
    return [idle_while(name, side, bench) for name, side in sides.items()]


def idle_while(name: str, side: Callable[[], Any], bench: Bench) -> Result:
    """Kernels are timed under the profiler, which slows the launching down; the whole is timed without it."""
    side()
    whole = median(seconds(side, bench.device) for _ in range(bench.sizes.repeats))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        side()
        synchronize(bench.device)
    busy = covered(on_device(profile.events()))
    return Result(
        "P15",
        f"share of time in which the GPU idles: {name}",
        (1 - busy / whole,),
        at_most(IDLE),
        note=f"{busy:.2f} of {whole:.2f} s are kernels and copies",
    )


def on_device(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of what the GPU did; annotations only give names to stretches of time."""
    return [
        (event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans lasts: kernels on two streams at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def sampled_and_written(bench: Bench) -> None:
    """What the loop of the stage sample does with two batches, into a store that is thrown away."""
    n, policy = bench.sizes.images, bench.plain
    x_T, noise = noises(SEED, n, policy.latent_shape, bench.sizes.steps)
    with tempfile.TemporaryDirectory() as folder, chdir(folder), open_stage("sample", round="r00") as run:
        for part in run.expect(2 * n, n):
            found = bench.sample(policy, x_T, noise)
            run.write(
                part,
                x=found.x,
                log_prob=found.log_prob,
                cross_map=found.cross_map,
                picture=policy.decode(found.x[:, -1]),
            )
