"""Seconds to load the model and the reward of params.yaml in the current folder, their imports done before."""

from __future__ import annotations

import json
import time

import diffusers
import open_clip
import peft
from diffusers import StableDiffusionPipeline

from dfusion_core.models.device import pick_device
from dfusion_core.models.policy import load_policy
from dfusion_core.params import load_params
from dfusion_core.rewards.scoring import load_reward

IMPORTED = (diffusers, open_clip, peft, StableDiffusionPipeline)


def main() -> None:
    """Print {"model": seconds, "reward": seconds}."""
    params = load_params("model", "sample", "reward")
    start = time.perf_counter()
    load_policy(params.model, params.sample, None)
    middle = time.perf_counter()
    load_reward(params.reward, pick_device("auto"))
    print("\n" + json.dumps({"model": middle - start, "reward": time.perf_counter() - middle}))


if __name__ == "__main__":
    main()
