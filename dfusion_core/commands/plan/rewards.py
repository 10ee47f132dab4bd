"""What a score with the reward's CLIP costs: known for the models of the profiles, else counted on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import RewardError, did_you_mean
from ...models.builtin import MICRO_CLIP, reward_source
from .counting import forward_costs

if TYPE_CHECKING:
    from ...models.architectures import Config

META = torch.device("meta")


@dataclass(frozen=True)
class RewardCosts:
    """Weights; FLOPs and bytes alive at once of one picture's embedding; numbers of the embedding."""

    parameters: int
    flops: int
    working: int
    features: int


# Counted by `count_reward`: to import open_clip takes more time than the rest of a plan's counting.
KNOWN = {
    MICRO_CLIP: RewardCosts(parameters=1_621_113, flops=36_931_584, working=213_504, features=128),
    "ViT-H-14": RewardCosts(parameters=986_109_441, flops=334_590_279_680, working=17_665_152, features=1024),
}


def reward_costs(name: str) -> RewardCosts:
    """The costs of ``reward.model``. Raises RewardError for a name that open_clip does not know."""
    return KNOWN.get(name) or count_reward(name)


def count_reward(name: str) -> RewardCosts:
    """The same, counted."""
    clip, size, features = build_reward(name)
    flops, working = forward_costs(reward_call(clip, size), clip.parameters())
    return RewardCosts(sum(p.numel() for p in clip.parameters()), flops, working, features)


def build_reward(name: str) -> tuple[Any, int, int]:
    """The reward's CLIP without data, the height of its pictures, and the width of its embeddings.

    Raises RewardError for a name that open_clip does not know.
    """
    import open_clip

    config = _reward_config(reward_source(name))
    custom = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    with META:
        network = kind(**arguments)
    size = config["vision_cfg"].get("image_size", 224)
    return network.eval().requires_grad_(False), max(size) if isinstance(size, list) else size, config["embed_dim"]


def _reward_config(source: str) -> Config:
    import open_clip

    if source.startswith("local-dir:"):
        file = Path(source.removeprefix("local-dir:"), "open_clip_config.json")
        try:
            config: Config = json.loads(file.read_text())["model_cfg"]
            return config
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RewardError(f"plan: reward.model: {file} cannot be read: {error}.", "Set reward.model.") from error
    found: Config | None = open_clip.get_model_config(source)
    if found is None:
        raise RewardError(
            f"plan: reward.model: open_clip knows no architecture '{source}'.",
            did_you_mean(source, open_clip.list_models()) or "Set reward.model.",
        )
    return found


def reward_call(clip: Any, size: int) -> Callable[[], Tensor]:
    """The embedding of one picture."""
    picture = torch.zeros(1, 3, size, size, device=META)

    def embed() -> Tensor:
        out: Tensor = clip.encode_image(picture)
        return out

    return embed
