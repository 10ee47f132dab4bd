"""What measures and splits are called in tables, figures and pages.

What training raises is the "reward" everywhere. CLIPScore and plug-ins stand beside it under their own names, but for
a reward that is CLIPScore and nothing else: there one column says both.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..rewards.identity import Identity, clip_name, is_clip_alone
from .measures import CLIP, DIVERSITY, REWARD, RIGHT, TEST, TRAIN

LABELS = {REWARD: "reward", CLIP: "CLIPScore", RIGHT: "oracle accuracy", DIVERSITY: "diversity"}
SPLITS = {TRAIN: "training prompts", TEST: "unseen prompts"}


def label(measure: str) -> str:
    """What a measure is called where the reward is not known, as in tables of several runs."""
    return LABELS.get(measure, measure)


def shown(names: Iterable[str], reward: Identity) -> dict[str, str]:
    """The measures that a table about one reward shows, with their labels."""
    if is_clip_alone(reward):
        labels = {name: label(name) for name in names if name != CLIP}
        return labels | {REWARD: f"reward (CLIPScore {clip_name(reward)})"}
    return {name: f"CLIPScore {clip_name(reward)}" if name == CLIP else label(name) for name in names}
