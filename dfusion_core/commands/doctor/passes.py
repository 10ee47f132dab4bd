"""Single steps of the real sampler and passes of the real training graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...diffusion import ddim
from ...diffusion.denoise import denoise
from ...diffusion.noise import image_seed, trajectory_noises
from ...training.trainer import Trainer
from ...training.trajectories import Pairs
from .facts import Facts
from .findings import Finding, failed, ok

if TYPE_CHECKING:
    from ...models.policy import Policy

PLACE = "doctor"  # in the place of a round: noises that no round has


@dataclass(frozen=True)
class Drawn:
    """Steps of the sampler, by step index: x_t and x_{t-1} (row, c, h, w), and the log-probs (row,) it reported."""

    x_t: dict[int, torch.Tensor]
    x_prev: dict[int, torch.Tensor]
    log_prob: dict[int, torch.Tensor]


@dataclass(frozen=True)
class Passes:
    """Two passes of the training graph, log-probs (2, step) each: of row 0 as the winner, of row 1 as the loser."""

    without_gradient: torch.Tensor
    with_gradient: torch.Tensor


def one_step(policy: Policy, i: int) -> Policy:
    """The policy with a schedule that has step index i only; the sampler then makes that step and no other."""
    whole = policy.schedule
    return replace(policy, schedule=replace(
        whole, timesteps=whole.timesteps[i:i + 1], abar_t=whole.abar_t[i:i + 1], abar_prev=whole.abar_prev[i:i + 1],
        std=whole.std[i:i + 1]))


def noises(facts: Facts, rows: int, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (row, c, h, w) of unit variance and the noise (row, 1, c, h, w) of one step from there."""
    seeds = [image_seed(facts.params.seed, PLACE, i, row) for row in range(rows)]
    side = facts.effort.side
    return trajectory_noises(seeds, (facts.policy.latent_shape[0], side, side), 1)


def sampling(facts: Facts) -> Finding:
    """A step of the sampler at every step index that is tried, and a picture.

    It goes on from the step before where that was tried: with all steps these are whole trajectories, which matter
    most at the end, where little noise is left. Else it begins at random latents.
    """
    policy, effort = facts.policy, facts.effort
    names = [f"test row {row}" for row in range(effort.batch)]
    facts.drawn = Drawn({}, {}, {})
    for i in effort.steps:
        x_t, noise = noises(facts, effort.batch, i)
        x_t = facts.drawn.x_prev.get(i - 1, x_t)
        found = denoise(one_step(policy, i), x_t, noise, *facts.embedded(effort.batch), names)
        facts.drawn.x_t[i], facts.drawn.x_prev[i] = found.x.unbind(dim=1)
        facts.drawn.log_prob[i] = found.log_prob[:, 0]
    picture = policy.decode(found.x[:1, -1])
    if picture.min() == picture.max():
        return failed("the autoencoder makes a picture of one colour", "If model.dtype is fp16, try fp32.")
    levels = len(picture.unique())
    return ok(f"{len(effort.steps)} steps of {effort.batch} rows, all finite; a picture of {levels} levels")


@torch.no_grad()
def log_prob_of(facts: Facts, i: int, rows: int) -> torch.Tensor:
    """log p(x_{t-1} | x_t) of the first ``rows`` drawn states at step index i, in a batch of their own; on the CPU."""
    policy = facts.policy
    x_t, x_prev = (kept[i][:rows].to(policy.device) for kept in (facts.drawn.x_t, facts.drawn.x_prev))
    eps = policy.predict_noise(x_t, i, *facts.embedded(rows))
    mean = ddim.mean(policy.schedule, i, x_t, eps)
    return ddim.log_prob(x_prev, mean, policy.schedule.std[i]).cpu()


def training(facts: Facts) -> Finding:
    """Two passes of the training graph over the drawn steps: as before the first update, and as in it."""
    trainer = Trainer(
        facts.policy, as_pairs(facts), facts.params.train.model_copy(update={"micro_batch": facts.effort.micro}),
        seed=facts.params.seed, round=PLACE)
    first, second = [], []
    steps = torch.tensor(facts.effort.steps)
    for pair, step, weight in trainer.micro_batches(torch.arange(len(steps)), steps):
        real = weight > 0
        with torch.no_grad():
            first.append(trainer.now(pair, step)["log_prob"].cpu()[:, real])
        second.append(trainer.now(pair, step)["log_prob"].detach().cpu()[:, real])
    facts.passes = Passes(torch.cat(first, dim=1), torch.cat(second, dim=1))
    return ok(f"{len(first)} micro-batches of {facts.effort.micro} pairs, without and with gradients")


def as_pairs(facts: Facts) -> Pairs:
    """Pair k has the k-th drawn step at its place, row 0 as the winner and row 1 as the loser; the rest is zero."""
    drawn, steps, total = facts.drawn, facts.effort.steps, facts.params.sample.num_steps
    shape = (len(steps), total + 1, *drawn.x_t[steps[0]].shape[1:])
    winner, loser, seen = torch.zeros(shape), torch.zeros(shape), torch.full((len(steps), total), float("nan"))
    for k, i in enumerate(steps):
        for row, x in enumerate((winner, loser)):
            x[k, i], x[k, i + 1] = drawn.x_t[i][row], drawn.x_prev[i][row]
        seen[k, i] = drawn.log_prob[i][1]
    none = torch.zeros(len(steps), dtype=torch.long)
    names = [f"test step {i}" for i in steps]
    return Pairs(winner, loser, [facts.text], none, none, seen, torch.zeros(2, len(steps)), names)
