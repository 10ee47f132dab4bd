"""Numbers for people: every round against the base model on the same seeds, with 95 % intervals (`intervals.py`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import MissingStage, StoreError
from ..params.rounds import INIT, in_order
from ..store import read_stage
from ..store.atomic import write_text
from ..store.hints import how_to_mend
from ..store.json_files import read_json
from ..store.paths import RESULTS, round_result, training_result
from .intervals import OTHER, THESE, Estimate, of_other_prompts, of_these_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..params import Params

MEASURES = {"reward": "CLIPScore", "right": "oracle accuracy"}  # in every table
WATCHED = {**MEASURES, "diversity": "diversity of a prompt's images"}  # also in the metrics and curves
SPLITS = {"train": "training prompts", "test": "unseen prompts"}
NUMBERS = ("mean", "low", "high", "gain", "gain_low", "gain_high")  # of each measure
# What the intervals of one run's table say, for the sentence under it
QUESTION = (f"95 % intervals. Training prompts: would {THESE} gain as much (stratified by prompt)? Unseen prompts: "
            f"would {OTHER} (prompts are the unit, t)? Another training may differ from this one.")


def interval(split: str, values: NDArray[np.float64], prompts: Sequence[str]) -> Estimate:
    """Mean over prompts of the images' values (image,), with the interval that answers QUESTION for its split.

    A single image a prompt says nothing of other images: then prompts are the unit in both splits.
    """
    repeated = len(set(prompts)) * 2 <= len(prompts)
    return (of_these_prompts if split == "train" and repeated else of_other_prompts)(values, prompts)


def compare(images: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    """Per split and measure: mean, and gain over the base image of the same prompt and seed, with intervals.

    Raises StoreError where the two tables are not of the same images and measures.
    """
    same = ["split", "prompt", "seed"]
    needed = {*same, *WATCHED} & {*images}
    if not {*same} <= needed <= {*base} or images[same].to_dict() != base[same].to_dict():
        raise StoreError("evaluate: images.csv of this round and of the base model are not of the same images.",
                         "Run 'dvc repro evaluate_base', then the evaluation of this round again.")
    result: dict[str, Any] = {}
    for split in SPLITS:
        ours, theirs = images[images.split == split], base[base.split == split]
        if not len(ours):
            continue
        result[split] = {}
        for measure in WATCHED:
            if measure in images:
                values = ours[measure].to_numpy(float)
                paired = values - theirs[measure].to_numpy(float)
                of = ours.prompt.tolist()
                result[split][measure] = (_named("", interval(split, values, of))
                                          | _named("gain", interval(split, paired, of)))
    return result


def _named(prefix: str, found: Estimate) -> dict[str, float | None]:
    """Bounds that are not known (a single unit) are null."""
    names = (prefix or "mean", f"{prefix}_low".lstrip("_"), f"{prefix}_high".lstrip("_"))
    return {name: round(value, 6) if math.isfinite(value) else None
            for name, value in zip(names, (found.mean, found.low, found.high), strict=True)}


def write_round_result(file: Path, round: str, images: pd.DataFrame, base: pd.DataFrame) -> None:
    """Write one round's numbers for ``dvc metrics``."""
    write_text(file, json.dumps(compare(images, base), indent=2) + "\n")


def read_round_result(round: str) -> dict[str, Any]:
    """What ``write_round_result`` wrote. Raises MissingStage naming the command that makes it."""
    file = round_result(round)
    found = _read(file, round, "evaluate_base" if round == INIT else f"evaluate@{round}")
    parts = found.values()
    if not found or not all(isinstance(part, dict) and all(map(_is_measured, part.values())) for part in parts):
        raise StoreError(f"summary: {file} does not hold the numbers of a round.", how_to_mend(file))
    return found


def _is_measured(value: Any) -> bool:
    """Whether these are mean, gain and intervals of one measure."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name, ""), int | float | (None if name.endswith(("low", "high")) else int))
        for name in NUMBERS)


def write_training_result(round: str) -> None:
    """Write how many images a round sampled and what its optimizer steps were, for a node without its arrays."""
    steps = read_stage("train", round).table("updates").to_dict("records")
    found = {"images": read_stage("sample", round).count, "updates": steps}
    write_text(training_result(round), json.dumps(found, indent=2) + "\n")


def read_training_result(round: str) -> dict[str, Any]:
    """What ``write_training_result`` wrote. Raises MissingStage naming the command that makes it."""
    file = training_result(round)
    found = _read(file, round, f"train@{round}", "images", "updates")
    steps = found["updates"]
    if type(found["images"]) is not int or not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        raise StoreError(f"summary: {file} does not hold the optimizer steps of a round.", how_to_mend(file))
    return found


def _read(file: Path, round: str, stage: str, *keys: str) -> dict[str, Any]:
    if not file.exists():
        raise MissingStage(f"summary: the result of {round} is not there: no {file}.",
                           f"Make it with 'dvc repro -s {stage}'.")
    return read_json(file, *keys)


def summarise(params: Params) -> None:
    """Gather the rounds into results/: metrics.json (the last round), alignment.csv, updates.csv; print the table."""
    rounds = [INIT, *in_order(params)]
    found = {name: read_round_result(name) for name in rounds}
    write_text(RESULTS / "metrics.json", json.dumps({"round": rounds[-1], **found[rounds[-1]]}, indent=2) + "\n")
    write_text(RESULTS / "alignment.csv", alignment(found, images_per_round(rounds)).to_csv(index=False))
    write_text(RESULTS / "updates.csv", updates(rounds[1:]).to_csv(index=False))
    print_table(found)


def images_per_round(rounds: list[str]) -> int:
    """Images sampled in a round, from the first one."""
    return int(read_training_result(rounds[1])["images"]) if len(rounds) > 1 else 0


def alignment(found: dict[str, Any], per_round: int) -> pd.DataFrame:
    """Figure 5 of the paper as a table: alignment against images seen, one row a round.

    Columns: round, images, then ``train_reward``, ``train_reward_low`` and so on per split, measure and number.
    """
    rows = []
    for seen, (name, splits) in enumerate(found.items()):
        row: dict[str, Any] = {"round": name, "images": seen * per_round}
        for split, measures in splits.items():
            for measure, numbers in measures.items():
                row |= {f"{split}_{measure}" + ("" if k == "mean" else f"_{k}"): v for k, v in numbers.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def updates(rounds: list[str]) -> pd.DataFrame:
    """Every optimizer step of the run, numbered through."""
    parts = [pd.DataFrame(read_training_result(name)["updates"]).assign(round=name) for name in rounds]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.assign(update=range(1, len(table) + 1))


def table_cells(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of the table of rounds, the base first; lines of a cell are separated by a newline."""
    shown = [(s, m) for s in SPLITS for m in MEASURES if m in found[INIT].get(s, {})]
    columns = ["round", *(f"{MEASURES[measure]}\n{SPLITS[split]}" for split, measure in shown)]
    rows = [["base" if name == INIT else name, *(_cell(splits.get(s, {}).get(m), name) for s, m in shown)]
            for name, splits in found.items()]
    return columns, rows


def print_table(found: dict[str, Any]) -> None:
    """The table at the end of ``dvc repro``: base against each round."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Base model against each round, same seeds")
    columns, rows = table_cells(found)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    console.print(QUESTION)


def _cell(numbers: dict[str, float] | None, name: str) -> str:
    if numbers is None:
        return ""
    if name == INIT:
        return f"{numbers['mean']:.4f}\n{_bounds(numbers['low'], numbers['high'], '.4f')}"
    return f"{numbers['mean']:.4f}\n{numbers['gain']:+.4f} {_bounds(numbers['gain_low'], numbers['gain_high'], '+.4f')}"


def _bounds(low: float | None, high: float | None, form: str) -> str:
    return "[one prompt: no interval]" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"
