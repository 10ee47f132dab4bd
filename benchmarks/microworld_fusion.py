"""What fusion does in one round of the built-in model: figures (h)-(m) of docs/microworld.md.

The round goes through the pipeline's own functions (Eq. 1, 4, 5, 7 and Algorithm 1), without a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from dfusion_core.adoption.figures import Views, fresh_gain, fused_figures
from dfusion_core.adoption.tables import target_table
from dfusion_core.attention.layers import present_layers
from dfusion_core.diffusion.denoise import Capture
from dfusion_core.diffusion.noise import trajectory_noises
from dfusion_core.diffusion.window import step_indices
from dfusion_core.extraction.masks import Masks, empty_masks, reference_masks
from dfusion_core.fusion.targets import References, denoise_fused
from dfusion_core.microworld.grammar import OTHER, shape_index
from dfusion_core.microworld.oracle import Oracle, judge, read
from dfusion_core.models.policy import Policy
from dfusion_core.pairing.plan import image_plan, pair_plan
from dfusion_core.params.sections import Adopt, Extract, Fuse
from dfusion_core.prompts.reading import load_prompts
from dfusion_core.rewards.scoring import Scorer


@dataclass(frozen=True)
class Setting:
    """A round's size and the parameters of masks, fusion and adoption."""

    prompts: int = 12
    images: int = 24
    batch: int = 32
    seed: int = 12_345
    extract: Extract = field(default_factory=lambda: Extract(threshold="relative", relative_threshold=2.0))
    fuse: Fuse = field(default_factory=lambda: Fuse(layers=("mid", "up_1", "up_2"), first_t=9, last_t=1))
    adopt: Adopt = field(default_factory=Adopt)
    maps: str = "up_1"


@dataclass(frozen=True)
class Round:
    """Sampled images and their pairs, with the masks of the references and the fused targets' pictures."""

    images: pd.DataFrame  # with reward
    pictures: np.ndarray  # (image, y, x, 3)
    embedding: np.ndarray
    pairs: pd.DataFrame
    masks: Masks  # (reference, ...)
    targets: np.ndarray  # (pair, y, x, 3)
    target_reward: np.ndarray
    target_embedding: np.ndarray


def batches(rows: int, size: int) -> list[slice]:
    """Slices of at most ``size`` rows."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def run_round(policy: Policy, reward: Scorer, template: str, s: Setting) -> Round:
    """Sample, score, pair, mask and fuse the first prompts of a template."""
    prompts = load_prompts(f"dfusion_core/prompts/micro_{template}.yaml").train[: s.prompts]
    images = image_plan(prompts, s.images, s.seed, "figures")
    tokens = [[policy.encode.positions(p.text, item) for item in p.items] for p in prompts]
    made = []
    for rows in batches(len(images), s.batch):
        part = images.iloc[rows]
        capture = Capture(s.maps, [tokens[p] for p in part.prompt_id], max(map(len, tokens)))
        made.append(policy.sample(part.seed.tolist(), policy.embed(part.prompt.tolist()), capture=capture))
    x, cross_map = (torch.cat([getattr(one.trajectories, name) for one in made]) for name in ("x", "cross_map"))
    picture = torch.cat([one.picture for one in made]).numpy()
    scores = reward(picture, images.prompt.tolist())
    pairs, references = pair_plan(images, images[["image"]].assign(reward=scores.reward), "halves")
    masks = reference_masks(
        cross_map[references.image.tolist()].float().numpy(), [prompts[p] for p in references.prompt_id], s.extract
    )
    targets = fuse(policy, x, masks.mask, pairs, s)
    again = reward(targets, pairs.prompt.tolist())
    return Round(
        images.assign(reward=scores.reward),
        picture,
        scores.embedding,
        pairs,
        masks,
        targets,
        again.reward,
        again.embedding,
    )


def fuse(policy: Policy, x: torch.Tensor, mask: torch.Tensor, pairs: pd.DataFrame, s: Setting) -> np.ndarray:
    """Pictures of every pair's target (Eq. 5)."""
    parts, T = [], policy.schedule.num_steps
    for rows in batches(len(pairs), s.batch):
        part = pairs.iloc[rows]
        _, noise = trajectory_noises(part.base_seed.tolist(), policy.latent_shape, T)
        found = denoise_fused(
            policy,
            x[part.base_image.tolist()],
            noise,
            policy.embed(part.prompt.tolist()),
            References(x[part.reference_image.tolist()], mask[part.reference.tolist()]),
            present_layers(policy.unet, s.fuse.layers),
            step_indices(s.fuse, T),
        )
        parts.append(policy.decode(found[:, -1]).numpy())
    return np.concatenate(parts)


def malformed(oracle: Oracle, pictures: np.ndarray, template: str) -> np.ndarray:
    """Whether each picture (n, y, x, 3) has a shape that the oracle calls "other"."""
    heads = ("shape_a", "shape_b") if template == "relation" else ("shape_a",)
    found = read(oracle, torch.from_numpy(pictures).permute(0, 3, 1, 2))
    return np.any([(found[head].argmax(dim=1) == shape_index(OTHER)).numpy() for head in heads], axis=0)


def right(oracle: Oracle, pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Whether each picture (n, y, x, 3) shows its prompt."""
    return judge(oracle, torch.from_numpy(pictures).permute(0, 3, 1, 2), prompts)[0].numpy()


def lost_by_xor(masks: Masks, T: int, s: Setting) -> float:
    """Share of the cells of any item, at the fused steps, that XOR of the item masks leaves out."""
    steps = step_indices(s.fuse, T)
    window = slice(steps.start, steps.stop)
    some = masks.item_mask[:, window].any(dim=2)
    return float((some & ~masks.mask[:, window]).sum() / some.sum().clamp(min=1))


def figures(found: Round, oracle: Oracle, template: str, T: int, s: Setting) -> dict[str, Any]:
    """The figures of one round."""
    pairs, prompts = found.pairs, found.pairs.prompt.tolist()
    without_mask = empty_masks(found.masks, step_indices(s.fuse, T))[pairs.reference.tolist()].numpy()
    targets = target_table(pairs, found.target_reward, without_mask, s.adopt)
    base, reference = (
        Views(found.pictures[pairs[f"{n}_image"]], found.embedding[pairs[f"{n}_image"]]) for n in ("base", "reference")
    )
    mask = found.masks.mask[pairs.reference.tolist()].numpy()
    result = fused_figures(pairs, targets, base, reference, Views(found.targets, found.target_embedding), mask)
    result["fresh_gain"] = fresh_gain(pairs, found.images.drop(columns="reward"), found.images)
    shown = {"base": base.picture, "target": found.targets, "reference": reference.picture}
    result["oracle"] = {name: float(right(oracle, p, prompts).mean()) for name, p in shown.items()}
    result["base_model_right"] = float(right(oracle, found.pictures, found.images.prompt.tolist()).mean())
    result["base_model_malformed"] = float(malformed(oracle, found.pictures, template).mean())
    result["lost_by_xor"] = lost_by_xor(found.masks, T, s)
    result["target_gain_over_fresh"] = result["target_gain"] / result["fresh_gain"]
    result["outside_over_two_images"] = (result["target_distance_outside"] or 0.0) / result["reference_distance"]
    result["target_right_over_reference"] = result["oracle"]["target"] / max(result["oracle"]["reference"], 1e-9)
    return result


def triples(found: Round, count: int) -> list[list[np.ndarray]]:
    """Three rows of pictures: references, bases, targets of pairs from as many prompts as there are."""
    order = found.pairs.assign(turn=found.pairs.groupby("prompt_id").cumcount()).sort_values(["turn", "prompt_id"])
    chosen = order.head(count)
    return [
        list(found.pictures[chosen.reference_image]),
        list(found.pictures[chosen.base_image]),
        list(found.targets[chosen.index]),
    ]
