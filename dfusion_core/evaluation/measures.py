"""Measures of evaluation images.

``reward`` is the reward of the run, ``clip`` the CLIPScore (raw cosine) of its CLIP model; each plug-in
is a measure under its own name. ``right`` is by the micro-world's oracle, which is not a reward; ``diversity`` is
that of a prompt's images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

REWARD, CLIP, RIGHT, DIVERSITY = "reward", "clip", "right", "diversity"
TRAIN, TEST = "train", "test"  # training prompts, test prompts
# Columns of images.csv that are not measures, or not shown in tables
OTHER_COLUMNS = ("image", "split", "prompt_id", "prompt", "sample", "seed", "oracle_log_prob")


def measures(columns: Iterable[Hashable]) -> list[str]:
    """The measures among the columns of images.csv in their order, diversity last."""
    return sorted((name for name in map(str, columns) if name not in OTHER_COLUMNS), key=lambda name: name == DIVERSITY)
