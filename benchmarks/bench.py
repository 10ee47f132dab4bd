"""What every measurement works on: a model, sizes, and the images, masks and pairs made with it once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from dfusion_core.attention.layers import present_layers
from dfusion_core.attention.masks import item_mask, merge
from dfusion_core.diffusion.ddim import schedule
from dfusion_core.diffusion.denoise import Capture, Trajectories, denoise
from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.fusion.targets import References, denoise_fused
from dfusion_core.models.lora import trainable
from dfusion_core.models.policy import Policy
from dfusion_core.models.text import Text
from dfusion_core.params.sections import Fuse, Train
from dfusion_core.training.trajectories import Pairs, shared_steps

from .models import ETA, Source, adapt
from .result import Bar, at_least

PROMPT = "a heart holding a balloon"
ITEMS = ((2,), (5,))  # token positions of heart and balloon
ABOVE_MEAN = 1.0  # an item is where its map is above its mean


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``first_t`` is nine tenths of ``steps``, as the paper's 18 of 20."""

    steps: int
    images: int  # sampled together
    targets: int  # fused together
    pairs: int  # trained on
    micro_batch: int
    repeats: int

    @property
    def first_t(self) -> int:
        return self.steps * 9 // 10


@dataclass(frozen=True)
class Scene:
    """n references, n bases, and what fusing each base with its reference takes."""

    x_T: torch.Tensor  # noqa: N815  (2 n, c, h, w), references first
    noise: torch.Tensor  # (2 n, T, c, h, w)
    sampled: Trajectories
    mask: torch.Tensor  # (n, T, y, x)

    @property
    def count(self) -> int:
        return len(self.mask)

    @property
    def references(self) -> References:
        return References(self.sampled.x[: self.count], self.mask)


@dataclass
class Bench:
    """A model and sizes on a device; everything else is made when it is first asked for."""

    model: Source
    sizes: Sizes
    device: torch.device

    @cached_property
    def exact(self) -> Bench:
        """The same in fp32, for counting and checking only; itself where it is in fp32."""
        if self.model.dtype == "fp32":
            return self
        return Bench(replace(self.model, dtype="fp32"), replace(self.sizes, repeats=0), self.device)

    @cached_property
    def plain(self) -> Policy:
        """The model without adapter, or with it merged, which is the same to the clock."""
        return self.model.policy(self.sizes.steps, self.device)

    @cached_property
    def trained(self) -> Policy:
        """The model with a separate, trainable adapter. Who trains it puts it back with ``reset``."""
        return adapt(self.model.policy(self.sizes.steps, self.device))

    @cached_property
    def _start(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in trainable(self.trained.unet).items()}

    @torch.no_grad()
    def reset(self) -> None:
        """Make the adapter what it was at the beginning."""
        for name, parameter in trainable(self.trained.unet).items():
            parameter.copy_(self._start[name])

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The paper's layers, as far as this U-Net has them."""
        return present_layers(self.plain.unet, Fuse().layers)

    @cached_property
    def scene(self) -> Scene:
        """References and bases of the untrained model."""
        return self._scene(self.plain, self.sizes.targets, 0)

    @cached_property
    def training_scene(self) -> Scene:
        """The same of the model with its adapter, so that its log-probs are those that training finds."""
        return self._scene(self.trained, self.sizes.pairs, 1000)

    def _scene(self, policy: Policy, n: int, seed: int) -> Scene:
        x_T, noise = trajectory_noises(range(seed, seed + 2 * n), policy.latent_shape, self.sizes.steps)
        sampled = self.sample(policy, x_T, noise)
        assert sampled.cross_map is not None
        maps = sampled.cross_map[:n]
        items = item_mask(maps.flatten(0, 1), ABOVE_MEAN, "relative").view(maps.shape)
        return Scene(x_T, noise, sampled, merge(items.flatten(0, 1)).view(n, -1, *maps.shape[-2:]))

    def text(self, policy: Policy, n: int) -> Text:
        """The prompt n times."""
        return policy.embed([PROMPT] * n)

    def sample(self, policy: Policy, x_T: torch.Tensor, noise: torch.Tensor, capture: bool = True) -> Trajectories:
        """What the stage sample does with one batch."""
        n = len(x_T)
        maps = Capture("up_1", [ITEMS] * n, len(ITEMS)) if capture else None
        return denoise(policy, x_T, noise, self.text(policy, n), maps)

    def fuse(self, policy: Policy, scene: Scene, references: References | None = None) -> torch.Tensor:
        """What the stage fuse does with one batch: (n, T + 1, c, h, w)."""
        n = scene.count
        return denoise_fused(
            policy,
            scene.sampled.x[n:],
            scene.noise[n:],
            self.text(policy, n),
            references or scene.references,
            self.layers,
            range(self.sizes.steps - self.sizes.first_t, self.sizes.steps),
        )

    @cached_property
    def targets(self) -> Pairs:
        """Adopted targets against their bases."""
        scene = self.training_scene
        return self._pairs(self.fuse(self.trained, scene), skip=True)

    @cached_property
    def untouched(self) -> Pairs:
        """References against bases: sampled trajectories only, nothing shared."""
        return self._pairs(self.training_scene.references.x, skip=False)

    def _pairs(self, winner: torch.Tensor, skip: bool) -> Pairs:
        n, sampled = len(winner), self.training_scene.sampled
        first = shared_steps(winner, sampled.x[n:]) if skip else torch.zeros(n, dtype=torch.long)
        advantage = torch.tensor([[1.0], [-1.0]]).expand(2, n).contiguous()
        return Pairs(
            winner, sampled.x[n:], [PROMPT], torch.zeros(n, dtype=torch.long), first, sampled.log_prob[n:], advantage
        )

    def train_settings(self, **changes: Any) -> Train:
        """The paper's, with one optimizer step an inner epoch."""
        return Train(micro_batch=self.sizes.micro_batch, pairs_per_update=self.sizes.pairs, **changes)

    def with_sizes(self, **changes: Any) -> Bench:
        """Other sizes, on the same networks where they are loaded already."""
        other = Bench(self.model, replace(self.sizes, **changes), self.device)
        steps = schedule(self.model.scheduler, other.sizes.steps, ETA)
        made = {name: replace(vars(self)[name], schedule=steps) for name in ("plain", "trained") if name in vars(self)}
        vars(other).update(made | {name: vars(self)[name] for name in ("_start",) if name in vars(self)})
        return other

    def at_least(self, cpu: float, gpu: float) -> Bar:
        """The bar of this kind of device."""
        return at_least(gpu if self.device.type == "cuda" else cpu)
