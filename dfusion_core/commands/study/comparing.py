"""From a study's rows to its tables: mean gains over the base model, and differences from the baseline, with intervals.

A repetition is a training (a seed), on the same prompts: trainings and prompts are crossed random factors of the
intervals (`evaluation/intervals.py`). Evaluation seeds are the same for every method, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...evaluation.intervals import TRAININGS, of_other_trainings
from ...evaluation.labels import SPLITS
from ...evaluation.measures import CLIP, DIVERSITY, REWARD
from .grid import Study, StudyError

CELLS, PROMPTS = "cells.csv", "prompts.csv"
PARAMETERS = "parameters"  # the column of cells.csv with the digest of what the cell was run with
REWARD_MODEL = "reward_model"  # the column of cells.csv with the reward's identity
QUESTION = f"95 % intervals: would {TRAININGS} gain as much (trainings and prompts are crossed, t)?"


def last_round(prompts: pd.DataFrame) -> pd.DataFrame:
    """The rows of each cell's last round."""
    return prompts[prompts["round"] == prompts.groupby("cell")["round"].transform("last")]


def compared_measures(prompts: pd.DataFrame) -> list[str]:
    """The measures of prompts.csv that are compared: without CLIPScore if it is the reward itself."""
    measures = [name.removesuffix("_gain") for name in map(str, prompts) if name.endswith("_gain")]
    alone = CLIP in prompts and prompts[CLIP].equals(prompts[REWARD])
    return [name for name in measures if name != DIVERSITY and not (alone and name == CLIP)]


def require_one_reward(cells: pd.DataFrame, study: Study) -> None:
    """Raise StudyError if the cells' images were scored by different rewards."""
    if REWARD_MODEL not in cells:  # of an earlier version
        return
    different = cells.dropna(subset=REWARD_MODEL).drop_duplicates(REWARD_MODEL)
    if len(different) > 1:
        first, other = (f"{row['cell']} by {row[REWARD_MODEL]}" for row in different.head(2).to_dict("records"))
        raise StudyError(
            f"{study.name}: cells were scored by different rewards: {first}, {other}.",
            f"Delete the rows of those to be run again from {CELLS}, then 'dfusion study run'.",
        )


def require_own_parameters(cells: pd.DataFrame, study: Study) -> None:
    """Raise StudyError for rows of a cell that had other parameters or prompts than the study gives it now.

    Rows of an earlier version say nothing of that.
    """
    now = {cell.name: cell.digest for cell in study.cells}
    then = dict(cells.set_index("cell")[PARAMETERS].dropna()) if PARAMETERS in cells else {}
    other = [name for name, digest in then.items() if name in now and digest != now[name]]
    if other:
        raise StudyError(
            f"{study.name}: {CELLS} has {', '.join(other[:3])}{f' and {len(other) - 3} more' if other[3:] else ''} "
            "with other parameters or prompts than the study and params.yaml give now.",
            f"Bring those back, delete the rows of these cells from {CELLS}, or name another folder with --out.",
        )


def gains(prompts: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per method, group, split and measure: gain over the base, and the difference from the baseline.

    A group is a level of the factors between the first (the repetition) and the last (the method); "all" is their mean.
    A method's seeds are those that it shares with the baseline. Raises StudyError without a finished pair of cells.
    """
    repeat, *between = study.factors[:-1]
    rows = []
    final = last_round(prompts).assign(group=lambda t: t[between].agg("-".join, axis=1) if between else "all")
    names = list(final.group.unique())
    groups = {name: [name] for name in names} | ({"all": names} if len(names) > 1 else {})
    for split in SPLITS:
        for measure in compared_measures(final):
            if not (final.split == split).any():
                continue
            wide = final[final.split == split].pivot_table(
                index=["group", repeat, study.compared], columns="prompt", values=f"{measure}_gain"
            )
            for method in final[study.compared].unique():
                for label, chosen in groups.items():
                    found = _compared(wide, chosen, method, study)
                    if found:
                        rows.append({"method": method, "group": label, "split": split, "measure": measure} | found)
    if not rows:
        raise StudyError(
            f"{study.name}: no cell of the baseline '{study.baseline}' is finished yet.",
            "Run 'dfusion study run' first.",
        )
    return pd.DataFrame(rows)


def _compared(wide: pd.DataFrame, chosen: list[str], method: str, study: Study) -> dict[str, float]:
    """Gain of the method, and its difference from the baseline, over the chosen groups; {} if a group has none."""
    ours, theirs = [], []
    for group in chosen:
        here = wide[wide.index.get_level_values(0) == group].droplevel(0).dropna(axis=1)
        seeds = [
            seed
            for seed in here.index.get_level_values(0).unique()
            if (seed, method) in here.index and (seed, study.baseline) in here.index
        ]
        if not seeds:
            return {}
        ours.append(here.loc[[(seed, method) for seed in seeds]].to_numpy())
        theirs.append(here.loc[[(seed, study.baseline) for seed in seeds]].to_numpy())
    gain, difference = (
        of_other_trainings(values) for values in (ours, [a - b for a, b in zip(ours, theirs, strict=True)])
    )
    return {
        "seeds": min(len(values) for values in ours),
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def shown(row: Mapping[Any, Any], name: str) -> str:
    """An estimate of a row of ``gains`` with its interval."""
    return f"{row[name]:+.4f} [{row[f'{name}_low']:+.4f}, {row[f'{name}_high']:+.4f}]"


def means(prompts: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Table 1 of the paper: mean of each measure per method and group, with the base model as the first row."""
    _, *between = study.factors[:-1]
    final = last_round(prompts)
    base = prompts[prompts["round"] == "init"].assign(**{study.compared: "base"})
    measures = compared_measures(prompts)
    table = pd.concat([base, final]).groupby([study.compared, *between, "split"], sort=False)[measures].mean()
    return table.round(4).reset_index()
