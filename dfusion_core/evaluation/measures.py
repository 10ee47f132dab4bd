"""What is measured on evaluation images.

``reward`` is what training raises, ``clip`` the CLIPScore (raw cosine) of the reward's CLIP model; each plug-in of the
reward is a measure under its own name. ``right`` is the micro-world's classifier, which is no reward; ``diversity`` is
that of a prompt's images.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

REWARD, CLIP, RIGHT, DIVERSITY = "reward", "clip", "right", "diversity"
TRAIN, TEST = "train", "test"  # the prompts that are trained on, and those that are not
# Columns of images.csv that measure nothing, or that are shown in no table
OTHER_COLUMNS = ("image", "split", "prompt_id", "prompt", "sample", "seed", "oracle_log_prob")


def measures(columns: Iterable[Hashable]) -> list[str]:
    """The measures among the columns of images.csv, in their order there but for diversity, which comes last."""
    return sorted((name for name in map(str, columns) if name not in OTHER_COLUMNS), key=lambda name: name == DIVERSITY)
