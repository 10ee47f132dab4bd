"""Scores of evaluation images, and the grid that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..models.builtin import MICRO_CLIP, judge_pictures
from .diversity import diversity
from .infotext import png

if TYPE_CHECKING:
    from ..rewards.scoring import Scorer

SHOWN = 8  # prompts per split on the grid
MARGIN = 2  # pixels between pictures


def score_images(
    reward: Scorer, images: pd.DataFrame, pictures: NDArray[np.uint8]
) -> pd.DataFrame:
    """The table with the columns ``reward``, those of its terms, ``diversity`` (of a prompt's images), and, on the
    micro-world, the judge that is never trained on: ``right`` and ``oracle_log_prob``."""
    scores = reward(pictures, images.prompt.tolist())
    images = images.assign(reward=scores.reward, **scores.terms)
    if images.prompt.duplicated(keep=False).all():
        images = images.assign(diversity=diversity(scores.embedding, images.prompt.tolist()))
    if reward.clip.name != MICRO_CLIP:  # pictures of another world
        return images
    right, log_prob = judge_pictures(pictures, images.prompt.tolist())
    return images.assign(right=right.numpy().astype(int), oracle_log_prob=log_prob.numpy())


def tile(rows: list[list[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """One picture of pictures: a row per list, white margins between."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + MARGIN), columns * (width + MARGIN), 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + MARGIN), x * (width + MARGIN)
            sheet[top:top + height, left:left + width] = picture
    return sheet


def write_grid(file: Path, images: pd.DataFrame, pictures: NDArray[np.uint8], text: str) -> None:
    """A PNG with a row per prompt, the first prompts of each split with all their images, and ``text`` in it."""
    rows: list[list[Any]] = []
    for _, split in images.groupby("split", sort=False):
        for prompt in list(dict.fromkeys(split.prompt_id))[:SHOWN]:
            rows.append([pictures[image] for image in split.image[split.prompt_id == prompt]])
    file.write_bytes(png(tile(rows), text))
