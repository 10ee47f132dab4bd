"""How much work the checks may do: chosen from a first forward, and cut so that all of them take a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .facts import Facts
from .findings import Finding, ok

if TYPE_CHECKING:
    from ...params.sections import Everything

SECONDS = 15.0  # of work in each of the checks that call the U-Net often
LONGEST = 0.6  # seconds of one guided forward of one image; latents become smaller until it is shorter
SMALLEST = 8  # side of a latent: three halvings are left


@dataclass(frozen=True)
class Effort:
    """``side`` of the test latents, ``steps`` (indices) that are tried, ``batch`` rows sampled together, ``micro`` rows
    in a pass of training, and ``seconds`` of one guided forward of one image."""

    side: int
    steps: tuple[int, ...]
    batch: int
    micro: int
    seconds: float

    def left_out(self, params: Everything, side: int) -> str:
        """In what the checks do less than a run, or an empty string."""
        compared = {
            f"steps {len(self.steps)} of": (len(self.steps), params.sample.num_steps),
            f"a batch of {self.batch} instead of": (self.batch, params.sample.batch_size),
            f"a micro-batch of {self.micro} instead of": (self.micro, params.train.micro_batch),
            f"latents of side {self.side} instead of": (self.side, side)}
        return ", ".join(f"{words} {full}" for words, (used, full) in compared.items() if used < full)


def choose(seconds: float, side: int, params: Everything, quick: bool = False) -> Effort:
    """The work that ``SECONDS`` allow at ``seconds`` an image: every step and whole batches if they fit, else at least
    two steps, two rows and a micro-batch of one.

    A pair in training has two images; they go through the U-Net once without gradients and once with them.
    """
    images = max(1, int((SECONDS / 8 if quick else SECONDS) / seconds))
    last = params.sample.num_steps - 1
    count = min(last + 1, max(2, images // 8))
    batch = max(2, min(params.sample.batch_size, images // count - 1))
    micro = max(1, min(params.train.micro_batch, images // 6))
    return Effort(side, tuple(round(k * last / (count - 1)) for k in range(count)), batch, micro, seconds)


def forward(facts: Facts) -> Finding:
    """Time a guided forward; from its keys and values the topology is read."""
    policy, sides = facts.policy, _sides(facts.policy.latent_shape[1])
    side, seconds = sides[0], _seconds(partial(look, facts, sides[0]))
    for larger in sides[1:]:
        if seconds * (larger / side) ** 2 > LONGEST:
            break
        side, seconds = larger, _seconds(partial(look, facts, larger))
    facts.effort = choose(seconds, side, facts.params, facts.quick)
    left_out = facts.effort.left_out(facts.params, policy.latent_shape[1])
    return ok(f"{seconds:.2g} s for an image of {side}x{side} latents; the checks below "
              + (f"are cut: {left_out}" if left_out else "do whole batches at every step"))


def look(facts: Facts, side: int) -> None:
    """One guided forward of one image; keeps every self-attention's keys and values."""
    import torch

    from ...attention.control import recording_kv
    from ...attention.layers import layer_paths, present_layers

    policy = facts.policy
    layers = present_layers(policy.unet, list(layer_paths(policy.unet)))
    x = torch.randn(1, policy.latent_shape[0], side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), recording_kv(policy.unet, layers) as tap:
        policy.predict_noise(x.to(policy.device), 0, *facts.embedded(1)).cpu()
    facts.kv = tap.kv


def _sides(full: int) -> list[int]:
    """Sides of latents that are tried, from a quarter of the full one up."""
    return sorted({min(full, max(SMALLEST, full // part)) for part in (4, 2, 1)})


def _seconds(call: Callable[[], None]) -> float:
    """Of the second of two calls: the first one warms up."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
