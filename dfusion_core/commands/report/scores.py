"""Numbers of the run: results, curves, pairs and training, with the meaning of each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...evaluation.labels import SPLITS, shown
from ...evaluation.results import QUESTION
from ...evaluation.tables import alignment, numbered, table_cells
from ...params.rounds import INIT
from ...store.json_files import read_json
from ...store.paths import pairs_result
from ...store.reading import read_stage
from ..figures import line_chart
from . import html
from .run import Run
from .terms import MEASURES, PAIRS, UPDATES, name

OWN = "a reward of the project's own, one of those that are added up to what training raises"
CURVES = ("margin", "winner_drift", "loser_drift")


def results(run: Run) -> str:
    """Base and rounds, a table per split."""
    parts = [
        html.heading(
            "Results",
            "Images of fixed prompts and seeds, the same in every row. Below each mean stands "
            "the gain over the base model's images of the same prompt and seed, and its interval; in "
            "the base model's row the interval of the mean.",
        )
    ]
    names = shown(run.results.measures, run.results.reward)
    parts.append(html.meanings((label, MEASURES.get(measure, OWN)) for measure, label in names.items()))
    for split in run.results.rounds[INIT]:
        columns, rows = table_cells(run.results, split)
        parts.append(f"<h3>{html.text(SPLITS[split].capitalize())}</h3>")
        parts.append(html.table(columns, ([one.replace(" [", "\n[") for one in row] for row in rows)))
    return "".join(parts) + html.paragraph(f"{QUESTION} Reward: {run.reward}.")


def curves(run: Run) -> str:
    """Each measure against images seen: the paper's Figure 5."""
    data = alignment(run.results, run.images_seen)
    parts = [
        html.heading(
            "Alignment against images seen",
            "The paper's Figure 5, with 95 % intervals of the mean. "
            "Images seen are those sampled for training up to the round.",
        )
    ]
    charts = []
    for measure, label in shown(run.results.measures, run.results.reward).items():
        columns = {split: f"{split}_{measure}" for split in SPLITS if f"{split}_{measure}" in data}
        lines = {
            SPLITS[split]: {
                "x": data.images,
                "y": data[column],
                "low": data[f"{column}_low"],
                "high": data[f"{column}_high"],
            }
            for split, column in columns.items()
        }
        charts.append(html.chart(line_chart(lines, "images seen", label)))
    return "".join(parts) + f'<div class="wrap">{"".join(charts)}</div>'


def pairs_table(run: Run) -> str:
    """The figures of the pairs with a row per quantity; all rounds below if not all are shown."""
    found = {round: read_json(pairs_result(round)) for round in run.rounds if pairs_result(round).is_file()}
    return html.heading("Pairs, round by round", "Means over the pairs that were made for training.") + _terms(
        PAIRS, found, [round for round in run.shown if round in found]
    )


def learning(run: Run) -> str:
    """Distance of the policy from the one before the round, by update and by timestep."""
    tables = {round: read_stage("train", round).table("updates") for round in run.rounds}
    all_updates = pd.concat([table.assign(round=round) for round, table in tables.items()], ignore_index=True)
    numbers = numbered(run.previous, {round: len(table) for round, table in tables.items()})
    number = pd.Series([one for part in numbers for one in part], dtype=float)
    chart = line_chart(
        {name(column): {"x": number, "y": all_updates[column]} for column in CURVES}, "optimizer step", "mean log-ratio"
    )
    last = {round: table.iloc[-1].map(_small).to_dict() for round, table in tables.items() if len(table)}
    all_updates.insert(0, "round", all_updates.pop("round"))
    return "".join(
        [
            html.heading(
                "Learning",
                "How far the policy has moved from the one before the round. The last optimizer step of each round:",
            ),
            _terms(UPDATES, last, [round for round in run.shown if round in last]),
            html.chart(chart),
            _by_timestep(run.rounds[-1]),
            html.folded(f"All {len(all_updates)} optimizer steps", html.frame(all_updates.map(_small))),
        ]
    )


def _by_timestep(round: str) -> str:
    """The last update of a round, timestep by timestep."""
    table = read_stage("train", round).table("timesteps")
    table = table[table["update"] == table["update"].max()].drop(columns="update")
    return (
        f"<h3>By timestep, last optimizer step of {html.text(round)}</h3>"
        + html.paragraph(f"t counts down from T, the noisiest step, to 1. gradient share: {UPDATES['gradient_share']}.")
        + html.frame(table.map(_small))
    )


def _terms(meanings: dict[str, str], found: dict[str, dict[Any, Any]], rounds: Sequence[str]) -> str:
    """A row for each quantity that a round has, a column for each of ``rounds``; the others are folded."""
    keys = [key for key in meanings if any(key in values for values in found.values())]
    rows = [(name(key), meanings[key], [found[round].get(key) for round in rounds]) for key in keys]
    table = html.terms(rounds, rows)
    if len(found) > len(rounds):
        every = ([round, *map(values.get, keys)] for round, values in found.items())
        table += html.folded(f"All {len(found)} rounds", html.table(["round", *map(name, keys)], every))
    return table


def _small(value: Any) -> Any:
    """Log-ratios are small: three digits, not four decimals."""
    return html.Number(f"{value:.3g}") if isinstance(value, float) else value
