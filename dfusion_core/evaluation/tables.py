"""Tables of a run: base against each round, alignment against images seen, optimizer steps, metrics for DVC."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..params.rounds import INIT, in_order
from ..store.atomic import write_text
from ..store.paths import RESULTS
from .labels import SPLITS, shown
from .measures import CLIP, DIVERSITY, REWARD, RIGHT
from .results import QUESTION, Numbers, Results, read_results, read_training_result

if TYPE_CHECKING:
    from ..params import Params

WIDTH = 120  # characters, where the output is no terminal
DIGITS = 4  # of numbers in metrics.json


def summarise(params: Params) -> None:
    """Gather the rounds into results/: metrics.json (the last round), alignment.csv, updates.csv; print the tables."""
    rounds = in_order(params)
    found = read_results(rounds)
    write_text(RESULTS / "metrics.json", json.dumps(metrics(found), indent=2) + "\n")
    previous = {name: params.rounds[name].prev for name in rounds}
    seen = images_seen(previous)
    write_text(RESULTS / "alignment.csv", alignment(found, seen).to_csv(index=False))
    write_text(RESULTS / "updates.csv", updates(previous).to_csv(index=False))
    print_tables(found)


def metrics(found: Results) -> dict[str, Any]:
    """A selection of the last round's numbers, so that the tables of `dvc metrics` and `dvc exp show` fit
    a terminal: ``train`` and ``test`` are mean rewards, the others are of unseen prompts."""
    last, splits = list(found.rounds.items())[-1]
    flat: dict[str, Any] = {"round": last}
    for split, numbers in splits.items():
        flat |= {split: numbers[REWARD]["mean"], f"{split}_gain": numbers[REWARD]["gain"]}
    numbers = list(splits.values())[-1]
    second = RIGHT if RIGHT in numbers else CLIP
    names = [second if second in shown(numbers, found.reward) else "", DIVERSITY]
    flat |= {name: numbers[name]["mean"] for name in names if name in numbers}
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in flat.items()}


def images_seen(previous: dict[str, str]) -> dict[str, int]:
    """Number of images sampled from the base model to each round.

    previous: the round that each one starts from, in their order.
    """
    seen = {INIT: 0}
    for name, before in previous.items():
        seen[name] = seen[before] + int(read_training_result(name)["images"])
    return seen


def alignment(found: Results, seen: dict[str, int]) -> pd.DataFrame:
    """Figure 5 of the paper as a table: alignment against images seen, one row per round.

    Columns: round, images, then ``train_reward``, ``train_reward_low`` and so on per split, measure and number.
    """
    rows = []
    for name, splits in found.rounds.items():
        row: dict[str, Any] = {"round": name, "images": seen[name]}
        for split, measured in splits.items():
            for measure, numbers in measured.items():
                row |= {f"{split}_{measure}" + ("" if k == "mean" else f"_{k}"): v for k, v in numbers.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def updates(previous: dict[str, str]) -> pd.DataFrame:
    """The optimizer steps of the run; ``update`` counts from the base model along the rounds, as ``images_seen``."""
    parts = [pd.DataFrame(read_training_result(name)["updates"]).assign(round=name) for name in previous]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.assign(
        update=[
            number for part in numbered(previous, dict(zip(previous, map(len, parts), strict=True))) for number in part
        ]
    )


def numbered(previous: dict[str, str], counts: dict[str, int]) -> list[range]:
    """Numbers of each round's ``counts`` optimizer steps, continuing those of the previous round."""
    done = {INIT: 0}
    for name, before in previous.items():
        done[name] = done[before] + counts[name]
    return [range(done[name] - counts[name] + 1, done[name] + 1) for name in previous]


def table_cells(found: Results, split: str) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of a split's table of rounds, the base first; a newline separates lines of a cell."""
    labels = shown(found.rounds[INIT][split], found.reward)
    rows = [
        ["base" if name == INIT else name, *(cell(splits[split].get(measure), name == INIT) for measure in labels)]
        for name, splits in found.rounds.items()
        if split in splits
    ]
    return ["round", *labels.values()], rows


def print_tables(found: Results) -> None:
    """The tables at the end of ``dvc repro``: base against each round, training prompts and unseen ones."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else WIDTH)
    for split in found.rounds[INIT]:
        table = Table(title=f"Base model against each round, {SPLITS[split]}, same seeds")
        columns, rows = table_cells(found, split)
        for number, name in enumerate(columns):
            table.add_column(escape(name), justify="right" if number else "left")
        for row in rows:
            table.add_row(*map(escape, row))  # a "[one prompt: no interval]" is no markup
        console.print(table)
    console.print(QUESTION)


def cell(numbers: Numbers | None, first: bool) -> str:
    """The mean of a measure, and below it its interval for what the others are compared with, else the gain over it."""
    if numbers is None:
        return ""
    if first:
        return f"{numbers['mean']:.4f}\n{_bounds(numbers['low'], numbers['high'], '.4f')}"
    return f"{numbers['mean']:.4f}\n{numbers['gain']:+.4f} {_bounds(numbers['gain_low'], numbers['gain_high'], '+.4f')}"


def _bounds(low: float | None, high: float | None, form: str) -> str:
    return "[one prompt: no interval]" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"
