"""Scores of evaluation images, and their grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..models.builtin import JUDGED, MICRO_CLIP, judge_pictures
from .diversity import diversity
from .infotext import png
from .sheets import Line, Tile, sheet

if TYPE_CHECKING:
    from ..rewards.scoring import Scorer

SHOWN = 8  # prompts per split on the grid


def score_images(reward: Scorer, images: pd.DataFrame, pictures: NDArray[np.uint8]) -> pd.DataFrame:
    """The table with the columns ``reward``, those of its terms, ``diversity`` (of a prompt's images), and, on the
    micro-world, ``right`` and ``oracle_log_prob`` by the oracle."""
    scores = reward(pictures, images.prompt.tolist())
    images = images.assign(reward=scores.reward, **scores.terms)
    if images.prompt.duplicated(keep=False).all():
        images = images.assign(diversity=diversity(scores.embedding, images.prompt.tolist()))
    if reward.clip.name != MICRO_CLIP or pictures.shape[1:3] != JUDGED:  # of another world, or another size
        return images
    right, log_prob = judge_pictures(pictures, images.prompt.tolist())
    return images.assign(right=right.numpy().astype(int), oracle_log_prob=log_prob.numpy())


def write_grid(file: Path, images: pd.DataFrame, pictures: NDArray[np.uint8], text: str) -> None:
    """A PNG with a line per prompt, the first prompts of each split with all their images and rewards, and ``text`` in
    it."""
    lines = []
    for name, split in images.groupby("split", sort=False):
        for prompt, some in list(split.groupby("prompt", sort=False))[:SHOWN]:
            tiles = [Tile(pictures[row["image"]], f"{row['reward']:.3f}") for row in some.to_dict("records")]
            lines.append(Line(tiles, f"{name}: {prompt}"))
    file.write_bytes(png(np.asarray(sheet(lines)), text))
