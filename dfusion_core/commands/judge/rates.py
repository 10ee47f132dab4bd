"""Preference rates with exact intervals, and agreement of labellers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ...labels.answers import SKIP, Answer
from ...labels.consistency import preferred

A, B, TIE = "A", "B", "tie"
LEVEL = 0.95
COLUMNS = ("group", "name", "answers", "a", "b", "ties", "rate", "low", "high")


def votes(pairs: pd.DataFrame, answers: Sequence[Answer]) -> pd.DataFrame:
    """The first answer of each labeller about each pair: split, prompt, labeller, pair, vote (A, B or tie).

    Repetitions measure consistency and are not votes.
    """
    different = pairs[pairs.a != pairs.b].to_dict("index")
    sides = {frozenset((pair["a"], pair["b"])): (number, pair) for number, pair in different.items()}
    rows: dict[tuple[str, frozenset[str]], tuple[Any, ...]] = {}
    for one in answers:
        if one.pair in sides and one.answer != SKIP:
            number, pair = sides[one.pair]
            vote = {pair["a"]: A, pair["b"]: B}.get(preferred(one), TIE)
            rows.setdefault((one.labeller, one.pair), (pair["split"], pair["prompt"], one.labeller, number, vote))
    return pd.DataFrame(list(rows.values()), columns=["split", "prompt", "labeller", "pair", "vote"])


def rates(found: pd.DataFrame, template: str) -> pd.DataFrame:
    """Rows of COLUMNS: overall, by template and split, by labeller.

    rate: share of the answers that are no tie in which B is preferred, with the exact interval of Clopper and Pearson.
    It assumes independent answers; those of one labeller about one prompt are not quite independent.
    """
    rows = [_rate("all", "all", found)]
    rows += [_rate("template", f"{template}, {split}", part) for split, part in found.groupby("split", sort=False)]
    rows += [_rate("labeller", str(name), part) for name, part in found.groupby("labeller", sort=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def agreement(found: pd.DataFrame) -> dict[str, Any]:
    """Cohen's kappa between each two labellers over the pairs that both judged, and their mean.

    None if no two labellers share a pair, or if all answers are the same.
    """
    from sklearn.metrics import cohen_kappa_score

    table = found.pivot(index="pair", columns="labeller", values="vote")
    each = {}
    for one, other in combinations(table.columns, 2):
        both = table[[one, other]].dropna()
        if len(both) and both.to_numpy().ravel().tolist().count(both.iloc[0, 0]) < both.size:
            each[f"{one} and {other}"] = float(cohen_kappa_score(both[one], both[other], labels=[A, B, TIE]))
    return {"kappa": float(np.mean(list(each.values()))) if each else None, "pairs_of_labellers": each}


def _rate(group: str, name: str, part: pd.DataFrame) -> tuple[Any, ...]:
    counts = part.vote.value_counts()
    a, b, ties = (int(counts.get(vote, 0)) for vote in (A, B, TIE))
    if not a + b:
        return group, name, len(part), a, b, ties, None, None, None
    interval = binomtest(b, a + b).proportion_ci(LEVEL, method="exact")
    return group, name, len(part), a, b, ties, b / (a + b), float(interval.low), float(interval.high)
