"""The names of the built-in micro-world in params.yaml, resolved.

No other module outside ``microworld`` depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..microworld.locate import CLIP
from ..microworld.locate import FLOW_WEIGHTS as FLOW_WEIGHTS
from ..microworld.locate import WEIGHTS as WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

MICROWORLD, MICROWORLD_FLOW, MICRO_CLIP = "micro-world", "micro-world-flow", "micro-clip"
JUDGED = (64, 64)  # height and width of the pictures that the oracle reads
BUILT_IN = {MICROWORLD: WEIGHTS, MICROWORLD_FLOW: FLOW_WEIGHTS}
MODEL_INDEX = "model_index.json"  # in every folder in diffusers format


def local_path(name: str) -> Path:
    """A path of params.yaml: ``~`` is the home folder; a relative path is relative to the current folder, or if it does
    not exist there, to the project's root: `dvc exp run --temp` and queues work in a copy without what git ignores.
    """
    path = Path(name).expanduser()
    root = os.environ.get("DVC_ROOT")
    if root and not path.is_absolute() and not path.exists() and Path(root, path).exists():
        return Path(root, path)
    return path


def model_source(model_id: str) -> str:
    """The id to load: the folder of a built-in model, an existing path, else the id itself."""
    if model_id in BUILT_IN:
        return str(BUILT_IN[model_id])
    path = local_path(model_id)
    return str(path) if path.exists() else model_id


def model_name(model_id: str) -> str:
    """The name of a model without local paths: an id of the Hub, or the last part of a path."""
    path = local_path(model_id)
    return path.name if path.exists() or path.is_absolute() else model_id


def reward_source(name: str) -> str:
    """The name for open_clip: the built-in model's folder for "micro-clip", else the name itself."""
    if name == MICRO_CLIP:
        return f"local-dir:{CLIP}"
    if name.startswith("local-dir:"):
        return f"local-dir:{local_path(name.removeprefix('local-dir:'))}"
    return name


def judge_pictures(pictures: NDArray[np.uint8], prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each picture (n, row, column, rgb) of the micro-world shows its prompt, by the oracle.

    Returns bool (n,), and the log-probability of that (n,).
    """
    import torch

    from ..microworld.oracle import judge, load_oracle

    return judge(load_oracle(), torch.from_numpy(pictures).permute(0, 3, 1, 2), prompts)


def draw_prompt(prompt: str, seed: int = 0, size: int = 64) -> NDArray[np.uint8]:
    """A drawn picture (size, size, rgb) of a prompt of the micro-world."""
    import numpy as np

    from ..microworld.drawing import draw
    from ..microworld.scenes import scene_for_prompt

    drawn: NDArray[np.uint8] = draw(scene_for_prompt(prompt, np.random.default_rng(seed)), size)
    return drawn
