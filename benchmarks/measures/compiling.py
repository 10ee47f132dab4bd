"""P13: how many graphs torch.compile makes of a stage's forwards."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch

from dfusion_core.models.compiling import compile_unet
from dfusion_core.models.policy import Policy
from dfusion_core.training.trainer import Trainer

from ..bench import Bench
from ..result import Check, Result, at_most
from .fusing import off, stored

BATCHES = 2  # the second finds its graph


def compiling(bench: Bench) -> list[Result]:
    """P13, by torch's own count. A recompilation is one graph more; a break is an error.

    What comes behind the graph does not matter to the count, so that it is run as it is, bit by bit.
    """
    scene = bench.scene
    kept = replace(scene.references, kv=stored(bench, scene))
    stages: dict[str, Callable[[Policy], torch.Tensor]] = {
        "sampling with maps": lambda policy: bench.sample(policy, scene.x_T, scene.noise).x,
        "fusing in lock-step": lambda policy: bench.fuse(policy, scene),
        "fusing, K and V given": lambda policy: bench.fuse(policy, scene, kept),
    }
    return [*(_counted(name, stage, bench.plain) for name, stage in stages.items()), _training(bench)]


def _counted(name: str, stage: Callable[[Policy], torch.Tensor], policy: Policy) -> Result:
    compiled = replace(policy, unet=deepcopy(policy.unet))
    with _Graphs(compiled) as graphs:
        found = [stage(compiled) for _ in range(BATCHES)]
    same = Check("latents, compiled or not", off(found[-1], stage(policy)), at_most(0))
    return Result(
        "P13", f"graphs of {name}", (graphs.count,), at_most(1), (same,), f"{BATCHES} batches of all steps, no break"
    )


def _training(bench: Bench) -> Result:
    bench.reset()
    compiled = replace(bench.trained, unet=deepcopy(bench.trained.unet))
    with _Graphs(compiled) as graphs:
        trainer = Trainer(compiled, bench.targets, bench.train_settings(), seed=0, round="r00")
        for _ in trainer.remaining():
            trainer.update()
    return Result(
        "P13",
        "graphs of training",
        (graphs.count,),
        at_most(2),
        note="one with gradients, one for the first check without",
    )


class _Graphs:
    """Compiles a policy's own U-Net, and counts torch's graphs while it is entered."""

    def __init__(self, policy: Policy) -> None:
        self.unet, self.count = policy.unet, 0

    def __enter__(self) -> _Graphs:
        import torch._dynamo.utils

        torch._dynamo.reset()
        self._before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        compile_unet(self.unet, backend="eager")
        return self

    def __exit__(self, *_: object) -> None:
        self.count = torch._dynamo.utils.counters["stats"]["unique_graphs"] - self._before
        torch._dynamo.reset()
