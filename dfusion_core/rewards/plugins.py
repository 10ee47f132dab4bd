"""Reward plug-ins: a class, named by an entry point or by a dotted path.

class Brightness:
    def __init__(self, device): ...
    def __call__(self, pictures, prompts):          # (n, 3, height, width) uint8 on the device, n texts
        return pictures.float().mean(dim=(1, 2, 3)) / 255     # (n,), higher is better
    def identity(self):
        return "brightness 1"                       # what the scores depend on: a version, a hash of weights

reward: {plugins: {"my_rewards:Brightness": 0.5}}   # in params.yaml, with its weight in the sum
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import RewardError, did_you_mean, one_line, short
from ..models.builtin import local_path, reward_source
from .folder import CONFIG, folder_files
from .modules import module_files

if TYPE_CHECKING:
    import torch

    from ..params import Reward

GROUP = "dfusion.rewards"  # entry points of installed packages: name = "module:Class"


class Plugin(Protocol):
    """The interface of a reward plug-in. It is constructed once per stage with the device to use."""

    def __call__(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """pictures: (n, 3, height, width) uint8; prompts: n texts. Returns (n,) finite numbers, higher is better."""
        ...

    def identity(self) -> str:
        """A version or a hash of weights that identifies the scores; stored beside every table of scores."""
        ...


def load_plugin(name: str, device: torch.device) -> Plugin:
    """The reward of that name, ready to use. Raises RewardError."""
    entry = _entry(name)
    try:
        plugin = cast("Plugin", getattr(importlib.import_module(entry.module), entry.attr)(device))
    except Exception as error:  # a user's code may raise anything
        raise RewardError(
            f"reward.plugins: '{name}' cannot be made: {type(error).__name__}: {one_line(error)}.",
            "See docs/rewards.md for what a plug-in looks like.",
        ) from error
    for needed in ("__call__", "identity"):
        if not callable(getattr(plugin, needed, None)):
            raise RewardError(
                f"reward.plugins: '{name}' has no method {needed}().",
                "Write it as docs/rewards.md shows: identity() tells what the scores depend on.",
            )
    _check_identity(name, plugin)
    return plugin


def _check_identity(name: str, plugin: Plugin) -> None:
    """Raise RewardError before scoring if the identity cannot be written to JSON."""
    try:
        json.dumps(plugin.identity(), allow_nan=False)
    except Exception as error:  # a user's code may raise anything
        raise RewardError(
            f"reward.plugins: identity() of '{name}' gives no text: {type(error).__name__}: {one_line(error)}.",
            "Return a text that tells what the scores depend on.",
        ) from error


def reward_inputs(reward: Reward) -> dict[str, Path | list[Path]]:
    """Inputs of the stages that score: the files of a local reward model that are read, the file of
    ``reward.pretrained``, and each plug-in's module with the modules beside it that it imports.

    Raises RewardError for a plug-in that does not exist.
    """
    folder = Path(reward_source(reward.model).removeprefix("local-dir:"))
    found: dict[str, Path | list[Path]] = {}
    if (folder / CONFIG).is_file():
        found["reward"] = list(folder_files(folder).values())
    elif reward.pretrained and local_path(reward.pretrained).is_file():
        found["reward weights"] = local_path(reward.pretrained)
    return found | {f"reward plug-in {name}": _plugin_files(name) for name in reward.plugins}


def _plugin_files(name: str) -> list[Path]:
    module = _entry(name).module
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise RewardError(
            f"reward.plugins: '{name}': there is no module '{module}'.",
            "A dotted path is module:Class, looked for in the current folder and among installed packages.",
        )
    return module_files(module, Path(spec.origin))


def state_hash(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of the names and bytes of a model's tensors, independent of the file format."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _entry(name: str) -> EntryPoint:
    """The entry point of that name, or one made of a dotted path."""
    if ":" in name:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
            raise RewardError(
                f"reward.plugins: {short(repr(name))} is not of the form module:Class.",
                "Name a class of your own, or a reward that an installed package offers.",
            )
        if os.getcwd() not in sys.path:  # a console script does not look into the current folder
            sys.path.append(os.getcwd())
        return EntryPoint(name, name, GROUP)
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise RewardError(
            f"reward.plugins: no installed package offers a reward '{name}'.",
            did_you_mean(name, installed) or "Name one of your own as module:Class.",
        )
    return installed[name]
