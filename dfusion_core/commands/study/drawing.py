"""A study's figures: alignment against images seen (the paper's Figures 5, 7 and 11), and gains with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...evaluation.results import MEASURES, SPLITS
from .grid import Study, StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, ROW = 3.6, 2.8  # inches


def _figure(rows: int, columns: int) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StudyError("study: the figures need matplotlib.", "pip install 'dfusion[study]'.") from None
    figure = Figure(figsize=(COLUMN * columns + 1.6, ROW * rows), layout="constrained", dpi=110)
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_curves(prompts: pd.DataFrame, cells: pd.DataFrame, study: Study, split: str, file: Path) -> None:
    """Mean of each measure against images seen, one line a method, one column a group; bars are +-1 standard error
    over the repetitions, and lines stand a little apart so that they can be told from each other."""
    repeat, *between = study.factors[:-1]
    some = prompts[prompts.split == split].merge(cells[["cell", "images_per_round"]], on="cell")
    some = some.assign(
        group=some[between].agg("-".join, axis=1) if between else "all",
        seen=some.images_per_round * some["round"].map(lambda name: 0 if name == "init" else int(name[1:]) + 1))
    measures = [name for name in MEASURES if name in some]
    groups = list(some.group.unique())
    apart = some.seen.max() / 100
    figure, axes = _figure(len(measures), len(groups))
    for row, measure in enumerate(measures):
        for column, group in enumerate(groups):
            axis, here = axes[row][column], some[some.group == group]
            for number, (method, lines) in enumerate(here.groupby(study.compared, sort=False)):
                each = lines.groupby(["seen", repeat])[measure].mean().groupby("seen")
                axis.errorbar(each.mean().index + number * apart, each.mean(), yerr=each.sem().fillna(0), label=method,
                              marker="o", ms=3)
            axis.set(title=group, xlabel="images seen", ylabel=MEASURES[measure] if column == 0 else "")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(f"{SPLITS[split]}: mean over prompts and seeds")
    figure.savefig(file)


def draw_gains(table: pd.DataFrame, file: Path) -> None:
    """Gain over the base per method with its 95 % interval, one column a group, training and unseen prompts."""
    measures, groups = list(table.measure.unique()), list(table.group.unique())
    methods = list(table.method.unique())
    figure, axes = _figure(len(measures), len(groups))
    for row, measure in enumerate(measures):
        for column, group in enumerate(groups):
            axis = axes[row][column]
            for shift, split in zip((-0.15, 0.15), SPLITS, strict=True):
                here = table[(table.measure == measure) & (table.group == group) & (table.split == split)]
                place = [methods.index(method) + shift for method in here.method]
                error = [here.gain - here.gain_low, here.gain_high - here.gain]
                axis.errorbar(here.gain, place, xerr=error, fmt="o", ms=4, label=SPLITS[split])
            axis.axvline(0, color="grey", lw=0.8)
            axis.set(title=group, xlabel=f"gain in {MEASURES[measure]}", ylim=(len(methods) - 0.5, -0.5))
            axis.set_yticks(range(len(methods)), methods if column == 0 else [""] * len(methods))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(file)
