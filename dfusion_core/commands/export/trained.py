"""A finished round for an export, from its published outputs and not from the present params.yaml."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import MissingStage
from ...evaluation.results import Results, read_results
from ...models.lora import FILE
from ...params import Model, Params, Sample, load_params
from ...params.rounds import INIT, in_order, previous
from ...store.json_files import read_json
from ...store.manifest import MANIFEST
from ...store.paths import output
from ...store.reading import StageData, read_stage
from ..manifests import declared

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class Picture(NamedTuple):
    """One image of the evaluation: pixels (y, x, rgb) of its prompt, which is of "train" or "test"."""

    split: str
    prompt: str
    seed: int
    pixels: NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A finished round. ``params`` are the sections that its stages declared, ``rounds`` the way from the base model
    to it, ``results`` those of the base and of this round, ``history`` one row for each image that was scored."""

    round: str
    rounds: tuple[str, ...]
    params: dict[str, Any]
    pin: dict[str, Any]
    adapter: Path
    results: Results
    history: pd.DataFrame
    updates: int
    evaluation: StageData

    @property
    def model(self) -> Model:
        """The parameters of the base model."""
        return Model.model_validate_json(json.dumps(self.params["model"]))

    @property
    def sample(self) -> Sample:
        """The parameters of sampling."""
        return Sample.model_validate_json(json.dumps(self.params["sample"]))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its pictures."""
        height, width = self.evaluation.array("picture").shape[1:3]
        return int(width), int(height)

    def prompts(self, split: str) -> list[str]:
        """The training prompts ("train"), or the test prompts of the evaluation ("test")."""
        if split == "train":
            return [str(prompt) for prompt in dict.fromkeys(self.history.prompt)]
        images = self.evaluation.table("images")
        return [str(prompt) for prompt in dict.fromkeys(images.prompt[images.split == split])]

    def pictures(self, each: int) -> list[Picture]:
        """The first picture of the first ``each`` prompts of each split."""
        images = self.evaluation.table("images")
        some = images[images["sample"] == 0].groupby("split", sort=False).head(each)
        found = self.evaluation.rows("picture", some.image)
        return [Picture(*row) for row in zip(some.split, some.prompt, some.seed.map(int), found, strict=True)]


def read_trained(round: str) -> Trained:
    """Everything about ROUND, or about the last finished round if ``round`` is empty. Raises MissingStage."""
    params = load_params("rounds")
    round = round or last_finished(params)
    rounds = [round]
    while (before := previous(params, rounds[0])) != INIT:
        rounds.insert(0, before)
    trained, evaluation = read_stage("train", round), read_stage("evaluate", round)
    return Trained(
        round=round,
        rounds=tuple(rounds),
        params=declared(round),
        evaluation=evaluation,
        adapter=trained.path(f"adapter/{FILE}").parent,
        pin=read_json(read_stage("init", INIT).path("pin.json"), "revision", "files"),
        results=read_results([round]),
        history=trained.table("reward_history"),
        updates=sum(len(read_stage("train", name).table("updates")) for name in rounds),
    )


def last_finished(params: Params) -> str:
    """The last round that was evaluated. Raises MissingStage if there is none."""
    finished = [name for name in in_order(params) if (output("evaluate", name) / MANIFEST).is_file()]
    if not finished:
        raise MissingStage("export: no round is finished: there is no runs/ROUND/evaluate.", "Run 'dvc repro'.")
    return finished[-1]
