"""The sections of params.yaml that say how stages are started and which rounds there are: no result depends on them."""

import shlex
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from .fields import Section, ours


class Launcher(Section):
    """How each stage is started. $NAME stands for the variable of the environment; no shell is involved."""

    init: str = ours("python", "what stands before -m stages.init")
    sample: str = ours("python", "what stands before -m stages.sample")
    score: str = ours("python", "what stands before -m stages.score")
    extract: str = ours("python", "what stands before -m stages.extract")
    fuse: str = ours("python", "what stands before -m stages.fuse")
    adopt: str = ours("python", "what stands before -m stages.adopt")
    train: str = ours("python", "what stands before -m stages.train")
    evaluate: str = ours("python", "what stands before -m stages.evaluate, also of the base model")
    summary: str = ours("python", "what stands before -m stages.summary")

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
    """Where training shows its curves while it runs (docs/tracking.md). No result depends on it."""

    to: Literal["none", "dvclive", "tensorboard", "wandb"] = ours(
        "none", "nowhere, files of dvclive, TensorBoard or Weights & Biases, in the folder live"
    )


class Round(Section):
    """One online round."""

    prev: str = Field(description="the round whose adapter this one starts from, or init")
