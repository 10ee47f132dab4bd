"""What is measured on evaluation images, and what it is called.

``reward`` is what training raises, ``clip`` the CLIPScore (raw cosine) of the reward's CLIP model; each plug-in of the
reward is a measure under its own name. ``right`` is the micro-world's classifier, which is no reward.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from ..rewards.identity import Identity, clip_name, is_clip_alone

REWARD, CLIP, RIGHT, DIVERSITY = "reward", "clip", "right", "diversity"
LABELS = {REWARD: "reward", CLIP: "CLIPScore", RIGHT: "oracle accuracy", DIVERSITY: "diversity of a prompt's images"}
SPLITS = {"train": "training prompts", "test": "unseen prompts"}
# Columns of images.csv that measure nothing, or that are shown in no table
OTHER_COLUMNS = ("image", "split", "prompt_id", "prompt", "sample", "seed", "oracle_log_prob")


def measures(columns: Iterable[Hashable]) -> list[str]:
    """The measures among the columns of images.csv, in their order there."""
    return [name for name in map(str, columns) if name not in OTHER_COLUMNS]


def shown(names: Iterable[str], reward: Identity | None = None) -> dict[str, str]:
    """The measures that a table shows, with their labels: without ``clip`` where it is the reward itself."""
    alone = reward is not None and is_clip_alone(reward)
    labels = {name: label(name) for name in names if not (alone and name == CLIP)}
    if reward is not None and REWARD in labels and alone:
        labels[REWARD] = f"reward (CLIPScore {clip_name(reward)})"
    if reward is not None and CLIP in labels:
        labels[CLIP] = f"CLIPScore {clip_name(reward)}"
    return labels


def label(measure: str) -> str:
    """What a measure is called where the reward is not known, as in tables of several runs."""
    return LABELS.get(measure, measure)
