"""Settings of pretraining: params.yaml of this folder, or the file in DFUSION_PRETRAIN."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...params.strict_yaml import read_yaml
from ..composition import COMPOSITIONS, Composition

HERE = Path(__file__).parent
UNLIMITED = 10**9


@dataclass(frozen=True)
class Settings:
    """``wrong_captions`` (by template) and ``transfer_share`` are probabilities, ``flow_true_share`` is of the steps;
    paths are relative to this folder.

    ``most_steps`` limits the steps of every part, to test the code.
    """

    composition: str
    wrong_captions: dict[str, float]
    transfer_share: float
    words_steps: int
    unet_steps: int
    flow_steps: int
    flow_true_share: float
    weights: str
    flow_weights: str
    build: str
    device: str
    most_steps: int = UNLIMITED

    @property
    def how(self) -> Composition:
        """The ranges of what captions leave open."""
        if self.composition not in COMPOSITIONS:
            raise ValueError(f"composition: '{self.composition}' is none of {', '.join(COMPOSITIONS)}")
        return COMPOSITIONS[self.composition]

    @property
    def weights_folder(self) -> Path:
        """The folder of the weights."""
        return (HERE / self.weights).resolve()

    @property
    def flow_weights_folder(self) -> Path:
        """The folder of the transformer, with copies of the parts that it shares with the U-Net."""
        return (HERE / self.flow_weights).resolve()

    @property
    def build_folder(self) -> Path:
        """The folder of intermediate data."""
        return (HERE / self.build).resolve()

    @property
    def on(self) -> torch.device:
        """The device of the training."""
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(name)


@cache
def settings() -> Settings:
    """The settings of this process. Raises TypeError for an unknown key."""
    file = Path(os.environ.get("DFUSION_PRETRAIN", HERE / "params.yaml"))
    return Settings(**read_yaml(file))
