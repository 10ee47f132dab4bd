"""What must hold of fusion (Eq. 5) whatever the weights are, on one reference and one base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ...attention.fusion import flatten, resize
from ...attention.layers import present_layers
from ...diffusion.denoise import References, denoise, denoise_fused
from ...errors import BadNumber
from ...extraction.keys_values import replay
from .facts import Facts
from .findings import Finding, failed, ok
from .passes import noises, one_step

ROUNDING = {torch.float32: 1e-4}  # of the largest value: batches of 2 and 4 rows are rounded differently
COARSE = 3e-2  # the same in 16 bits
FAST = 0.5  # seconds of a forward; above it one step must do
KV = dict[str, tuple[torch.Tensor, torch.Tensor]]


def fusion(facts: Facts) -> Finding:
    """The identities at the first and the last fused step, and that a mask has an effect."""
    last, fuse = facts.params.sample.num_steps, facts.params.fuse
    steps = {last - fuse.first_step, last - fuse.last_step} if facts.effort.seconds < FAST else {last - fuse.first_step}
    benches = [Bench(facts, i) for i in sorted(steps)]
    off = {name: max(identity(one) for one in benches) for name, identity in IDENTITIES.items()}
    rounding = ROUNDING.get(facts.policy.unet.dtype, COARSE)
    broken = [f"{name} (off by {value:.2g})" for name, value in off.items() if value > rounding]
    effect = max(one.effect for one in benches)
    if not broken and effect <= max(off.values()):
        broken.append(f"a mask changes the prediction (by {effect:.2g} only)")
    if broken:
        return failed(f"does not hold: {'; '.join(broken)}", "Set model.dtype to fp32; if it stays, report it.")
    said = (f"{name}: {'bit for bit' if value == 0 else f'within {value:.1g}'}" for name, value in off.items())
    return ok(f"{'; '.join(said)}; a random mask changes x by {effect:.1g} of its size")


@dataclass(frozen=True)
class Bench:
    """A reference and a base at step index ``i``. All means of x_{t-1} are (1, c, h, w)."""

    facts: Facts
    i: int

    @cached_property
    def x(self) -> torch.Tensor:
        """x_t of reference and base, (2, c, h, w)."""
        return noises(self.facts, 2, self.i)[0]

    @cached_property
    def mask(self) -> torch.Tensor:
        """A random one, (y, x)."""
        side = self.facts.effort.side // 2
        return torch.rand(side, side, generator=torch.Generator().manual_seed(self.i)) < 0.5

    @cached_property
    def plain(self) -> torch.Tensor:
        """Of reference and base without fusion, (2, c, h, w): the rows of a batch in lock-step, in their order."""
        policy = self.facts.policy
        none = torch.zeros(2, 1, *self.x.shape[1:])
        names = ["the reference", "the base"]
        return denoise(one_step(policy, self.i), self.x, none, *self.facts.embedded(2), names).x[:, -1]

    @cached_property
    def stored(self) -> KV:
        """The reference's keys and values, as `extract` stores them and `fuse` reads them."""
        policy = self.facts.policy
        fuse = self.facts.params.fuse.model_copy(update={"first_step": 1, "last_step": 1})
        found = replay(one_step(policy, self.i), self.x[:1, None], *self.facts.embedded(1), fuse)
        names = {key.rsplit("/", 1)[0] for key in found}
        return {name: (found[f"{name}/K"][0, 0], found[f"{name}/V"][0, 0]) for name in names}

    @cached_property
    def from_stored(self) -> torch.Tensor:
        """The base fused inside the random mask, from stored keys and values."""
        return self.fused(self.x[1:], self.mask, self.stored)

    def fused(self, x: torch.Tensor, mask: torch.Tensor, kv: KV | None = None) -> torch.Tensor:
        """A target at x (1, c, h, w) fused with the reference, in lock-step or from stored keys and values."""
        policy = self.facts.policy
        reference = References(
            torch.stack([self.x[:1]] * 2, dim=1), mask[None, None], None if kv is None else {0: kv})
        return denoise_fused(
            one_step(policy, self.i), torch.stack([x, x], dim=1), torch.zeros(1, 1, *x.shape[1:]),
            *self.facts.embedded(1), reference,
            present_layers(policy.unet, self.facts.params.fuse.layers), 1, 1, ["the target"])[:, -1]

    @cached_property
    def in_lock_step(self) -> torch.Tensor:
        """The same, with the reference's rows in the batch."""
        return self.fused(self.x[1:], self.mask)

    @property
    def effect(self) -> float:
        """How much the random mask changes the base's step, in batches of the same shape."""
        return _off(self.in_lock_step, self.plain[1:])


def nothing_masked(bench: Bench) -> float:
    """An all-false mask in lock-step: the same rows as in the plain batch."""
    return _off(bench.fused(bench.x[1:], torch.zeros_like(bench.mask)), bench.plain[1:])


def everything_masked(bench: Bench) -> float:
    """With an all-true mask a target at the reference's own x_t makes the reference's step."""
    return _off(bench.fused(bench.x[:1], torch.ones_like(bench.mask)), bench.plain[:1])


def stored_or_not(bench: Bench) -> float:
    """Stored keys and values and those of a reference in lock-step give the same target."""
    return _off(bench.in_lock_step, bench.from_stored)


def unused_reference(bench: Bench) -> float:
    """A NaN outside the mask in the reference's keys and values does not reach the target."""
    poisoned = {name: (_poison(K, bench.mask), _poison(V, bench.mask)) for name, (K, V) in bench.stored.items()}
    try:
        return _off(bench.fused(bench.x[1:], bench.mask, poisoned), bench.from_stored)
    except BadNumber:
        return math.inf


IDENTITIES = {
    "an empty mask changes nothing": nothing_masked, "a full mask gives the reference": everything_masked,
    "stored K and V as in lock-step": stored_or_not, "NaN outside the mask stays out": unused_reference}


def _poison(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keys or values (half, head, token, channel) with NaN wherever the mask does not take them."""
    side = math.isqrt(values.shape[2])
    return values.masked_fill(~flatten(resize(mask[None], (side, side))), float("nan"))


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())
