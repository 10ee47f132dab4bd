"""P11 and P12: bytes of activations in training, and at once in fusion against sampling of as many rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dfusion_core.commands.plan import networks
from dfusion_core.commands.plan.counting import saved_bytes, working_bytes
from dfusion_core.diffusion.ddim import schedule
from dfusion_core.diffusion.denoise import denoise
from dfusion_core.fusion.targets import References, denoise_fused
from dfusion_core.models.architectures import KNOWN
from dfusion_core.params import Lora

from ..bench import Bench
from ..models import TOKENS
from ..result import Result, at_most

GIB = 2**30
CARD_ROWS = 24  # that should fit a card of 24 GB
STEPS = 2  # all are alike


def training_memory(bench: Bench) -> list[Result]:
    """P11, counted for SD 2.1 in fp16 with its adapter in fp32: weights and what autograd keeps."""
    unet = networks.build_unet(KNOWN["sd21"], torch.float16, Lora())
    row = saved_bytes(networks.unet_call(unet, 1, TOKENS), unet.parameters())
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    bar = at_most((0.75 * CARD_ROWS * GIB + 4 * GIB) / GIB)
    return [
        Result(
            "P11",
            f"training memory of SD 2.1 at {CARD_ROWS} rows, GiB",
            ((weights + CARD_ROWS * row) / GIB,),
            bar,
            note=f"{row / 2**20:.0f} MiB a row",
        )
    ]


def fusing_memory(bench: Bench) -> list[Result]:
    """P12: bytes alive at once; on a GPU what its allocator held."""
    scene, n = bench.scene, bench.sizes.targets
    policy = replace(bench.plain, schedule=schedule(bench.model.scheduler, STEPS, 1.0))
    x, noise, mask = scene.sampled.x[:, : STEPS + 1], scene.noise[:, :STEPS], scene.mask[:, :STEPS]

    def sample() -> torch.Tensor:
        return denoise(policy, scene.x_T, noise, bench.text(policy, 2 * n)).x

    def fuse() -> torch.Tensor:
        return denoise_fused(
            policy, x[n:], noise[n:], bench.text(policy, n), References(x[:n], mask), bench.layers, range(STEPS)
        )

    fused, plain = (peak(bench, side) for side in (fuse, sample))
    return [
        Result(
            "P12",
            "peak memory of fusing over sampling as many rows",
            (fused / plain,),
            at_most(1.1),
            note=f"{4 * n} rows; {fused / 2**20:.1f} and {plain / 2**20:.1f} MiB beside the weights",
        )
    ]


def peak(bench: Bench, side: Callable[[], torch.Tensor]) -> int:
    """The most bytes of intermediate results at once."""
    if bench.device.type != "cuda":
        return working_bytes(side, bench.plain.unet.parameters())
    torch.cuda.reset_peak_memory_stats(bench.device)
    before = torch.cuda.memory_allocated(bench.device)
    side()
    return torch.cuda.max_memory_allocated(bench.device) - before
