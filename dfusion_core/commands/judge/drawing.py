"""The paper's Figure 6: preference rates as bars, with what was judged below them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from ...store.atomic import write_bytes

COLOURS = ("#9aa5b1", "#0b57d0", "#d5d9de")


def draw_rates(file: Path, table: pd.DataFrame, names: tuple[str, str]) -> None:
    """Write a PNG: shares of answers for A, B and neither, by template and overall, with exact intervals."""
    from matplotlib.figure import Figure

    rows = table[(table.group != "labeller") & (table.answers > 0)].to_dict("records")
    figure = Figure(figsize=(2.2 + 1.9 * len(rows), 3.6), layout="constrained", dpi=110)
    axes = figure.subplots()
    for side, (name, colour) in enumerate(zip((*names, "no difference"), COLOURS, strict=True)):
        values = [row[("a", "b", "ties")[side]] / row["answers"] for row in rows]
        errors = _errors(rows, side)
        axes.bar(
            [n + 0.27 * (side - 1) for n in range(len(rows))],
            values,
            0.25,
            label=name,
            color=colour,
            yerr=errors,
            capsize=3,
            error_kw={"elinewidth": 1},
        )
    axes.set_xticks(range(len(rows)), [f"{row['name']}\n{row['answers']} answers" for row in rows])
    axes.set(ylim=(0, 1), ylabel="preference rate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper center", fontsize="small")
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(file, data.getvalue())


def _errors(rows: list[dict[Any, Any]], side: int) -> list[list[float]]:
    """Distances down and up to the exact interval of each share."""
    from scipy.stats import binomtest

    down, up = [], []
    for row in rows:
        count, total = row[("a", "b", "ties")[side]], row["answers"]
        interval = binomtest(count, total).proportion_ci(method="exact")
        down.append(count / total - float(interval.low))
        up.append(float(interval.high) - count / total)
    return [down, up]
