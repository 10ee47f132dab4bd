"""Steps along the gradients of a round's pairs: their effect on the score, for each kind of pair.

The directions are sums over pairs and timesteps of the gradient of log p(winner) - log p(base) at the adapter that the
round sampled with, where Eq. 6 and its logarithm agree up to a factor. All steps have the same length, and images
before and after a step have the same seeds, so differences are paired.

A target's step is x_{t-1} = mu_fused + sigma eps, and for one latent of n elements

    n grad log p(x_{t-1}) = (mu_fused - mu) grad mu / sigma^2 + eps grad mu / sigma

with the first term = -grad KL(p_fused || p): it distils the fused policy into the plain one, independent of the
target's score. The expectation of the second is zero. "distillation" is the first term only.

reads   sample/, extract/, fuse/, adopt/ of a round and the adapter it sampled with
writes  directions.csv
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from ...diffusion.noise import trajectory_noises
from ...diffusion.window import step_indices
from ...errors import MissingStage, ParamsError
from ...evaluation.grading import score_images
from ...evaluation.measures import measures
from ...evaluation.results import interval
from ...models.lora import trainable
from ...models.policy import Policy, load_policy
from ...pairing.plan import image_plan
from ...params import Params, load_params
from ...params.rounds import previous
from ...prompts.reading import load_prompts
from ...rewards.scoring import load_reward
from ...store import read_stage
from ...store.paths import adapter

if TYPE_CHECKING:
    from ...rewards.scoring import Scorer

Direction = list[torch.Tensor]  # one tensor a trainable weight, in the order of `trainable`


def log_prob_gradient(
    policy: Policy,
    x: torch.Tensor,
    prompts: list[str],
    steps: range,
    rows: int,
    noise: torch.Tensor | None = None,
) -> Direction:
    """Gradient of the sum of log p(x_{t-1} | x_t, c) over trajectories (n, T + 1, c, h, w) and step indices.

    ``rows``: (image, timestep) pairs in one forward. ``noise`` (n, T, c, h, w): the eps of every step; if it is
    given, the gradient is that of log p(x_{t-1} - sigma eps), the step that its own policy would take without noise.
    """
    weights = list(trainable(policy.unet).values())
    total = [torch.zeros_like(weight) for weight in weights]
    text = policy.embed(prompts)
    image, step = torch.arange(len(x)).repeat_interleave(len(steps)), torch.tensor(steps).repeat(len(x))
    for start in range(0, len(image), rows):
        n, i = image[start : start + rows], step[start : start + rows]
        x_t, x_next = (x[n, i + k].to(policy.device) for k in (0, 1))
        std = policy.schedule.std[i]
        if noise is not None:
            x_next = x_next - std.view(-1, 1, 1, 1).to(x_next) * noise[n, i].to(x_next)
        log_prob, _ = policy.log_prob(x_t, x_next, i, text[n])
        for sum_, part in zip(total, torch.autograd.grad(log_prob.sum(), weights), strict=True):
            sum_ += part
    return total


def minus(a: Direction, b: Direction) -> Direction:
    """a - b."""
    return [x - y for x, y in zip(a, b, strict=True)]


def scaled(direction: Direction, rms: float) -> Direction:
    """The direction with ``rms`` as the root mean square of its entries; zeros stay zeros."""
    found = float(torch.cat([part.flatten() for part in direction]).square().mean().sqrt())
    return [part * (rms / found if found > 0 else 0.0) for part in direction]


def windows(names: Sequence[str], params: Params) -> dict[str, range]:
    """Step indices by the timesteps' name: "5-3" are t = 5, 4, 3. No names: the timesteps that `train` uses.

    Raises ParamsError unless they are two of the timesteps T .. 1, the larger one first.
    """
    num_steps = params.sample.num_steps
    if not names:
        steps = step_indices(params.train, num_steps)
        return {f"{num_steps - steps[0]}-{num_steps - steps[-1]}": steps}
    found = {}
    for name in names:
        first, last = map(int, name.split("-")) if re.fullmatch(r"[0-9]{1,9}-[0-9]{1,9}", name) else (0, 0)
        if not num_steps >= first >= last >= 1:
            raise ParamsError(
                f"study: '{name}' is not a range of timesteps.",
                f"Give the first and the last of {num_steps} .. 1, as --timesteps {num_steps}-1.",
            )
        train = params.train.model_copy(update={"first_t": first, "last_t": last})
        found[name] = step_indices(train, num_steps)
    return found


def directions(policy: Policy, params: Params, round: str, count: int, steps: range) -> dict[str, Direction]:
    """The directions by name at these step indices, from the first ``count`` pairs of each prompt. Raises
    MissingStage."""
    sampled, fused = read_stage("sample", round), read_stage("fuse", round)
    if "x" not in fused.names:
        raise MissingStage(
            f"study: {round} has no fused targets.", f"Make them with 'dvc repro -s fuse@{round}' and pairs: dfusion."
        )
    pairs = read_stage("extract", round).table("pairs")
    pairs = pairs[pairs.groupby("prompt_id").cumcount() < count].reset_index(drop=True)
    eq7 = read_stage("adopt", round).table("targets")
    taken = torch.tensor(pairs.pair.isin(eq7.pair[eq7.adopted]).tolist())[:, None, None, None, None]
    base, reference = (sampled.tensor("x", pairs[f"{name}_image"]) for name in ("base", "reference"))
    target = fused.tensor("x", pairs.pair)

    def gradient(x: torch.Tensor, noise: torch.Tensor | None = None) -> Direction:
        return log_prob_gradient(policy, x, pairs.prompt.tolist(), steps, params.train.micro_batch, noise)

    _, eps = trajectory_noises(pairs.base_seed.tolist(), policy.latent_shape, params.sample.num_steps)
    of_base, generator = gradient(base), torch.Generator().manual_seed(params.seed)
    shift, distillation = minus(gradient(target), of_base), gradient(target, eps)
    return {
        "naive": minus(gradient(reference), of_base),
        "dfusion": minus(gradient(torch.where(taken, target, reference)), of_base),
        "all targets": shift,
        "distillation": distillation,
        "all targets without distillation": minus(shift, distillation),
        "random": [torch.randn(part.shape, generator=generator).to(part) for part in shift],
    }


def study_directions(
    round: str,
    count: int,
    images: int,
    sizes: Sequence[float],
    folder: Path,
    timesteps: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per direction, timesteps and length: paired gains over the images before the step, with 95 % intervals.

    count: pairs of each prompt; images: of each training prompt; sizes: root mean squares of the change of a weight;
    timesteps: as for `windows`.
    """
    params = load_params("model", "prompts", "sample", "reward", "train", "evaluate", "rounds", "seed")
    chosen = windows(timesteps, params)
    policy = load_policy(params.model, params.sample, adapter(previous(params, round)), train=True)
    reward = load_reward(params.reward, policy.device)
    prompts = load_prompts(params.prompts.file).first(params.prompts.train_count, 0).train
    plan = image_plan(prompts, images, params.evaluate.seed, "directions")
    weights = list(trainable(policy.unet).values())
    start = [weight.detach().clone() for weight in weights]
    before = _images(policy, params, reward, plan)
    rows = []
    for window, steps in chosen.items():
        _set(weights, start)
        for name, direction in directions(policy, params, round, count, steps).items():
            for size in sizes:
                _set(weights, [was + part for was, part in zip(start, scaled(direction, size), strict=True)])
                gains = _gains(_images(policy, params, reward, plan), before)
                rows.append({"direction": name, "t": window, "size": size} | gains)
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.round(6).to_csv(folder / "directions.csv", index=False)
    return table


@torch.no_grad()
def _set(weights: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _gains(after: pd.DataFrame, before: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {}
    for measure in measures(after):
        change = after[measure].to_numpy(float) - before[measure].to_numpy(float)
        gain = interval("train", change, after.prompt.tolist())
        found |= {measure: gain.mean, f"{measure}_low": gain.low, f"{measure}_high": gain.high}
    return found


def _images(policy: Policy, params: Params, reward: Scorer, plan: pd.DataFrame) -> pd.DataFrame:
    """The plan's images by the present policy, scored."""
    pictures = []
    for start in range(0, len(plan), params.evaluate.batch_size):
        part = plan.iloc[start : start + params.evaluate.batch_size]
        pictures.append(policy.sample(part.seed.tolist(), policy.embed(part.prompt.tolist())).picture.numpy())
    return score_images(reward, plan, np.concatenate(pictures))
