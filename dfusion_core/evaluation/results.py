"""A round's numbers: means over evaluation images, and gains over the base model on the same seeds, with 95 %
intervals (results/rounds/ROUND.json), and its optimizer steps (results/training/ROUND.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import MissingStage, StoreError
from ..params.rounds import INIT
from ..rewards.identity import KEYS, Identity, check_identity, read_identity, require_same_reward
from ..store import read_stage
from ..store.atomic import write_text
from ..store.hints import dvc_stage, how_to_mend
from ..store.json_files import read_json
from ..store.paths import round_result, training_result
from .intervals import OTHER, THESE, Estimate, of_other_prompts, of_these_prompts
from .measures import REWARD, TEST, TRAIN, measures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..store import StageData

SAME = ["split", "prompt", "seed"]  # columns that identify an evaluation image
NUMBERS = ("mean", "low", "high", "gain", "gain_low", "gain_high")  # of each measure
# What the intervals of one run's table say, for the sentence under it
QUESTION = (
    f"95 % intervals. Training prompts: would {THESE} gain as much (stratified by prompt)? Unseen prompts: "
    f"would {OTHER} (prompts are the unit, t)? Another training may differ from this one."
)
Numbers = dict[str, float | None]
Splits = dict[str, dict[str, Numbers]]  # by split and measure


@dataclass(frozen=True)
class Results:
    """Numbers of rounds (by name, the base first), scored by the same reward."""

    reward: Identity
    rounds: dict[str, Splits]

    @property
    def measures(self) -> list[str]:
        """The measures of the base model's images."""
        return list(dict.fromkeys(name for split in self.rounds[INIT].values() for name in split))


def interval(split: str, values: NDArray[np.float64], prompts: Sequence[str]) -> Estimate:
    """Mean over prompts of the images' values (image,), with the interval of QUESTION for its split.

    With a single image per prompt, prompts are the units in both splits.
    """
    repeated = len(set(prompts)) * 2 <= len(prompts)
    return (of_these_prompts if split == TRAIN and repeated else of_other_prompts)(values, prompts)


def same_images(images: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables of evaluation images are of the same prompts and seeds, row by row."""
    tables = [table[SAME].to_dict() for table in (images, other) if {*SAME} <= {*table}]
    return len(tables) == 2 and tables[0] == tables[1]


def compare(images: pd.DataFrame, base: pd.DataFrame) -> Splits:
    """Per split and measure: mean, and gain over the base image of the same prompt and seed, with intervals.

    Raises StoreError if the two tables do not have the same images and measures.
    """
    measured = measures(images)
    if not same_images(images, base) or not {*measured} <= {*base}:
        raise StoreError(
            "evaluate: images.csv of this round and of the base model are not of the same images.",
            "Run 'dvc repro evaluate_base', then the evaluation of this round again.",
        )
    result: Splits = {}
    for split in (TRAIN, TEST):
        ours, theirs = images[images.split == split], base[base.split == split]
        if len(ours):
            prompts = ours.prompt.tolist()
            result[split] = {
                name: _numbers(split, prompts, ours[name].to_numpy(float), theirs[name].to_numpy(float))
                for name in measured
            }
    return result


def _numbers(split: str, prompts: Sequence[str], values: NDArray[np.float64], base: NDArray[np.float64]) -> Numbers:
    """The NUMBERS of one measure, values and the base's (image,); unknown bounds are null."""
    mean, gain = (interval(split, one, prompts) for one in (values, values - base))
    found = (mean.mean, mean.low, mean.high, gain.mean, gain.low, gain.high)
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in zip(NUMBERS, found, strict=True)}


def write_round_result(round: str, evaluated: StageData, base: StageData) -> None:
    """Write one round's numbers and the reward that they come from. Raises RewardError for two rewards."""
    reward = require_same_reward(
        {dvc_stage(INIT, "evaluate"): read_identity(base), dvc_stage(round, "evaluate"): read_identity(evaluated)}
    )
    found = {"reward": reward, **compare(evaluated.table("images"), base.table("images"))}
    write_text(round_result(round), json.dumps(found, indent=2) + "\n")


def read_results(rounds: Iterable[str]) -> Results:
    """The numbers of the base model and of these rounds.

    Raises MissingStage naming the command that makes a missing file, RewardError if rounds were scored by
    different rewards.
    """
    found = {name: _read_round(name) for name in (INIT, *rounds)}
    reward = require_same_reward({dvc_stage(name, "evaluate"): parts["reward"] for name, parts in found.items()})
    return Results(
        reward, {name: {key: part for key, part in parts.items() if key != "reward"} for name, parts in found.items()}
    )


def _read_round(round: str) -> dict[str, Any]:
    file = round_result(round)
    found = _read(file, round, dvc_stage(round, "evaluate"), *(f"reward.{key}" for key in KEYS))
    check_identity(found["reward"], file)
    splits = [part for name, part in found.items() if name != "reward"]
    if not splits or not all(
        isinstance(part, dict) and REWARD in part and all(map(_is_measured, part.values())) for part in splits
    ):
        raise StoreError(f"summary: {file} does not hold the numbers of a round.", how_to_mend(file))
    return found


def _is_measured(value: Any) -> bool:
    """Whether these are mean, gain and intervals of one measure."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name, ""), int | float | (None if name.endswith(("low", "high")) else int))
        for name in NUMBERS
    )


def write_training_result(round: str) -> None:
    """Write the number of sampled images of a round and its optimizer steps."""
    steps = read_stage("train", round).table("updates").to_dict("records")
    found = {"images": read_stage("sample", round).count, "updates": steps}
    write_text(training_result(round), json.dumps(found, indent=2) + "\n")


def read_training_result(round: str) -> dict[str, Any]:
    """The content of the file of ``write_training_result``. Raises MissingStage naming the command that makes it."""
    file = training_result(round)
    found = _read(file, round, f"train@{round}", "images", "updates")
    steps = found["updates"]
    if type(found["images"]) is not int or not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        raise StoreError(f"summary: {file} does not hold the optimizer steps of a round.", how_to_mend(file))
    return found


def _read(file: Path, round: str, stage: str, *keys: str) -> dict[str, Any]:
    if not file.exists():
        raise MissingStage(
            f"summary: the result of {round} is not there: no {file}.", f"Make it with 'dvc repro -s {stage}'."
        )
    return read_json(file, *keys)
