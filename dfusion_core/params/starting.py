"""Sections of params.yaml that no result depends on: how stages are started and tracked. The entries of rounds."""

import shlex
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from .fields import Section, ours


class Launcher(Section):
    """The command that starts each stage. $NAME is replaced by the environment variable; no shell is involved."""

    init: str = ours("python", "command before -m stages.init")
    sample: str = ours("python", "command before -m stages.sample")
    score: str = ours("python", "command before -m stages.score")
    extract: str = ours("python", "command before -m stages.extract")
    fuse: str = ours("python", "command before -m stages.fuse")
    adopt: str = ours("python", "command before -m stages.adopt")
    train: str = ours("python", "command before -m stages.train")
    evaluate: str = ours("python", "command before -m stages.evaluate, also for the base model")
    summary: str = ours("python", "command before -m stages.summary")

    @field_validator("*")
    @classmethod
    def _is_a_command(cls, value: str) -> str:
        try:
            words = shlex.split(value)
        except ValueError:  # a quotation mark without its pair
            words = []
        if not words:
            raise PydanticCustomError("no_command", "must be a command, as python or torchrun with its options")
        return value


class Tracking(Section):
    """Live curves of training (docs/tracking.md). No result depends on it."""

    to: Literal["none", "dvclive", "tensorboard", "wandb"] = ours(
        "none", "no curves, or curves for dvclive, TensorBoard or Weights & Biases, in the folder live"
    )


class Round(Section):
    """One online round."""

    prev: str = Field(description="the round from whose adapter this one starts, or init")
