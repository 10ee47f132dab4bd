"""P7 to P9: a round of training against a D3PO loop with a reference model and a ddpo-pytorch loop, at batch 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from dfusion_core.training.trainer import Trainer
from dfusion_core.training.trajectories import Pairs

from ..bench import Bench
from ..observing import Seen, Side, observe, ratios, times
from ..result import Check, Result, at_most
from ..rivals.training import d3po, ddpo

EXACT = 1e-5  # of a gradient, relative, with the U-Net in fp64: there nothing but the algorithm can differ
ROUNDING = 1e-3  # the same in fp32, where either side is some 1e-5 to 1e-4 from fp64
LITTLE = {"steps": 4, "pairs": 1, "micro_batch": 3, "repeats": 0}  # what is run in fp64


def training_pairs(bench: Bench) -> list[Result]:
    """P7 and P9: Eq. (6) on adopted targets, two inner epochs."""
    pairs, seen, checks = bench.targets, *compared(bench, with_dpo)
    mine, theirs = seen.values()
    shared = (
        f"{int(pairs.first_index.sum())} of {len(pairs) * pairs.num_steps} (pair, step) skipped, "
        f"{mine.trained_rows} rows with gradients instead of {theirs.trained_rows}"
    )
    return [
        Result(
            "P7",
            "training, times as fast as a D3PO loop",
            ratios(theirs, mine),
            bench.at_least(1.5, 2.5),
            checks,
            shared,
            times(seen),
        ),
        Result(
            "P9",
            "training, FLOPs over those of a D3PO loop",
            (mine.flops / theirs.flops,),
            at_most(0.689),
            checks,
            "with LoRA on q, k, v, out",
        ),
        Result(
            "P9",
            "training, rows with gradients over all (all targets adopted)",
            (mine.trained_rows / theirs.trained_rows,),
            at_most(0.9),
            checks,
            shared,
        ),
    ]


def training_images(bench: Bench) -> list[Result]:
    """P8: Eq. (8) on sampled trajectories, one inner epoch."""
    seen, checks = compared(bench, with_ddpo)
    mine, theirs = seen.values()
    return [
        Result(
            "P8",
            "training, times as fast as a ddpo-pytorch loop",
            ratios(theirs, mine),
            bench.at_least(1.0, 2.0),
            checks,
            f"{mine.trained_rows} rows instead of {theirs.trained_rows}",
            times(seen),
        )
    ]


def with_dpo(bench: Bench) -> dict[str, Side]:
    """A round of Eq. (6); each side gives the gradient (parameter,) of every optimizer step."""
    policy, train, pairs = bench.trained, bench.train_settings(), bench.targets
    frozen = replace(policy, unet=deepcopy(policy.unet).requires_grad_(False))
    return {
        "Trainer": from_start(bench, lambda: ours(bench, pairs, "dpo")),
        "D3PO loop": from_start(bench, lambda: d3po(policy, frozen, pairs, train)),
    }


def with_ddpo(bench: Bench) -> dict[str, Side]:
    """An inner epoch of Eq. (8)."""
    pairs, train = bench.untouched, bench.train_settings(inner_epochs=1)
    sampled = bench.training_scene.sampled.log_prob.view(2, len(pairs), -1)
    return {
        "Trainer": from_start(bench, lambda: ours(bench, pairs, "ddpo", inner_epochs=1)),
        "ddpo loop": from_start(bench, lambda: ddpo(bench.trained, pairs, sampled, train)),
    }


def compared(bench: Bench, sides: Callable[[Bench], dict[str, Side]]) -> tuple[dict[str, Seen], tuple[Check, ...]]:
    """Both sides observed, and whether their gradients are the same."""
    bench.reset()
    seen = observe(sides(bench), [bench.trained.unet], bench.sizes.repeats, bench.device)
    timed = Check("gradients (fp32), relative", apart(*(one.output for one in seen.values())), at_most(ROUNDING))
    return seen, (in_fp64(bench, sides), timed) if bench.exact is bench else (timed,)


def in_fp64(bench: Bench, sides: Callable[[Bench], dict[str, Side]]) -> Check:
    """The same code on one pair and four steps with the U-Net in fp64."""
    little = bench.with_sizes(**LITTLE)
    with doubled(bench.trained.unet):
        found = [side() for side in sides(little).values()]
    return Check("gradients with the U-Net in fp64, relative", apart(*found), at_most(EXACT))


@contextmanager
def doubled(unet: Any) -> Iterator[None]:
    """The U-Net in fp64; every fp32 number survives the way there and back."""
    unet.double()
    try:
        yield
    finally:
        unet.float()


def ours(bench: Bench, pairs: Pairs, algo: str, **changes: int) -> list[torch.Tensor]:
    """What the stage train does in a round; returns the gradient (parameter,) of each optimizer step."""
    trainer = Trainer(bench.trained, pairs, bench.train_settings(**changes), seed=0, round="r00", algo=algo)
    gradients: list[torch.Tensor] = []
    parameters = list(trainer.parameters.values())
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten().cpu() for p in parameters]))
    )
    for _ in trainer.remaining():
        trainer.update()
    return gradients


def from_start(bench: Bench, side: Side) -> Side:
    """The side, with the adapter put back behind it."""

    def run() -> list[torch.Tensor]:
        gradients: list[torch.Tensor] = side()
        bench.reset()
        return gradients

    return run


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """|a - b| / |b| of the optimizer step in which it is largest."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(a, b, strict=True))
