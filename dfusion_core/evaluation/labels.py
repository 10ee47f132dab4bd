"""Labels of measures and splits in tables, figures and pages.

The reward of the run is labelled "reward", CLIPScore and plug-ins have their own names. If the reward is CLIPScore
alone, one column stands for both.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..rewards.identity import Identity, clip_name, is_clip_alone
from .measures import CLIP, DIVERSITY, REWARD, RIGHT, TEST, TRAIN

LABELS = {REWARD: "reward", CLIP: "CLIPScore", RIGHT: "oracle accuracy", DIVERSITY: "diversity"}
SPLITS = {TRAIN: "training prompts", TEST: "unseen prompts"}


def label(measure: str) -> str:
    """Label of a measure if the reward is not known, as in tables of several runs."""
    return LABELS.get(measure, measure)


def shown(names: Iterable[str], reward: Identity) -> dict[str, str]:
    """The measures of a table about one reward, with their labels."""
    if is_clip_alone(reward):
        labels = {name: label(name) for name in names if name != CLIP}
        return labels | {REWARD: f"reward (CLIPScore {clip_name(reward)})"}
    return {name: f"CLIPScore {clip_name(reward)}" if name == CLIP else label(name) for name in names}
