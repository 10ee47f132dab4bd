"""Tables of the images that a stage makes: prompt, number and seed of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..diffusion.noise import image_seed, twin_seed
from ..errors import PromptsError, StoreError
from .algorithm1 import Pairing, pair

if TYPE_CHECKING:
    from ..params.sections import Evaluate
    from ..prompts.reading import Prompt, PromptFile


def image_plan(prompts: Sequence[Prompt], count: int, seed: int, round: str) -> pd.DataFrame:
    """``count`` images of each prompt, prompt by prompt: image, prompt_id, prompt, sample, seed."""
    rows = [
        (p, prompt.text, n, image_seed(seed, round, p, n)) for p, prompt in enumerate(prompts) for n in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["prompt_id", "prompt", "sample", "seed"])
    frame.insert(0, "image", range(len(frame)))
    return frame


def evaluation_plan(prompts: PromptFile, evaluate: Evaluate) -> pd.DataFrame:
    """Images of fixed seeds for training and unseen prompts; the column ``split`` is "train" or "test"."""
    parts = []
    lists = (("train", prompts.train, evaluate.train_count), ("test", prompts.test, evaluate.test_count))
    for split, chosen, count in lists:
        part = image_plan(chosen[:count], evaluate.images_per_prompt, evaluate.seed, f"evaluate-{split}")
        part.insert(1, "split", split)
        parts.append(part)
    if not any(len(part) for part in parts):
        raise PromptsError(
            "evaluate: there is nothing to evaluate: the file has no test prompts, and evaluate.train_count is 0.",
            "Set evaluate.train_count in params.yaml, or add test prompts.",
        )
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return frame.assign(image=range(len(frame)))


def twin_plan(images: pd.DataFrame) -> pd.DataFrame:
    """Twins with the same x_T for the first half of each prompt's images, whatever their scores.

    One row per pair: pair, image, prompt_id, prompt, seed, twin_seed. As many new images as D-Fusion has targets.
    """
    count = images.groupby("prompt_id")["sample"].transform("size") // 2
    rows = images[images["sample"] < count].reset_index(drop=True)
    plan = rows[["image", "prompt_id", "prompt", "seed"]].assign(twin_seed=[twin_seed(s) for s in rows.seed])
    plan.insert(0, "pair", range(len(plan)))
    return plan


def image_name(images: pd.DataFrame, row: int) -> str:
    """Prompt and seed of a row of a table of images or references, for messages."""
    return f"{images.columns[0]} {row} ('{images.prompt[row]}', seed {images.seed[row]})"


def pair_name(pairs: pd.DataFrame, row: int) -> str:
    """Prompt and seed of a row of a table of pairs or twins, for messages; the seed is that of the new image's x_T."""
    seed = "base_seed" if "base_seed" in pairs else "seed"
    return f"pair {pairs.pair[row]} ('{pairs.prompt[row]}', {seed.replace('_', ' ')} {pairs[seed][row]})"


def trained_pair_name(training: pd.DataFrame, images: pd.DataFrame, row: int) -> str:
    """Prompt and seed of a row of the training table, for messages; the seed is that of a sampled image, the base if it
    lost.
    """
    pair = training.loc[row]
    lost = str(pair.loser_stage) == "sample"
    seed = images.seed[pair.loser_row if lost else pair.winner_row]
    return f"pair {pair.pair} ('{pair.prompt}', {'base seed' if lost else 'seed'} {seed})"


def pair_plan(images: pd.DataFrame, scores: pd.DataFrame, mode: Pairing) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Algorithm 1 on every prompt's images: the pairs, and their distinct references.

    pairs: pair, reference (row of the second table), reference_image, base_image, base_seed, prompt_id, prompt,
    reference_reward, base_reward. references: reference, image, prompt_id, prompt, seed. Raises StoreError if the
    tables do not list the same images, or too few of a prompt.
    """
    if scores.image.tolist() != images.image.tolist():
        raise StoreError(
            f"extract: score/scores.csv has {len(scores)} rows for the {len(images)} of sample/images.csv.",
            "Run 'dvc repro' from score on.",
        )
    scored = images.merge(scores[["image", "reward"]], on="image", validate="one_to_one").sort_values("image")
    rows = []
    for prompt_id, group in scored.groupby("prompt_id", sort=True):
        group = group.reset_index(drop=True)
        for best, worst in _paired(group, mode):
            r, b = group.loc[best], group.loc[worst]
            rows.append((r.image, b.image, b.seed, prompt_id, r.prompt, r.reward, b.reward))
    pairs = pd.DataFrame(
        rows,
        columns=[
            "reference_image",
            "base_image",
            "base_seed",
            "prompt_id",
            "prompt",
            "reference_reward",
            "base_reward",
        ],
    )
    references = images[images.image.isin(pairs.reference_image)][["image", "prompt_id", "prompt", "seed"]]
    references = references.reset_index(drop=True)
    references.insert(0, "reference", range(len(references)))
    row_of = dict(zip(references.image, references.reference, strict=True))
    pairs.insert(0, "reference", pairs.reference_image.map(row_of))
    pairs.insert(0, "pair", range(len(pairs)))
    return pairs, references


def _paired(images: pd.DataFrame, mode: Pairing) -> list[tuple[int, int]]:
    try:
        return pair(images.reward.to_numpy(), mode)
    except ValueError as error:
        raise StoreError(f"extract: sample/images.csv, '{images.prompt[0]}': {error}.") from error
