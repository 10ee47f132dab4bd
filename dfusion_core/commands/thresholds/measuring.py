"""A few images of each prompt with the maps of its items, and thresholds computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...diffusion.denoise import Capture
from ...diffusion.noise import image_seed
from ...diffusion.window import step_indices
from ...errors import NotFinite
from ...models.policy import Policy, load_policy
from ...params import Params
from ...prompts.reach import check_reach
from ...prompts.reading import Prompt
from .otsu import otsu

SEEDS = "thresholds"  # instead of a round, for images that no round samples


@dataclass(frozen=True)
class Measured:
    """Images of one prompt: ``pictures`` (image, row, column, 3) and the items' maps A_t^cross of Eq. 4 at the steps
    that are fused, ``maps`` (image, step, item, y, x)."""

    prompt: Prompt
    pictures: NDArray[np.uint8]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Proposal:
    """The proposal for one item. All thresholds are attention probabilities.

    ``separability``: 0 to 1, how clearly the map's values fall into two groups. ``relative``:
    extract.relative_threshold times the mean of the maps. ``covered``: per image the share of positions and steps
    inside the mask at ``threshold``.
    """

    item: str
    threshold: float
    separability: float
    relative: float
    covered: tuple[float, ...]


def measure(params: Params, prompts: Sequence[Prompt], images: int, adapter: Path | None) -> Iterator[Measured]:
    """Sample ``images`` images of each prompt with the model of ``params``, prompt by prompt.

    Needs the sections model, sample, fuse and seed. Raises ItemNotFound and BadNumber.
    """
    policy = load_policy(params.model, params.sample, adapter)
    if cut := check_reach(prompts, policy.encode.readers(), params.sample.negative_prompt):
        print(f"warning: {cut}.")
    tokens = [[policy.encode.positions(prompt.text, item) for item in prompt.items] for prompt in prompts]
    for index, prompt in enumerate(prompts):
        seeds = [image_seed(params.seed, SEEDS, index, n) for n in range(images)]
        yield _sampled(policy, params, prompt, seeds, tokens[index])


def _sampled(
    policy: Policy, params: Params, prompt: Prompt, seeds: Sequence[int], tokens: list[tuple[int, ...]]
) -> Measured:
    steps = step_indices(params.fuse, params.sample.num_steps)
    pictures, maps = [], []
    for start in range(0, len(seeds), params.sample.batch_size):
        part = seeds[start : start + params.sample.batch_size]
        text = policy.embed([prompt.text] * len(part))
        try:
            made = policy.sample(part, text, capture=Capture(params.sample.maps, [tokens] * len(part), len(tokens)))
        except NotFinite as error:
            raise error.named(f"'{prompt.text}', seed {part[error.row]}") from error
        assert made.trajectories.cross_map is not None
        pictures.append(made.picture.numpy())
        maps.append(made.trajectories.cross_map[:, steps.start : steps.stop].float().numpy())
    return Measured(prompt, np.concatenate(pictures), np.concatenate(maps))


def proposals(measured: Measured, relative_threshold: float) -> list[Proposal]:
    """A threshold for each item of the prompt, with three significant digits.

    The values are those that Eq. 4 compares with thr_o: every position of every image at every fused step.
    """
    found = []
    for index, item in enumerate(measured.prompt.items):
        maps = measured.maps[:, :, index]
        exact, separability = otsu(maps)
        threshold = rounded(exact)
        covered = (maps >= threshold).mean(axis=(1, 2, 3))
        found.append(
            Proposal(
                item,
                threshold,
                separability,
                rounded(relative_threshold * float(maps.mean())),
                tuple(map(float, covered)),
            )
        )
    return found


def rounded(value: float) -> float:
    """With three significant digits: the paper's own thresholds have one or two."""
    return float(f"{value:.3g}")
