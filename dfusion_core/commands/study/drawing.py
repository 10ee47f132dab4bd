"""A study's figures: alignment against images seen (the paper's Figures 5, 7 and 11), and gains with intervals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...evaluation.labels import SPLITS, label
from ..figures import new_figure
from .comparing import compared_measures
from .grid import Study


def draw_curves(prompts: pd.DataFrame, cells: pd.DataFrame, study: Study, split: str, file: Path) -> None:
    """Mean of each measure against images seen, one line a method, one column a group; bars are +-1 standard error
    over the repetitions, and lines have a small horizontal offset."""
    repeat, *between = study.factors[:-1]
    some = prompts[prompts.split == split].merge(cells[["cell", "images_per_round"]], on="cell")
    some = some.assign(
        group=some[between].agg("-".join, axis=1) if between else "all",
        seen=some.images_per_round * some["round"].map(lambda name: 0 if name == "init" else int(name[1:]) + 1),
    )
    measures = compared_measures(some)
    groups = list(some.group.unique())
    apart = some.seen.max() / 100
    figure, axes = new_figure(len(measures), len(groups))
    for row, measure in enumerate(measures):
        for column, group in enumerate(groups):
            axis, here = axes[row][column], some[some.group == group]
            for number, (method, lines) in enumerate(here.groupby(study.compared, sort=False)):
                each = lines.groupby(["seen", repeat])[measure].mean().groupby("seen")
                axis.errorbar(
                    each.mean().index + number * apart,
                    each.mean(),
                    yerr=each.sem().fillna(0),
                    label=method,
                    marker="o",
                    ms=3,
                )
            axis.set(title=group, xlabel="images seen", ylabel=label(measure) if column == 0 else "")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(f"{SPLITS[split]}: mean over prompts and seeds")
    figure.savefig(file)


def draw_gains(table: pd.DataFrame, file: Path) -> None:
    """Gain over the base per method with its 95 % interval, one column a group, training and unseen prompts."""
    measures, groups = list(table.measure.unique()), list(table.group.unique())
    methods = list(table.method.unique())
    figure, axes = new_figure(len(measures), len(groups))
    for row, measure in enumerate(measures):
        for column, group in enumerate(groups):
            axis = axes[row][column]
            for shift, split in zip((-0.15, 0.15), SPLITS, strict=True):
                here = table[(table.measure == measure) & (table.group == group) & (table.split == split)]
                place = [methods.index(method) + shift for method in here.method]
                error = [here.gain - here.gain_low, here.gain_high - here.gain]
                axis.errorbar(here.gain, place, xerr=error, fmt="o", ms=4, label=SPLITS[split])
            axis.axvline(0, color="grey", lw=0.8)
            axis.set(title=group, xlabel=f"gain in {label(measure)}", ylim=(len(methods) - 0.5, -0.5))
            axis.set_yticks(range(len(methods)), methods if column == 0 else [""] * len(methods))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(file)
